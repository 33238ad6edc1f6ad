//! The ledger agrees with the kernel: under churn, after a crash, beside other programs, when addresses come and go.

use crate::config::Config;
use crate::flows::{End, Flow};
use crate::gateway::{Files, Gateway, Rules};
use crate::lab::{Family, Lab, Tenant, in_filter};
use crate::servers::Server;
use crate::traffic::pass;
use crate::wait::{PATIENCE, wait_for, wait_within};
use socket2::{Domain, Socket, Type};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

crate::trials! {
    both families:
        foreign_listener_in_pool_is_avoided,
        lost_address_is_unused_until_return;
    once:
        foreign_connections_in_pool_are_avoided,
        restart_causes_no_collisions,
        ledger_and_kernel_agree,
        crash_leftovers_are_held_at_start,
        later_listener_is_named
}

/// Maximum time between two comparisons of ledger and kernel.
const COMPARED: Duration = Duration::from_secs(12);
/// Time within which a `TIME_WAIT` ends and the gateway learns of it.
const FORGOTTEN: Duration = Duration::from_secs(90);
/// Time within which two or three of them are made, even on a busy machine.
const COMPARED_OFTEN: Duration = Duration::from_secs(50);

fn ledger_and_kernel_agree() {
    in_both_families(ledger_matches_kernel_under_churn);
}

fn restart_causes_no_collisions() {
    in_both_families(restart_amid_flows_causes_no_collisions);
}

fn foreign_connections_in_pool_are_avoided() {
    in_both_families(foreign_connection_in_pool_is_avoided);
}

/// Runs both concurrently, because these tests mostly wait.
fn in_both_families(test: fn(Family)) {
    thread::scope(|scope| {
        scope.spawn(|| test(Family::V4));
        scope.spawn(|| test(Family::V6));
    });
}

/// One address of each family with these ports.
fn one_address(ports: &str) -> Config {
    Config {
        alpha_addresses: "[\"203.0.113.17\", \"2001:db8:100::1\"]".into(),
        alpha_pool: format!("ports = \"{ports}\""),
        ..Config::default()
    }
}

fn difference(gateway: &Gateway<'_>) -> u64 {
    gateway.metric("egret_ledger_kernel_difference", &[])
}

fn ports(gateway: &Gateway<'_>, family: Family, state: &str) -> u64 {
    let source = family.pool().to_string();
    gateway.metric("egret_pool_ports", &[("source", &source), ("state", state)])
}

