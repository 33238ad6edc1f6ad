//! A full pool is reported at once, and serves again as soon as Linux frees a port.

use crate::clients::{curl, read_all, reset, s_client};
use crate::config::Config;
use crate::flows::{End, Flow};
use crate::gateway::Gateway;
use crate::hello::Hello;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::namespace::text;
use crate::servers::Server;
use crate::tests_reload::reload;
use crate::wait::{wait_until, wait_within};
use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

crate::trials! {
    both families:
        sixteen_ports_exhaust_and_recover,
        two_addresses_exhaust_and_recover,
        exhaustion_is_answered_in_clients_protocol,
        reload_and_command_drain_an_address;
    once:
        ports_without_timestamps_are_held_minute,
        reset_after_both_fins_holds_port
}

const ONE_BY_SIXTEEN: (&str, &str) = ("[\"203.0.113.17\", \"2001:db8:100::1\"]", "ports = \"40000-40015\"");
const TWO_BY_EIGHT: (&str, &str) =
    ("[\"203.0.113.16/31\", \"2001:db8:100::/127\"]", "ports = \"40000-40007\"\nselect = \"least-used\"");
fn config((addresses, pool): (&str, &str)) -> Config {
    Config { alpha_addresses: addresses.into(), alpha_pool: pool.into(), ..Config::default() }
}

fn sixteen_ports_exhaust_and_recover(family: Family) {
    run_full(family, config(ONE_BY_SIXTEEN), 1);
}

fn two_addresses_exhaust_and_recover(family: Family) {
    run_full(family, config(TWO_BY_EIGHT), 2);
}

fn run_full(family: Family, config: Config, addresses: usize) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&config);
    let server = Server::raw(&lab, family, 7000);
    let mut flows: Vec<_> = (0..16).map(|_| Flow::open(&lab, Tenant::Alpha, &server)).collect();
    let sources: HashSet<SocketAddr> = flows.iter().map(Flow::source).collect();
    assert_eq!(sources.len(), 16, "{sources:?}");
    for ip in sources.iter().map(SocketAddr::ip).collect::<HashSet<_>>() {
        let ip = ip.to_string();
        let ratio = gateway.gauges("egret_pool_port_utilization_ratio", &[("source", &ip)]);
        assert_eq!(ratio, [1.0], "{ip}");
    }
    assert_eq!(sources.iter().map(SocketAddr::ip).collect::<HashSet<_>>().len(), addresses);

    for how in [End::ALL, End::ALL].concat() {
        refused_at_once(&lab, &gateway, &server);
        flows.remove(0).end(how);
        let again = Flow::open_soon(&lab, Tenant::Alpha, &server);
        again.assert_alive();
        assert!(sources.contains(&again.source()), "after {how:?}: {}", again.source());
        flows.push(again);
    }
    assert_eq!(flows.iter().map(Flow::source).collect::<HashSet<_>>(), sources);
    // Every port is free towards other destinations.
    let other = Server::raw(&lab, family, 7001);
    let elsewhere: Vec<_> = (0..16).map(|_| Flow::open(&lab, Tenant::Alpha, &other)).collect();
    for flow in flows.iter().chain(&elsewhere) {
        flow.assert_alive();
    }
    drop((flows, elsewhere));
    gateway.wait_for_metric("egret_pool_ports", &[("pool", "alpha")], |busy| busy == 0);
    assert_eq!(gateway.metric("egret_port_collisions_total", &[]), 0);
    assert_eq!(gateway.metric("egret_ledger_kernel_difference", &[]), 0);
}

/// Asserts that one more flow is reset, long before a port that Linux holds is free, without a trace at the server.
fn refused_at_once(lab: &Lab, gateway: &Gateway<'_>, server: &Server) {
    let refused = lab.expect_reset(Tenant::Alpha, server.address(), b"");
    let flow = gateway.expect_outcome(refused, "ports_exhausted");
    assert!(flow["source"].is_null(), "{flow:#}");
    server.assert_untouched();
}

