//! Ends of silent flows: by the operator's timeouts, and by vanished peers.

use crate::clients::{expect_reset, expect_reset_while_sending, read_all};
use crate::config::Config;
use crate::flows::Flow;
use crate::lab::{Family, Lab, Tenant};
use crate::servers::Server;
use crate::traffic::pass;
use crate::wait::wait_for;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

crate::trials! {
    both families:
        idle_timeout_resets_idle_flow,
        half_open_timeout_resets_only_half_open,
        vanished_server_resets_the_client,
        vanished_client_resets_the_server;
    once:
}

fn idle_timeout_resets_idle_flow(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config { gateway: "idle_timeout = \"1s\"".into(), ..Config::default() });
    let server = Server::raw(&lab, family, 7000);
    let (client, upstream, last) = wait_for("a flow to live on while bytes move", || {
        let opened = Instant::now();
        let Flow { client, upstream } = Flow::open(&lab, Tenant::Alpha, &server);
        let last = outlive_a_second(opened, &client, &upstream)?;
        Ok::<_, &str>((client, upstream, last))
    });
    assert_eq!(expect_reset(&client), b"");
    assert_eq!(expect_reset(&upstream), b"");
    assert!(last.elapsed() >= Duration::from_secs(1), "{:?}", last.elapsed());
    gateway.expect_outcome(client.local_addr().unwrap(), "idle_timeout");
}

fn half_open_timeout_resets_only_half_open(family: Family) {
    let lab = Lab::new();
    // One worker, so that flows end in the order of their starts.
    let gateway = "half_open_timeout = \"1s\"".into();
    let gateway = lab.start_gateway(&Config { workers: 1, gateway, ..Config::default() });
    let server = Server::raw(&lab, family, 7000);
    let whole = Flow::open(&lab, Tenant::Alpha, &server);
    let (client, upstream, last) = wait_for("a half-open flow to live on while bytes move", || {
        let Flow { client, upstream } = Flow::open(&lab, Tenant::Alpha, &server);
        let halved = Instant::now();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&upstream), b"");
        let last = outlive_a_second(halved, &upstream, &client)?;
        Ok::<_, &str>((client, upstream, last))
    });
    assert_eq!(expect_reset(&client), b"");
    expect_reset_while_sending(&upstream);
    assert!(last.elapsed() >= Duration::from_secs(1), "{:?}", last.elapsed());
    gateway.expect_outcome(client.local_addr().unwrap(), "half_open_timeout");
    whole.assert_alive(); // silent for longer
}

/// Passes bytes often enough that a timeout of one second must not end the flow; returns the time before the last. That
/// is as exact as possible if the machine itself stops for nearly as long.
fn outlive_a_second(
    begun: Instant,
    mut from: &TcpStream,
    mut to: &TcpStream,
) -> Result<Instant, &'static str> {
    let mut last = begun;
    while begun.elapsed() < Duration::from_millis(1500) {
        let before = std::mem::replace(&mut last, Instant::now());
        let passed = from.write_all(b"x").and_then(|()| to.read_exact(&mut [0]));
        if before.elapsed() > Duration::from_millis(700) {
            return Err("the machine stood still");
        }
        passed.expect("bytes move");
        thread::sleep(Duration::from_millis(100));
    }
    Ok(last)
}

/// Short enough for a test: two unanswered probes after a second of silence, or two seconds without acknowledgement.
fn watchful() -> Config {
    let keys = "keepalive = { idle = \"1s\", interval = \"1s\", probes = 2 }\nuser_timeout = \"2s\"";
    Config { gateway: keys.into(), ..Config::default() }
}

fn vanished_server_resets_the_client(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&watchful());
    let server = Server::raw(&lab, family, 7000);
    let [idle, busy] = [(); 2].map(|()| Flow::open(&lab, Tenant::Alpha, &server));
    pass(&busy.client, &busy.upstream, b"hello");
    lab.server.ip("link set s0 down");
    (&busy.client).write_all(b"anybody there?").unwrap();
    for Flow { client, .. } in [idle, busy] {
        assert_eq!(expect_reset(&client), b"");
        gateway.expect_outcome(client.local_addr().unwrap(), "upstream_lost");
    }
}

fn vanished_client_resets_the_server(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&watchful());
    let server = Server::raw(&lab, family, 7000);
    let [idle, busy] = [(); 2].map(|()| Flow::open(&lab, Tenant::Alpha, &server));
    pass(&busy.upstream, &busy.client, b"hello");
    lab.client.ip("link set c0 down");
    (&busy.upstream).write_all(b"anybody there?").unwrap();
    for Flow { client, upstream } in [idle, busy] {
        assert_eq!(expect_reset(&upstream), b"");
        gateway.expect_outcome(client.local_addr().unwrap(), "client_lost");
    }
}