fn ledger_matches_kernel_under_churn(family: Family) {
    let lab = Lab::new();
    // For one family, servers without timestamps, so that ports are held.
    if family == Family::V4 {
        lab.server.sysctl("net/ipv4/tcp_timestamps", "0");
    }
    let gateway = lab.start_gateway(&one_address("40000-40599"));
    let servers = [Server::raw(&lab, family, 7000), Server::raw(&lab, family, 7001)];
    let start = Instant::now();
    let mut live = Vec::new();
    let mut count = 0;
    // For at least one comparison, with at most two thirds of the pool in use.
    while start.elapsed() < COMPARED || count < 300 {
        if count < 800 {
            for how in End::ALL {
                let mut flows = Flow::open_many(&lab, Tenant::Alpha, &servers[count % 2], 3);
                count += flows.len();
                flows.pop().unwrap().end(how);
                drop(flows.pop()); // both ends at once
                live.extend(flows);
                if live.len() > 40 {
                    live.remove(0).end(how);
                }
            }
        }
        assert_eq!(difference(&gateway), 0);
    }
    for flow in &live {
        flow.assert_alive();
    }
    gateway.wait_for_metric("egret_pool_ports", &[("state", "live")], |ports| ports == live.len() as u64);
    for (flow, how) in live.into_iter().zip(End::ALL.into_iter().cycle()) {
        flow.end(how);
    }
    gateway.wait_for_metric("egret_pool_ports", &[("state", "live")], |live| live == 0);
    // For one more comparison, without changes.
    let end = Instant::now();
    while end.elapsed() < COMPARED {
        assert_eq!(difference(&gateway), 0);
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(gateway.metric("egret_port_collisions_total", &[]), 0);
    for flow in gateway.wait_for_flows(count) {
        assert_ne!(flow["outcome"], "ports_exhausted", "{flow:#}");
    }
}

fn restart_amid_flows_causes_no_collisions(family: Family) {
    const HALF: usize = 250;
    let lab = Lab::new();
    if family == Family::V4 {
        lab.server.sysctl("net/ipv4/tcp_timestamps", "0");
    }
    let mut gateway = lab.start_gateway(&one_address("40000-40499"));
    let server = Server::raw(&lab, family, 7000);
    let before = Flow::open_many(&lab, Tenant::Alpha, &server, HALF);
    // Flows that are live when a process dies are reset; those that its clients have ended are in `TIME_WAIT`.
    for flow in before {
        flow.end(End::ClientFirst);
    }
    gateway.wait_for_flows(HALF);
    gateway.kill();
    gateway.start_again();
    let held = ports(&gateway, family, "held");
    let left = kernel_has(&lab, family);
    assert!(left > HALF / 2, "the kernel has forgotten most already");
    assert_eq!(held, left as u64);
    let after = Flow::open_many(&lab, Tenant::Alpha, &server, 2 * HALF - left);
    for flow in after.iter().step_by(97) {
        flow.assert_alive();
    }
    let refused = lab.expect_reset(Tenant::Alpha, server.address(), b"");
    gateway.expect_outcome(refused, "ports_exhausted");
    assert_eq!(gateway.metric("egret_port_collisions_total", &[]), 0);
    assert_eq!(difference(&gateway), 0);

    // They are free again when the kernel has released the connections.
    wait_within(FORGOTTEN, "the held ports to come back", || match ports(&gateway, family, "held") {
        0 => Ok(()),
        held => Err(format!("{held} are held")),
    });
    for flow in Flow::open_many(&lab, Tenant::Alpha, &server, 100) {
        flow.end(End::ServerReset);
    }
    assert_eq!(gateway.metric("egret_port_collisions_total", &[]), 0);
}

fn kernel_has(lab: &Lab, family: Family) -> usize {
    let source = in_filter(family.pool());
    lab.gateway.shell(&format!("ss -Hatn state connected src '{source}'")).lines().count()
}

fn crash_leftovers_are_held_at_start() {
    let lab = Lab::new();
    lab.server.sysctl("net/ipv4/tcp_timestamps", "0");
    let mut gateway = lab.start_gateway(&one_address("40000-40015"));
    let server = Server::raw(&lab, Family::V4, 7000);
    for flow in Flow::open_many(&lab, Tenant::Alpha, &server, 6) {
        flow.end(End::ClientFirst);
    }
    let open = Flow::open_many(&lab, Tenant::Alpha, &server, 4);
    gateway.kill();
    // A reset leaves no state.
    drop(open);
    gateway.start_again();
    assert_eq!(ports(&gateway, Family::V4, "held"), 6);
    let _live: Vec<_> = (0..10).map(|_| Flow::open(&lab, Tenant::Alpha, &server)).collect();
    let refused = lab.expect_reset(Tenant::Alpha, server.address(), b"");
    gateway.expect_outcome(refused, "ports_exhausted");
    assert_eq!(gateway.metric("egret_port_collisions_total", &[]), 0);
}

fn later_listener_is_named() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&one_address("40000-40003"));
    let listener = lab.gateway.run(|| Server::bind((Ipv6Addr::UNSPECIFIED, 40001).into()));
    let server = Server::raw(&lab, Family::V4, 7000);
    let flows = Flow::open_many(&lab, Tenant::Alpha, &server, 3);
    assert!(flows.iter().all(|flow| flow.source().port() != 40001));
    // The flow that gets the last port has tried this one before.
    let refused = lab.expect_reset(Tenant::Alpha, server.address(), b"");
    gateway.expect_outcome(refused, "ports_exhausted");
    assert_eq!(gateway.metric("egret_port_collisions_total", &[]), 1);
    assert_eq!(ports(&gateway, Family::V4, "held"), 1);
    wait_for("the log to name the listener", || {
        let said = gateway.stderr();
        let named = |what: &str| said.lines().any(|line| line.contains(what) && line.contains("[::]:40001"));
        let both = named("a flow had to take another port") && named("has begun to listen");
        if both { Ok(()) } else { Err(said) }
    });
    listener.assert_untouched();
}

