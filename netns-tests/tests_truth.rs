//! The ledger follows the kernel: after a restart, beside other programs, and when addresses come and go.

use crate::clients::reset;
use crate::config::Config;
use crate::flows::Flow;
use crate::gateway::{Files, Gateway, Rules};
use crate::lab::{Family, Host, Lab, Tenant};
use crate::wait::wait_within;
use socket2::{Domain, Socket, Type};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

crate::trials! {
    both families:
        a_restart_holds_what_the_killed_process_left,
        an_address_that_is_withdrawn_is_used_again_when_it_returns,
        a_connection_of_another_program_is_found_and_its_port_held;
    once:
        a_port_that_another_program_listens_on_is_not_used
}

/// Two comparisons, each at most ten seconds after what they find, and room for a busy machine.
const TWO_COMPARISONS: Duration = Duration::from_secs(40);

/// One address of each family with these ports.
fn config(ports: &str) -> Config {
    Config {
        alpha_addresses: "[\"203.0.113.17\", \"2001:db8:100::1\"]".into(),
        alpha_pool: format!("ports = \"{ports}\""),
        ..Config::default()
    }
}

fn held(gateway: &Gateway<'_>) -> u64 {
    gateway.metric("egret_pool_ports", &[("pool", "alpha"), ("state", "held")])
}

fn nothing_collided(gateway: &Gateway<'_>) {
    assert_eq!(gateway.metric("egret_port_collisions_total", &[]), 0);
    assert_eq!(gateway.metric("egret_ledger_kernel_difference", &[]), 0);
}

fn a_restart_holds_what_the_killed_process_left(family: Family) {
    let lab = Lab::new();
    let mut gateway = lab.start_gateway(&config("40000-40031"));
    let server = lab.listen(Host::Raw, family, 7000);
    let before: Vec<_> = (0..16)
        .map(|_| {
            let client = lab.connect(Tenant::Alpha, server.address());
            (client, server.accept())
        })
        .collect();
    let sources: Vec<SocketAddr> = before.iter().map(|(_, served)| served.peer_addr().unwrap()).collect();
    gateway.kill();
    gateway.start_again();
    assert_eq!(held(&gateway), 16);
    // Sixteen are left, and each of them can be had.
    let after: Vec<_> = (0..16)
        .map(|_| {
            let client = lab.connect(Tenant::Alpha, server.address());
            (client, server.accept())
        })
        .collect();
    for (_, served) in &after {
        let source = served.peer_addr().unwrap();
        assert!(!sources.contains(&source), "{source} is in use by the process before");
    }
    nothing_collided(&gateway);
    // The old connections end, and the ports come back.
    before.into_iter().for_each(|(_, served)| reset(served));
    wait_within(TWO_COMPARISONS, "the held ports to come back", || match held(&gateway) {
        0 => Ok(()),
        held => Err(format!("{held} are held")),
    });
    nothing_collided(&gateway);
}

fn an_address_that_is_withdrawn_is_used_again_when_it_returns(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&config("40000-40031"));
    let server = lab.listen(Host::Raw, family, 7000);
    let address = match family {
        Family::V4 => "203.0.113.17".to_owned(),
        Family::V6 => "2001:db8:100::1".to_owned(),
    };
    let labels = |state| [("source", address.clone()), ("state", state)];
    let state_is = |state: &'static str| {
        let [(source, address), (key, state)] = labels(state.to_owned());
        gateway
            .wait_for_metric("egret_pool_source_state", &[(source, &address), (key, &state)], |is| is == 1);
    };
    let route = |verb: &str| lab.gateway.ip(&format!("route {verb} local {address} dev lo table local\n"));
    state_is("available");
    drop((lab.connect(Tenant::Alpha, server.address()), server.accept()));
    route("del");
    state_is("withdrawn");
    let refused = lab.expect_reset(Tenant::Alpha, server.address(), b"");
    gateway.expect_outcome(refused, "no_source_address");
    route("add");
    state_is("available");
    let client = lab.connect(Tenant::Alpha, server.address());
    assert_eq!(server.accept().peer_addr().unwrap().ip().to_string(), address);
    drop(client);
    let said = gateway.stderr();
    assert_eq!(said.matches("source addresses are not local").count(), 1, "{said}");
    assert_eq!(said.matches("source addresses have returned").count(), 1, "{said}");
}

