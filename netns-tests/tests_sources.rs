//! Source address and port of a flow, and exhaustion of both.

use crate::clients::connect_from;
use crate::config::Config;
use crate::flows::{End, Flow};
use crate::lab::{Family, Host, Lab, Tenant};
use crate::servers::Server;
use crate::traffic::pass;
use crate::wait::PATIENCE;
use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::thread;

crate::trials! {
    both families:
        tenants_never_share_sources,
        paired_client_keeps_its_address,
        least_used_spreads_flows_over_all_addresses,
        full_pool_is_answered_and_recovers,
        drained_address_is_unused_and_public_recorded,
        port_serves_many_destinations_at_once;
    once:
}

fn tenants_never_share_sources(family: Family) {
    const EACH: usize = 150;
    let lab = Lab::new();
    let config =
        Config { alpha_pool: "ports = \"20000-29999\"\nselect = \"least-used\"".into(), ..Config::default() };
    let gateway = lab.start_gateway(&config);
    let server = lab.listen(Host::Raw, family, 7000);
    let open = |tenant: Tenant, letter: u8| {
        for _ in 0..EACH {
            let mut client = connect_from(tenant.client(family), server.address(), PATIENCE).unwrap();
            client.write_all(&[letter]).unwrap();
            client.read_exact(&mut [0]).unwrap();
        }
    };
    let mut seen: HashMap<u8, HashSet<SocketAddr>> = HashMap::new();
    thread::scope(|scope| {
        scope.spawn(|| lab.client.run(|| open(Tenant::Alpha, b'a')));
        scope.spawn(|| lab.client.run(|| open(Tenant::Beta, b'b')));
        for _ in 0..2 * EACH {
            let mut upstream = server.accept();
            let mut letter = [0];
            upstream.read_exact(&mut letter).unwrap();
            upstream.write_all(b".").unwrap();
            seen.entry(letter[0]).or_default().insert(upstream.peer_addr().unwrap());
        }
    });
    for source in &seen[&b'a'] {
        assert!(Tenant::Alpha.owns_source(source.ip()), "alpha left from {source}");
        assert!(
            (20000..=29999).contains(&source.port()),
            "alpha left from {source}, outside its pool's ports"
        );
    }
    for source in &seen[&b'b'] {
        assert!(Tenant::Beta.owns_source(source.ip()), "beta left from {source}");
    }
    // Random ports out of ten thousand: consecutive flows rarely get the same.
    assert!(seen[&b'a'].len() > EACH / 2, "only {} sources", seen[&b'a'].len());
    for flow in gateway.wait_for_flows(2 * EACH) {
        let source: SocketAddr = flow["source"].as_str().unwrap().parse().unwrap();
        let tenant = if flow["tenant"] == "alpha" { Tenant::Alpha } else { Tenant::Beta };
        assert!(tenant.owns_source(source.ip()), "{flow:#}");
        assert_eq!(flow["pool"], flow["tenant"], "{flow:#}");
    }
}

/// Opens a flow from this client address and returns its source as the server sees it.
fn source_of(lab: &Lab, server: &Server, client: IpAddr) -> (TcpStream, TcpStream, IpAddr) {
    let client = lab.client.run(|| connect_from(client, server.address(), PATIENCE)).unwrap();
    let upstream = server.accept();
    let source = upstream.peer_addr().unwrap().ip();
    (client, upstream, source)
}

fn paired_client_keeps_its_address(family: Family) {
    let lab = Lab::new();
    let _gateway = lab.start_gateway(&Config::default());
    let one = lab.listen(Host::Raw, family, 7000);
    let other = lab.listen(Host::Raw, family, 7001);
    let mut sources = HashSet::new();
    for number in 20..36 {
        let client: IpAddr = match family {
            Family::V4 => [10, 0, 1, number].into(),
            Family::V6 => [0xfd00, 1, 0, 0, 0, 0, 0, number.into()].into(),
        };
        let length = if family == Family::V4 { 24 } else { 64 };
        let nodad = if family == Family::V4 { "" } else { "nodad" };
        lab.client.ip(&format!("addr add {client}/{length} dev c0 {nodad}"));
        let first = source_of(&lab, &one, client);
        for _ in 0..4 {
            assert_eq!(source_of(&lab, &one, client).2, first.2, "{client} has two sources");
            assert_eq!(source_of(&lab, &other, client).2, first.2, "{client} has two sources");
        }
        sources.insert(first.2);
    }
    assert!(sources.len() > 1, "sixteen clients share the one source {sources:?}");
}