/// Opens a connection of another program, from an address and port of the gateway's pool.
fn foreign_connection(lab: &Lab, source: SocketAddr, server: &Server) -> (TcpStream, TcpStream) {
    let stream = lab.gateway.run(|| {
        let socket = Socket::new(Domain::for_address(source), Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        if source.is_ipv6() {
            socket.set_freebind_v6(true).unwrap();
        }
        socket.bind(&source.into()).unwrap();
        socket.connect_timeout(&server.address().into(), PATIENCE).unwrap();
        TcpStream::from(socket)
    });
    (stream, server.accept())
}

fn foreign_connection_in_pool_is_avoided(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&one_address("40000-40003"));
    let server = Server::raw(&lab, family, 7000);
    let at = |port| SocketAddr::new(family.pool(), port);
    let foreign = foreign_connection(&lab, at(40002), &server);
    let wait_for_difference = |wanted: u64| {
        wait_within(COMPARED_OFTEN, &format!("a difference of {wanted}"), || match difference(&gateway) {
            found if found == wanted => Ok(()),
            other => Err(format!("it is {other}")),
        });
    };
    wait_for_difference(1);
    assert_eq!(ports(&gateway, family, "held"), 1);
    wait_for("the log to say so", || {
        let said = gateway.stderr();
        if said.contains(&at(40002).to_string()) { Ok(()) } else { Err(said) }
    });
    let flows: Vec<_> = (0..3).map(|_| Flow::open(&lab, Tenant::Alpha, &server)).collect();
    let sources: HashSet<u16> = flows.iter().map(|flow| flow.source().port()).collect();
    assert_eq!(sources, [40000, 40001, 40003].into());
    let refused = lab.expect_reset(Tenant::Alpha, server.address(), b"");
    gateway.expect_outcome(refused, "ports_exhausted");
    assert_eq!(gateway.metric("egret_port_collisions_total", &[]), 0);

    // Once it is held, there is no difference left.
    wait_for_difference(0);
    assert_eq!(gateway.stderr().matches("a port that should be free is in use").count(), 1);

    // Before any comparison, a flow detects the conflict itself and takes another port.
    let other = Server::raw(&lab, family, 7001);
    let _others: Vec<_> = (40000..40003).map(|port| foreign_connection(&lab, at(port), &other)).collect();
    let flow = Flow::open(&lab, Tenant::Alpha, &other);
    assert_eq!(flow.source().port(), 40003);
    flow.assert_alive();

    // It is available again when the other program has ended; that one was not disturbed.
    pass(&foreign.0, &foreign.1, b"undisturbed");
    let (stream, upstream) = foreign;
    upstream.shutdown(Shutdown::Write).unwrap();
    drop(stream);
    drop(upstream);
    let again = wait_within(COMPARED_OFTEN, "the port to serve flows", || {
        Flow::try_open(&lab, Tenant::Alpha, &server).map_err(|client| format!("{client} was refused"))
    });
    assert_eq!(again.source().port(), 40002);
}

