//! A port is free when the kernel says so: no collisions after lost packets, no timestamps, crossing FINs and resets.

use crate::clients::{connect_from, reset};
use crate::config::Config;
use crate::flows::Flow;
use crate::gateway::Gateway;
use crate::lab::{Family, Lab, Tenant, in_filter};
use crate::namespace::Namespace;
use crate::servers::Server;
use crate::wait::{PATIENCE, wait_within};
use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

crate::trials! {
    both families:
        lossy_paths_cause_no_collisions,
        servers_without_timestamps_cause_no_collisions,
        gateway_without_timestamps_causes_no_collisions,
        unacknowledged_fin_holds_its_port;
    once:
}

/// With few ports, so that each is soon reused.
fn config(ports: &str) -> Config {
    Config {
        alpha_addresses: "[\"203.0.113.17\", \"2001:db8:100::1\"]".into(),
        alpha_pool: format!("ports = \"{ports}\""),
        ..Config::default()
    }
}

/// End of a flow, as requested by its client's first byte.
const SERVER_FIRST: u8 = b's';
const CLIENT_FIRST: u8 = b'c';
/// Both FINs at the same time.
const CROSSED: u8 = b'x';
/// The client resets after its FIN, while the server's is on its way.
const RESET_AFTER_FIN: u8 = b'r';
/// The server closes with unread bytes.
const SERVER_RESET: u8 = b'z';
/// Time within which the kernel is queried again, even on a busy machine.
const A_LOOK: Duration = Duration::from_secs(45);
const QUIT: u8 = b'q';
/// Ends after which only a `TIME_WAIT` holds a port are rare.
const MIX: [u8; 8] = [
    SERVER_FIRST,
    SERVER_FIRST,
    SERVER_RESET,
    RESET_AFTER_FIN,
    SERVER_FIRST,
    SERVER_FIRST,
    CROSSED,
    CLIENT_FIRST,
];
const CLIENTS: usize = 6;
const SERVERS: usize = 8;

fn serve(server: &Server) {
    loop {
        let mut stream = server.accept();
        let mut how = [0];
        if stream.read_exact(&mut how).is_err() {
            continue;
        }
        // A client that has left is no failure.
        let _ = match how[0] {
            QUIT => return,
            SERVER_FIRST | CROSSED => {
                stream.write_all(b"answer").and_then(|()| stream.shutdown(Shutdown::Write))
            }
            SERVER_RESET => Ok(()),
            _ => stream.read_to_end(&mut Vec::new()).and_then(|_| stream.write_all(b"answer")),
        };
        if how[0] == SERVER_FIRST || how[0] == CROSSED {
            let _ = stream.read_to_end(&mut Vec::new());
        }
    }
}

fn one_flow(from: IpAddr, to: SocketAddr, how: u8) -> std::io::Result<()> {
    let mut stream = connect_from(from, to, PATIENCE)?;
    stream.write_all(&[how])?;
    match how {
        SERVER_FIRST => drop(stream.read_to_end(&mut Vec::new())?),
        SERVER_RESET => {
            stream.write_all(&[0; 4096])?;
            stream.read_to_end(&mut Vec::new())?;
        }
        RESET_AFTER_FIN => {
            stream.shutdown(Shutdown::Write)?;
            stream.read_exact(&mut [0])?;
            reset(stream);
        }
        _ => {
            stream.shutdown(Shutdown::Write)?;
            stream.read_to_end(&mut Vec::new())?;
        }
    }
    Ok(())
}

/// Opens this many flows by several clients at once, and returns how many ended as expected.
fn storm(lab: &Lab, server: &Server, family: Family, flows: usize) -> usize {
    let (to, from) = (server.address(), Tenant::Alpha.client(family));
    let (next, good) = (AtomicUsize::new(0), AtomicUsize::new(0));
    // The last clients may wait for long to repeat what was lost.
    server.accept_within(PATIENCE * 4);
    thread::scope(|scope| {
        for _ in 0..SERVERS {
            scope.spawn(|| serve(server));
        }
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    lab.client.run(|| {
                        while let n = next.fetch_add(1, Ordering::Relaxed)
                            && n < flows
                        {
                            let ended = one_flow(from, to, MIX[n % MIX.len()]).is_ok();
                            good.fetch_add(usize::from(ended), Ordering::Relaxed);
                        }
                    });
                })
            })
            .collect();
        for client in clients {
            client.join().unwrap();
        }
        lab.server.run(|| {
            for _ in 0..SERVERS {
                TcpStream::connect(to).unwrap().write_all(&[QUIT]).unwrap();
            }
        });
    });
    good.into_inner()
}