fn least_used_spreads_flows_over_all_addresses(family: Family) {
    let lab = Lab::new();
    let config = Config {
        alpha_pool: "select = \"least-used\"".into(),
        alpha_addresses: "[\"203.0.113.16/30\", \"2001:db8:100::10/126\"]".into(),
        ..Config::default()
    };
    let _gateway = lab.start_gateway(&config);
    let server = lab.listen(Host::Raw, family, 7000);
    let flows: Vec<_> = (0..12).map(|_| source_of(&lab, &server, Tenant::Alpha.client(family))).collect();
    let mut counts: HashMap<IpAddr, usize> = HashMap::new();
    for (_, _, source) in &flows {
        *counts.entry(*source).or_default() += 1;
    }
    assert!(counts.len() == 4 && counts.values().all(|count| *count == 3), "{counts:?}");
}

/// One address of each family with two ports.
fn tiny() -> Config {
    Config {
        alpha_pool: "ports = \"40000-40001\"".into(),
        alpha_addresses: "[\"203.0.113.17\", \"2001:db8:100::1\"]".into(),
        ..Config::default()
    }
}

fn full_pool_is_answered_and_recovers(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&tiny());
    let server = lab.listen(Host::Raw, family, 7000);
    let client_ip = Tenant::Alpha.client(family);
    let mut flows: Vec<_> = (0..2).map(|_| source_of(&lab, &server, client_ip)).collect();
    let source = flows[0].2.to_string();
    let ports = |state: &str, count: u64| {
        let labels = [("pool", "alpha"), ("source", &*source), ("state", state)];
        gateway.wait_for_metric("egret_pool_ports", &labels, |ports| ports == count);
    };
    ports("live", 2);
    let capacity = gateway.metric("egret_pool_ports_capacity", &[("pool", "alpha"), ("source", &source)]);
    assert_eq!(capacity, 2);
    for round in 0..10 {
        let refused = lab.expect_reset(Tenant::Alpha, server.address(), b"");
        let flow = gateway.expect_outcome(refused, "ports_exhausted");
        assert_eq!(flow["source"], serde_json::Value::Null, "{flow:#}");
        server.assert_untouched();

        // Whichever side closes first, the port is reusable shortly after the last ACK.
        let (client, upstream, _) = flows.remove(0);
        let local = client.local_addr().unwrap();
        let how = if round % 2 == 0 { End::ClientFirst } else { End::ServerFirst };
        Flow { client, upstream }.end(how);
        gateway.expect_outcome(local, "closed");
        ports("held", 0);
        flows.push(source_of(&lab, &server, client_ip));
        let (client, upstream, _) = &flows[1];
        pass(client, upstream, b"hello again");
    }
    let failures =
        gateway.metric("egret_port_allocation_failures_total", &[("pool", "alpha"), ("tenant", "alpha")]);
    assert_eq!(failures, 10);
    assert_eq!(gateway.metric("egret_port_collisions_total", &[]), 0);
    drop(flows);
    ports("live", 0);
}

fn drained_address_is_unused_and_public_recorded(family: Family) {
    let lab = Lab::new();
    let config = Config {
        alpha_pool: "ports = \"40000-40003\"\n\
                     drain = [\"203.0.113.18\", \"2001:db8:100::2\"]\n\
                     public = { \"203.0.113.17\" = \"52.1.2.3\", \"2001:db8:100::1\" = \"2001:db8:ffff::1\" }"
            .into(),
        alpha_addresses: "[\"203.0.113.17\", \"203.0.113.18\", \"2001:db8:100::1\", \"2001:db8:100::2\"]"
            .into(),
        ..Config::default()
    };
    let gateway = lab.start_gateway(&config);
    let server = Server::raw(&lab, family, 7000);
    let flows = Flow::open_many(&lab, Tenant::Alpha, &server, 4);
    for flow in &flows {
        assert_eq!(flow.source().ip(), family.pool(), "the other address is drained");
    }
    let refused = lab.expect_reset(Tenant::Alpha, server.address(), b"");
    let flow = gateway.expect_outcome(refused, "ports_exhausted");
    assert_eq!((flow["source"].is_null(), flow["public"].is_null()), (true, true), "{flow:#}");
    for Flow { client, upstream } in flows {
        let local = client.local_addr().unwrap();
        drop((client, upstream));
        let public = if family == Family::V4 { "52.1.2.3" } else { "2001:db8:ffff::1" };
        assert_eq!(gateway.expect_outcome(local, "closed")["public"], public);
    }
}

fn port_serves_many_destinations_at_once(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&tiny());
    let mut live = Vec::new();
    for port in 7000..7020 {
        let server = lab.listen(Host::Raw, family, port);
        for _ in 0..2 {
            live.push(source_of(&lab, &server, Tenant::Alpha.client(family)));
        }
    }
    for (client, upstream, _) in &live {
        pass(client, upstream, b"all at once");
    }
    drop(live);
    for flow in gateway.wait_for_flows(40) {
        assert_eq!(flow["outcome"], "closed", "{flow:#}");
    }
}