fn a_connection_of_another_program_is_found_and_its_port_held(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&config("40000-40003"));
    let server = lab.listen(Host::Raw, family, 7000);
    let source: IpAddr = match family {
        Family::V4 => [203, 0, 113, 17].into(),
        Family::V6 => "2001:db8:100::1".parse().unwrap(),
    };
    let foreign = lab.gateway.run(|| {
        let domain = if source.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        if source.is_ipv6() {
            socket.set_freebind_v6(true).unwrap();
        }
        socket.bind(&SocketAddr::new(source, 40001).into()).unwrap();
        socket.connect(&server.address().into()).unwrap();
        socket
    });
    let served = server.accept();
    let difference = || gateway.metric("egret_ledger_kernel_difference", &[("pool", "alpha")]);
    wait_within(TWO_COMPARISONS, "the difference to be seen", || match difference() {
        1 => Ok(()),
        other => Err(format!("it is {other}")),
    });
    assert_eq!(held(&gateway), 1);
    let mine: Vec<_> = (0..3).map(|_| Flow::open(&lab, Tenant::Alpha, &server)).collect();
    mine.iter().for_each(Flow::assert_alive);
    lab.expect_reset(Tenant::Alpha, server.address(), b"");
    assert_eq!(gateway.metric("egret_port_collisions_total", &[]), 0);
    wait_within(TWO_COMPARISONS, "the ledger to agree again", || match difference() {
        0 => Ok(()),
        other => Err(format!("it is {other}")),
    });
    reset(served);
    drop(foreign);
    wait_within(TWO_COMPARISONS, "the port to come back", || match held(&gateway) {
        0 => Ok(()),
        held => Err(format!("{held} are held")),
    });
    let said = gateway.stderr();
    assert_eq!(said.matches("a port that should be free is in use").count(), 1, "{said}");
}

fn a_port_that_another_program_listens_on_is_not_used() {
    let lab = Lab::new();
    let listen = |port: u16| lab.gateway.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap());
    let _everywhere = listen(40002);
    let files = Files::new(&config("40000-40003"));
    lab.must_steer("up", &files.config(), Rules::Iptables);
    let gateway = Gateway::start(&lab, files);
    let capacity = gateway.gauges("egret_pool_ports_capacity", &[("source", "203.0.113.17")]);
    assert_eq!(capacity, [3.0]);
    assert!(gateway.stderr().contains("[::]:40002"), "{}", gateway.stderr());
    let server = lab.listen(Host::Raw, Family::V4, 7000);
    let flows: Vec<_> = (0..3).map(|_| Flow::open(&lab, Tenant::Alpha, &server)).collect();
    assert!(flows.iter().all(|flow| flow.source().port() != 40002));
    nothing_collided(&gateway);
    drop(flows);
    // One that comes later collides: the flow takes another port, and the log says who was in the way.
    let _later = listen(40001);
    let flows: Vec<_> = (0..2).map(|_| Flow::open_soon(&lab, Tenant::Alpha, &server)).collect();
    assert!(flows.iter().all(|flow| flow.source().port() != 40001));
    lab.expect_reset(Tenant::Alpha, server.address(), b"");
    gateway.wait_for_metric("egret_port_collisions_total", &[], |collisions| collisions == 1);
    wait_within(TWO_COMPARISONS, "the log to name the listener", || {
        let said = gateway.stderr();
        let explained = said.contains("a flow had to take another port") && said.contains("[::]:40001");
        let reported = said.contains("has begun to listen");
        if explained && reported { Ok(()) } else { Err(said) }
    });
}