fn exhaustion_is_answered_in_clients_protocol(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&config(TWO_BY_EIGHT));
    let ca = lab.run.path().join("ca.pem");
    let certified = rcgen::generate_simple_self_signed(["allowed.example.org".to_owned()]).unwrap();
    fs::write(&ca, certified.cert.pem()).unwrap();
    let hello = Hello::to("allowed.example.org").record();
    let request = b"GET / HTTP/1.1\r\nHost: allowed.example.org\r\n\r\n".to_vec();
    for (port, first) in [(443, hello), (80, request)] {
        let server = lab.listen(Host::Named, family, port);
        let live: Vec<_> = (0..16).map(|_| named_flow(&lab, &server, &first)).collect();
        if port == 443 {
            let said = s_client(&lab, Tenant::Alpha, server.address(), Some("allowed.example.org"), &ca);
            assert_ne!(said.code, 0, "{}", said.text);
            assert!(said.text.contains("alert number 80"), "{}", said.text);
        } else {
            let url = "http://allowed.example.org/";
            let said = curl(&lab, Tenant::Alpha, family, url, Host::Named, &ca);
            assert!(said.text.starts_with("HTTP/1.1 503 "), "{}", said.text);
            assert!(said.text.contains("ports_exhausted"), "{}", said.text);
        }
        server.assert_untouched();
        drop(live);
    }
    let flows = gateway.wait_for_flows(34);
    let refused: Vec<_> = flows.iter().filter(|flow| flow["outcome"] == "ports_exhausted").collect();
    assert_eq!(refused.len(), 2);
    for flow in refused {
        assert_eq!(flow["hostname"], "allowed.example.org", "{flow:#}");
        assert!(flow["source"].is_null(), "{flow:#}");
    }
    let labels = [("pool", "alpha"), ("tenant", "alpha")];
    assert_eq!(gateway.metric("egret_port_allocation_failures_total", &labels), 2);
}

fn named_flow(lab: &Lab, server: &Server, first: &[u8]) -> (TcpStream, TcpStream) {
    let mut client = lab.connect(Tenant::Alpha, server.address());
    client.write_all(first).unwrap();
    (client, server.accept())
}

fn reload_and_command_drain_an_address(family: Family) {
    let lab = Lab::new();
    let gateway_keys = format!("admin = \"unix:{}\"", lab.control_socket());
    let config = |drain: &str| Config { gateway: gateway_keys.clone(), ..config((TWO_BY_EIGHT.0, drain)) };
    let drained: IpAddr = match family {
        Family::V4 => [203, 0, 113, 16].into(),
        Family::V6 => [0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 0].into(),
    };
    let all_in_use = TWO_BY_EIGHT.1;
    let one_drains = format!("{all_in_use}\ndrain = [\"{drained}\"]");
    let gateway = lab.start_gateway(&config(all_in_use));
    let server = Server::raw(&lab, family, 7000);
    let source = drained.to_string();
    let is = |state: &str| {
        gateway.metric("egret_pool_source_state", &[("source", &source), ("state", state)]) == 1
    };
    let live = |wanted: u64| {
        let labels = [("source", &*source), ("state", "live")];
        gateway.wait_for_metric("egret_pool_ports", &labels, |live| live == wanted);
    };
    let order = |order: &str| {
        let output = gateway.egret(&["ports", order, &source]);
        assert!(output.status.success(), "{}", text(&output));
    };

    for by_order in [false, true] {
        let before: Vec<_> = (0..4).map(|_| Flow::open(&lab, Tenant::Alpha, &server)).collect();
        assert!(is("available") && !is("draining"));
        live(2);
        if by_order {
            order("drain");
        } else {
            reload(&gateway, &config(&one_drains));
        }
        assert!(is("draining") && !is("available"));
        // Its free ports are not used, even when the other address is full.
        let after: Vec<_> = (0..6).map(|_| Flow::open(&lab, Tenant::Alpha, &server)).collect();
        assert!(after.iter().all(|flow| flow.source().ip() != drained));
        refused_at_once(&lab, &gateway, &server);
        // Live flows may finish, and the gauge shows when the last has.
        before.iter().for_each(Flow::assert_alive);
        live(2);
        let (on_drained, others): (Vec<_>, Vec<_>) =
            before.into_iter().partition(|flow| flow.source().ip() == drained);
        for (flow, how) in on_drained.into_iter().zip([End::ClientReset, End::ServerReset]) {
            flow.end(how);
        }
        live(0);
        refused_at_once(&lab, &gateway, &server);
        if by_order {
            order("undrain");
        } else {
            reload(&gateway, &config(all_in_use));
        }
        assert!(is("available") && !is("draining"));
        let again: Vec<_> = (0..8).map(|_| Flow::open(&lab, Tenant::Alpha, &server)).collect();
        assert!(again.iter().all(|flow| flow.source().ip() == drained));
        drop((others, after, again));
        gateway.wait_for_metric("egret_pool_ports", &[("pool", "alpha")], |busy| busy == 0);
    }
}