fn assert_nothing_collided(gateway: &Gateway<'_>) {
    assert_eq!(gateway.metric("egret_port_collisions_total", &[]), 0);
    assert_eq!(gateway.metric("egret_ledger_kernel_difference", &[]), 0);
}

fn lossy_paths_cause_no_collisions(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&config("40000-40063"));
    let server = Server::raw(&lab, family, 7000);
    for command in ["iptables", "ip6tables"] {
        lab.gateway.shell(&format!(
            "{command} -I INPUT -i s0 -p tcp -m statistic --mode random --probability 0.02 -j DROP"
        ));
    }
    let good = storm(&lab, &server, family, 3000);
    assert!(good > 1500, "{good} flows");
    assert_nothing_collided(&gateway);
    gateway.wait_for_metric("egret_pool_ports", &[("pool", "alpha")], |busy| busy == 0);
}

fn servers_without_timestamps_cause_no_collisions(family: Family) {
    let lab = Lab::new();
    without_timestamps(&lab, &lab.server, family);
}

fn gateway_without_timestamps_causes_no_collisions(family: Family) {
    let lab = Lab::new();
    without_timestamps(&lab, &lab.gateway, family);
}

fn without_timestamps(lab: &Lab, side: &Namespace, family: Family) {
    let gateway = lab.start_gateway(&config("40000-41999"));
    // Steering has enabled them.
    side.sysctl("net/ipv4/tcp_timestamps", "0");
    let server = Server::raw(lab, family, 7000);
    let good = storm(lab, &server, family, 4000);
    assert!(good > 2000, "{good} flows");
    assert_nothing_collided(&gateway);
    // The held ports are those in the kernel.
    let in_kernel = || {
        let source = in_filter(family.pool());
        lab.gateway.shell(&format!("ss -Htn state time-wait src {source}")).lines().count() as u64
    };
    let held = || gateway.metric("egret_pool_ports", &[("pool", "alpha"), ("state", "held")]);
    wait_within(A_LOOK, "as many ports to be held as the kernel has", || match (held(), in_kernel()) {
        (held, kept) if held == kept => Ok(()),
        (held, kept) => Err(format!("{held} are held, the kernel has {kept}")),
    });
}

/// The server's FIN comes first, and nothing that it sends arrives after that.
fn unacknowledged_fin_holds_its_port(family: Family) {
    let lab = Lab::new();
    let terms = Config { alpha_tenant: "ports_ceiling = 1".into(), ..config("40000-40001") };
    let gateway = lab.start_gateway(&terms);
    let server = Server::raw(&lab, family, 7000);
    let Flow { client, upstream } = Flow::open(&lab, Tenant::Alpha, &server);
    let (local, source) = (client.local_addr().unwrap(), upstream.peer_addr().unwrap());
    upstream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(crate::clients::read_all(&client), b"");
    let loss = |action: &str| {
        for command in ["iptables", "ip6tables"] {
            lab.gateway.shell(&format!("{command} -{action} INPUT -i s0 -p tcp -j DROP"));
        }
    };
    loss("I");
    drop(client);
    gateway.expect_outcome(local, "closed");
    let in_last_ack = || lab.gateway.shell(&format!("ss -Htn state last-ack src {source}")).lines().count();
    let held = || gateway.metric("egret_pool_ports", &[("pool", "alpha"), ("state", "held")]);
    // Longer than any wait without a query of the kernel.
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        assert_eq!((held(), in_last_ack()), (1, 1));
    }
    // It counts for its tenant.
    let refused = lab.expect_reset(Tenant::Alpha, server.address(), b"");
    gateway.expect_outcome(refused, "tenant_port_ceiling");
    loss("D");
    let again = Flow::open_soon(&lab, Tenant::Alpha, &server);
    again.assert_alive();
    assert_nothing_collided(&gateway);
}
