//! Unreachable servers, and forbidden destinations.

use crate::clients::{connect_from, reset};
use crate::config::Config;
use crate::gateway::Gateway;
use crate::hello::Hello;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::traffic::pass;
use crate::wait::{PATIENCE, wait_until};
use serde_json::Value;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

crate::trials! {
    both families:
        refused_upstream_resets_the_client,
        unreachable_upstream_resets_the_client,
        silent_upstream_ends_at_connect_timeout,
        client_leaving_during_connect_is_recorded,
        connection_to_the_gateway_is_refused;
    once:
}

/// With a connect timeout longer than any test waits, so that reported errors were not timeouts.
fn patient() -> Config {
    Config { gateway: "connect_timeout = \"60s\"".into(), ..Config::default() }
}

/// Alpha dials an unreachable server, and must be reset.
fn expect_failure(lab: &Lab, gateway: &Gateway, to: SocketAddr, first: &[u8], outcome: &str) -> Value {
    let client = lab.expect_reset(Tenant::Alpha, to, first);
    let flow = gateway.expect_outcome(client, outcome);
    assert_eq!((&flow["dialled"], &flow["verdict"]), (&to.to_string().into(), &"allow".into()), "{flow:#}");
    let source: SocketAddr = flow["source"].as_str().unwrap().parse().unwrap();
    assert!(Tenant::Alpha.owns_source(source.ip()), "{flow:#}");
    flow
}

fn refused_upstream_resets_the_client(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&patient());
    let hello = Hello::to("allowed.example.org").record();
    let request = b"GET / HTTP/1.1\r\nHost: allowed.example.org\r\n\r\n";
    expect_failure(&lab, &gateway, Host::Raw.at(family, 7000), b"", "upstream_refused");
    expect_failure(&lab, &gateway, Host::Raw.at(family, 7000), b"some bytes", "upstream_refused");
    expect_failure(&lab, &gateway, Host::Named.at(family, 443), &hello, "upstream_refused");
    expect_failure(&lab, &gateway, Host::Named.at(family, 80), request, "upstream_refused");
    // The port was released: now the server is there.
    let server = lab.listen(Host::Raw, family, 7000);
    let client = lab.connect(Tenant::Alpha, server.address());
    pass(&client, &server.accept(), b"hello");
}

fn unreachable_upstream_resets_the_client(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&patient());
    let to = Host::Unreachable.at(family, 7000);
    // A lab has no latency: the ICMP error arrives while connect(2) still holds the socket, and Linux then handles it
    // only when it repeats the SYN a second later (`tcp_v6_err`, `sock_owned_by_user`).
    expect_failure(&lab, &gateway, to, b"", "upstream_unreachable");
    // The same by the gateway's own routing table.
    let length = if family == Family::V4 { 32 } else { 128 };
    for (kind, detail) in [
        ("unreachable", "no route to the server"),
        ("prohibit", "prohibits packets"),
        ("blackhole", "discards packets"),
    ] {
        let route = format!("{kind} {}/{length}", to.ip());
        lab.gateway.ip(&format!("route add {route}"));
        let flow = expect_failure(&lab, &gateway, to, b"", "dial_failed");
        assert!(flow["detail"].as_str().unwrap().contains(detail), "{kind}: {flow:#}");
        lab.gateway.ip(&format!("route del {route}"));
    }
    let first = format!("cannot dial: {to} from ");
    wait_until("it to be logged", || gateway.stderr().contains(&first));
}

fn silent_upstream_ends_at_connect_timeout(family: Family) {
    let lab = Lab::new();
    let gateway =
        lab.start_gateway(&Config { gateway: "connect_timeout = \"300ms\"".into(), ..Config::default() });
    let start = Instant::now();
    expect_failure(&lab, &gateway, Host::Silent.at(family, 7000), b"", "connect_timeout");
    let default = Duration::from_secs(10);
    assert!(start.elapsed() < default, "given up only after {:?}", start.elapsed());
}

fn client_leaving_during_connect_is_recorded(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&patient());
    let client = lab.connect(Tenant::Alpha, Host::Silent.at(family, 7000));
    let local = client.local_addr().unwrap();
    gateway.wait_for_metric("egret_flows_active", &[("tenant", "alpha")], |active| active == 1);
    reset(client);
    gateway.expect_outcome(local, "client_left");
    gateway.wait_for_metric("egret_pool_ports", &[("pool", "alpha"), ("state", "live")], |live| live == 0);
}

fn connection_to_the_gateway_is_refused(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config {
        alpha_rules: "  [[tenant.allow]]\n  cidrs = [\"0.0.0.0/0\", \"::/0\"]\n  inspect = \"none\"".into(),
        ..Config::default()
    });
    for ip in [family.gateway(), family.pool()] {
        let client = lab.expect_reset(Tenant::Alpha, SocketAddr::new(ip, 15001), b"");
        gateway.expect_outcome(client, "destination_local");
        // Without a listener, the kernel itself refuses.
        let refused = lab.try_connect(Tenant::Alpha, SocketAddr::new(ip, 443), PATIENCE).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{ip}: {refused}: {:?}", gateway.flows());
    }
    let loopback: IpAddr =
        if family == Family::V4 { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    let to = SocketAddr::new(loopback, 15001);
    // The packet rules keep local clients away from the listener.
    let refused = lab.gateway.run(|| connect_from(loopback, to, PATIENCE)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{refused}");
    assert_eq!(gateway.flows().len(), 2, "a connection looped");
}