fn ports_without_timestamps_are_held_minute() {
    let lab = Lab::new();
    lab.server.sysctl("net/ipv4/tcp_timestamps", "0");
    let gateway = lab.start_gateway(&config(ONE_BY_SIXTEEN));
    let server = Server::raw(&lab, Family::V4, 7000);
    let mut flows: Vec<_> = (0..16).map(|_| Flow::open(&lab, Tenant::Alpha, &server)).collect();
    let held = || gateway.metric("egret_pool_ports", &[("source", "203.0.113.17"), ("state", "held")]);
    let start = Instant::now();
    for flow in flows.drain(..8) {
        flow.end(End::ClientFirst);
    }
    gateway.wait_for_flows(8);
    assert_eq!(held(), 8);
    // After the other ends the gateway has no `TIME_WAIT`, so those ports are free at once.
    for how in [End::ServerFirst, End::ClientReset, End::ServerReset] {
        refused_at_once(&lab, &gateway, &server);
        flows.remove(0).end(how);
        flows.push(Flow::open_soon(&lab, Tenant::Alpha, &server));
    }
    refused_at_once(&lab, &gateway, &server);
    assert_eq!(held(), 8);
    assert_eq!(in_time_wait(&lab), 8);
    let busy = gateway.gauges("egret_pool_port_utilization_ratio", &[("source", "203.0.113.17")]);
    assert_eq!(busy, [1.0]);

    wait_within(Duration::from_secs(75), "the held ports to come back", || match held() {
        0 => Ok(()),
        held => Err(format!("{held} are held")),
    });
    assert!(start.elapsed() >= Duration::from_secs(60), "after {:?}", start.elapsed());
    flows.extend((0..8).map(|_| Flow::open(&lab, Tenant::Alpha, &server)));
    refused_at_once(&lab, &gateway, &server);
    assert_eq!(gateway.metric("egret_port_collisions_total", &[]), 0);
    assert_eq!(gateway.metric("egret_ledger_kernel_difference", &[]), 0);
}

/// The server's FIN comes last, and the client resets before it arrives: that does not end the `TIME_WAIT`.
fn reset_after_both_fins_holds_port() {
    let lab = Lab::new();
    lab.server.sysctl("net/ipv4/tcp_timestamps", "0");
    let gateway = lab.start_gateway(&config((ONE_BY_SIXTEEN.0, "ports = \"40000-40001\"")));
    let server = Server::raw(&lab, Family::V4, 7000);
    let Flow { client, mut upstream } = Flow::open(&lab, Tenant::Alpha, &server);
    let local = client.local_addr().unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&upstream), b"");
    gateway.while_stopped(|| {
        upstream.write_all(b"the answer").unwrap();
        drop(upstream);
        wait_until("the gateway's kernel to have the server's end", || in_time_wait(&lab) == 1);
        reset(client);
        let client_leg = format!("ss -Htn dst {} dport = {}", local.ip(), local.port());
        wait_until("the client's reset to arrive", || lab.gateway.shell(&client_leg).is_empty());
    });
    gateway.expect_outcome(local, "client_reset");
    let held = || gateway.metric("egret_pool_ports", &[("source", "203.0.113.17"), ("state", "held")]);
    assert_eq!(held(), 1);
    // A server's reset leaves no state, even after the client's FIN.
    let Flow { client, upstream } = Flow::open(&lab, Tenant::Alpha, &server);
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&upstream), b"");
    reset(upstream);
    gateway.expect_outcome(client.local_addr().unwrap(), "upstream_reset");
    assert_eq!(held(), 1);
    let _other = Flow::open(&lab, Tenant::Alpha, &server);
    refused_at_once(&lab, &gateway, &server);
    assert_eq!(in_time_wait(&lab), 1);
    assert_eq!(gateway.metric("egret_port_collisions_total", &[]), 0);
}

/// Number of the pool's connections that are still in the gateway's kernel.
fn in_time_wait(lab: &Lab) -> usize {
    lab.gateway.shell("ss -Htn state time-wait src 203.0.113.17").lines().count()
}
