//! A hostile tenant beside a good one: whatever it exhausts, its neighbour is served.

use crate::clients::{expect_alert, expect_reset, read_all, reset};
use crate::config::Config;
use crate::flows::Flow;
use crate::hello::Hello;
use crate::lab::{Family, Host, Lab, Tenant, in_filter};
use crate::requests::{OK, expect, expect_denial_after, expect_record};
use crate::servers::Server;
use crate::traffic::{receive, send};
use crate::wait::wait_until;
use std::io::Write;
use std::net::Shutdown;
use std::thread;

crate::trials! {
    both families:
        refused_flows_occupy_their_tenants_slots,
        last_slots_are_for_other_tenants,
        undelivered_bytes_occupy_their_tenants_slot,
        server_that_never_reads_is_abandoned;
    once:
        endless_later_heads_take_inspection_places
}

/// The alert of a denial: `access_denied`.
const ACCESS_DENIED: u8 = 49;

fn limited(flows: u32) -> Config {
    Config { alpha_tenant: format!("limits = {{ flows = {flows} }}"), ..Config::default() }
}

fn refused_flows_occupy_their_tenants_slots(family: Family) {
    let lab = Lab::new();
    // One worker, which accepts them one after the other.
    let gateway = lab.start_gateway(&Config { workers: 1, ..limited(3) });
    let to = Host::Named.at(family, 443);
    let denied = Hello::to("denied.example.org").record();
    let mut refused: Vec<_> =
        gateway.while_stopped(|| (0..4).map(|_| lab.send(Tenant::Alpha, to, &denied)).collect());
    let beyond = refused.remove(3);
    // The others read their alert but do not close.
    for client in &refused {
        expect_alert(client, ACCESS_DENIED);
    }
    assert_eq!(expect_reset(&beyond), b"");
    gateway.expect_outcome(beyond.local_addr().unwrap(), "tenant_flow_limit");
    let server = Server::raw(&lab, family, 7000);
    Flow::open(&lab, Tenant::Beta, &server).assert_alive();
    drop(refused);
    Flow::open_soon(&lab, Tenant::Alpha, &server).assert_alive();
}

fn last_slots_are_for_other_tenants(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config { gateway: "max_flows = 16".into(), ..Config::default() });
    let server = Server::raw(&lab, family, 7000);
    let hostile: Vec<_> = (0..14).map(|_| Flow::open(&lab, Tenant::Alpha, &server)).collect();
    for _ in 0..5 {
        let refused = lab.expect_reset(Tenant::Alpha, server.address(), b"");
        let flow = gateway.expect_outcome(refused, "tenant_flow_limit");
        assert!(flow["detail"].as_str().unwrap().contains("nearly full"), "{flow:#}");
    }
    let good = [(); 2].map(|()| Flow::open(&lab, Tenant::Beta, &server));
    for flow in hostile.iter().chain(&good) {
        flow.assert_alive();
    }
}

/// More than a small window, and less than the gateway's send buffer.
const MUCH: usize = 32 * 1024;
const SMALL: &str = "8192 8192 8192";

fn undelivered_bytes_occupy_their_tenants_slot(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&limited(1));
    lab.client.sysctl("net/ipv4/tcp_rmem", SMALL);
    let server = Server::raw(&lab, family, 7000);
    let Flow { client, upstream } = Flow::open(&lab, Tenant::Alpha, &server);
    let local = client.local_addr().unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&upstream), b"");
    thread::scope(|scope| {
        scope.spawn(|| {
            send(&upstream, MUCH);
            upstream.shutdown(Shutdown::Write).unwrap();
        });
        // The gateway has received all of it, and queued its FIN after it.
        let behind = || {
            let filter = format!("ss -Htn state last-ack dst {local}");
            !lab.gateway.shell(&filter).is_empty()
        };
        wait_until("the gateway to have the whole answer", behind);
        let refused = lab.expect_reset(Tenant::Alpha, server.address(), b"");
        gateway.expect_outcome(refused, "tenant_flow_limit");
        assert!(gateway.flows().iter().all(|flow| flow["outcome"] != "closed"), "it is not over");
        Flow::open(&lab, Tenant::Beta, &server).assert_alive();
        receive(&client, MUCH);
        assert_eq!(read_all(&client), b"");
    });
    gateway.expect_outcome(local, "closed");
    Flow::open_soon(&lab, Tenant::Alpha, &server).assert_alive();
}

fn server_that_never_reads_is_abandoned(family: Family) {
    let lab = Lab::new();
    let config = Config { gateway: "half_open_timeout = \"1s\"".into(), ..limited(1) };
    let gateway = lab.start_gateway(&config);
    lab.server.sysctl("net/ipv4/tcp_rmem", SMALL);
    let server = Server::raw(&lab, family, 7000);
    let Flow { client, upstream } = Flow::open(&lab, Tenant::Alpha, &server);
    let (local, source) = (client.local_addr().unwrap(), upstream.peer_addr().unwrap());
    send(&client, MUCH);
    upstream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&client), b"");
    client.shutdown(Shutdown::Write).unwrap();
    gateway.expect_outcome(local, "half_open_timeout");
    // Nothing of it is left in the kernel, and its port is free.
    let left = || lab.gateway.shell(&format!("ss -Htn src {}", in_filter(source.ip()))).lines().count();
    wait_until("the kernel to have nothing left of it", || left() == 0);
    gateway.wait_for_metric("egret_pool_ports", &[("pool", "alpha")], |busy| busy == 0);
    reset(upstream);
    Flow::open_soon(&lab, Tenant::Alpha, &server).assert_alive();
    assert_eq!(gateway.metric("egret_port_collisions_total", &[]), 0);
}

fn endless_later_heads_take_inspection_places() {
    let lab = Lab::new();
    // One worker, which reads what was sent first first.
    let inspect = "deadline = \"60s\"\nmax_pending = 1".to_owned();
    let gateway = lab.start_gateway(&Config { workers: 1, inspect, ..Config::default() });
    let server = lab.listen(Host::Named, Family::V4, 80);
    let asked = |tenant, name: &str| {
        let head = format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n");
        let client = lab.send(tenant, server.address(), head.as_bytes());
        let mut upstream = server.accept();
        expect(&upstream, &head);
        upstream.write_all(OK.as_bytes()).unwrap();
        expect(&client, OK);
        (client, upstream)
    };
    let (mut first, upstream) = asked(Tenant::Alpha, "allowed.example.org");
    let (mut second, _upstream) = asked(Tenant::Alpha, "allowed.example.org");
    let (mut neighbour, of_neighbour) = asked(Tenant::Beta, "beta.example.org");
    for client in [&mut first, &mut second, &mut neighbour] {
        client.write_all(b"GET /later HTTP/1.1\r\n").unwrap();
    }
    expect_denial_after(&second, "", "inspection_busy");
    let local = second.local_addr().unwrap();
    drop(second);
    expect_record(&gateway, local, "inspection_busy", 1);
    for (client, upstream, name) in
        [(&mut first, &upstream, "allowed.example.org"), (&mut neighbour, &of_neighbour, "beta.example.org")]
    {
        client.write_all(format!("Host: {name}\r\n\r\n").as_bytes()).unwrap();
        expect(upstream, &format!("GET /later HTTP/1.1\r\nHost: {name}\r\n\r\n"));
    }
    asked(Tenant::Alpha, "allowed.example.org");
}