fn foreign_listener_in_pool_is_avoided(family: Family) {
    let lab = Lab::new();
    let any: IpAddr = match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    let files = Files::new(&one_address("40000-40003"));
    lab.must_steer("up", &files.config(), Rules::Iptables);
    let listener = lab.gateway.run(|| Server::bind(SocketAddr::new(any, 40001)));
    let gateway = Gateway::start(&lab, files);
    let source = family.pool().to_string();
    let capacity = gateway.metric("egret_pool_ports_capacity", &[("source", &source)]);
    assert_eq!(capacity, 3);
    let warned = gateway.stderr().lines().any(|line| line.contains("WARN") && line.contains(":40001"));
    assert!(warned, "{}", gateway.stderr());
    let server = Server::raw(&lab, family, 7000);
    for _ in 0..3 {
        let flows: Vec<_> = (0..3).map(|_| Flow::open(&lab, Tenant::Alpha, &server)).collect();
        for flow in &flows {
            flow.assert_alive();
            assert_ne!(flow.source().port(), 40001);
        }
        let refused = lab.expect_reset(Tenant::Alpha, server.address(), b"");
        gateway.expect_outcome(refused, "ports_exhausted");
        for flow in flows {
            flow.end(End::ServerReset);
        }
        gateway.wait_for_metric("egret_pool_ports", &[("state", "live")], |live| live == 0);
    }
    assert_eq!(gateway.metric("egret_port_collisions_total", &[]), 0);
    listener.assert_untouched();
}

fn lost_address_is_unused_until_return(family: Family) {
    let lab = Lab::new();
    let (lost, kept, addresses): (IpAddr, IpAddr, &str) = match family {
        Family::V4 => {
            ([203, 0, 113, 17].into(), [203, 0, 113, 18].into(), "\"203.0.113.17\", \"203.0.113.18\"")
        }
        Family::V6 => (
            "2001:db8:100::1".parse().unwrap(),
            "2001:db8:100::2".parse().unwrap(),
            "\"2001:db8:100::1\", \"2001:db8:100::2\"",
        ),
    };
    let config = Config {
        alpha_addresses: format!("[{addresses}]"),
        alpha_pool: "ports = \"40000-40099\"\nselect = \"least-used\"".into(),
        ..Config::default()
    };
    let gateway = lab.start_gateway(&config);
    let server = Server::raw(&lab, family, 7000);
    let state = |source: IpAddr, state: &str| {
        gateway.metric("egret_pool_source_state", &[("source", &source.to_string()), ("state", state)])
    };
    let wait_for_state = |wanted: &str| {
        wait_for(&format!("{lost} to be {wanted}"), || match state(lost, wanted) {
            1 => Ok(()),
            other => Err(format!("it is {other}")),
        });
        assert_eq!(state(kept, "available"), 1);
    };
    let sources = || -> HashSet<IpAddr> {
        let flows: Vec<_> = (0..8).map(|_| Flow::open(&lab, Tenant::Alpha, &server)).collect();
        flows.iter().map(|flow| flow.source().ip()).collect()
    };
    assert_eq!(sources(), [lost, kept].into());
    wait_for_state("available");
    for _ in 0..2 {
        lab.gateway.ip(&format!("route del local {lost} dev lo table local"));
        wait_for_state("withdrawn");
        assert_eq!(state(lost, "available"), 0);
        assert_eq!(sources(), [kept].into());
        lab.gateway.ip(&format!("route add local {lost} dev lo table local"));
        wait_for_state("available");
        assert_eq!(state(lost, "withdrawn"), 0);
        assert_eq!(sources(), [lost, kept].into());
    }
    for told in ["are not local to this machine", "are local again"] {
        wait_for("each change to be logged once", || match gateway.stderr() {
            said if said.matches(told).count() == 2 => Ok(()),
            said => Err(said),
        });
    }
    // Without any address no flow can leave, by the other family neither, because the tenant's pool has none of that.
    for address in [lost, kept] {
        lab.gateway.ip(&format!("route del local {address} dev lo table local"));
        wait_for("the address to be withdrawn", || match state(address, "withdrawn") {
            1 => Ok(()),
            other => Err(format!("it is {other}")),
        });
    }
    let refused = lab.expect_reset(Tenant::Alpha, server.address(), b"");
    gateway.expect_outcome(refused, "no_source_address");
    server.assert_untouched();
}
