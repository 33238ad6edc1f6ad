//! What happens to bytes, ends and resets between the two legs of a flow.

use crate::clients::{connect_from, expect_reset, read_all, reset};
use crate::config::Config;
use crate::gateway::Gateway;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::servers::Server;
use crate::traffic::{self, pass};
use crate::wait::{PATIENCE, wait_for};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

crate::trials! {
    both families:
        a_greeting_before_any_client_byte_arrives_within_50_ms,
        a_client_that_finishes_first_gets_the_whole_answer,
        a_server_that_finishes_first_gets_the_whole_request,
        a_clients_reset_reaches_the_server_as_a_reset,
        a_client_that_leaves_while_its_server_answers_is_no_clean_end,
        a_servers_reset_reaches_the_client_as_a_reset,
        a_stalled_reader_stalls_nobody_else_and_gets_every_byte,
        small_messages_go_back_and_forth_without_a_stall,
        a_thousand_flows_live_at_once,
        an_idle_flow_is_reset_when_the_operator_wants_it,
        a_half_open_flow_is_reset_after_its_timeout,
        a_server_that_vanishes_is_noticed_and_told_to_the_client,
        a_client_that_vanishes_is_noticed_and_told_to_the_server;
    once:
        an_idle_flow_lives_on_by_default
}

const MIB: usize = 1 << 20;

/// Both ends of a new flow to a server that may speak first.
fn flow(lab: &Lab, server: &Server) -> (TcpStream, TcpStream) {
    let client = lab.connect(Tenant::Alpha, server.address());
    (client, server.accept())
}

fn a_greeting_before_any_client_byte_arrives_within_50_ms(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Raw, family, 5432);
    let greeted = || {
        let start = Instant::now();
        let (client, upstream) = flow(&lab, &server);
        pass(&upstream, &client, b"220 ready\r\n");
        let wait = start.elapsed();
        pass(&client, &upstream, b"QUIT\r\n");
        wait
    };
    let mut count = 0;
    wait_for("half of twenty greetings within 50 ms", || {
        let mut waits: Vec<Duration> = (0..20).map(|_| greeted()).collect();
        count += 20;
        waits.sort();
        if waits[10] < Duration::from_millis(50) { Ok(()) } else { Err(format!("{waits:?}")) }
    });
    for flow in gateway.wait_for_flows(count) {
        assert_eq!(
            (&flow["rule"], &flow["inspect_ms"]),
            (&"alpha-raw".into(), &serde_json::Value::Null),
            "{flow:#}"
        );
    }
}

fn a_client_that_finishes_first_gets_the_whole_answer(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Raw, family, 7000);
    let (client, upstream) = flow(&lab, &server);
    thread::scope(|scope| {
        scope.spawn(|| {
            traffic::send(&client, 3 * MIB);
            client.shutdown(Shutdown::Write).unwrap();
        });
        // The answer is on its way before the request has ended, and goes on after it.
        scope.spawn(|| traffic::receive(&client, 5 * MIB));
        traffic::send(&upstream, MIB);
        traffic::receive(&upstream, 3 * MIB);
        assert_eq!(read_all(&upstream), b"", "the request's end");
        traffic::send_from(&upstream, MIB, 5 * MIB);
    });
    let local = client.local_addr().unwrap();
    upstream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&client), b"", "the answer's end");
    let flow = gateway.expect_outcome(local, "closed");
    assert_eq!((&flow["bytes_up"], &flow["bytes_down"]), (&(3 * MIB).into(), &(5 * MIB).into()), "{flow:#}");
}

fn a_server_that_finishes_first_gets_the_whole_request(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Raw, family, 7000);
    let (client, upstream) = flow(&lab, &server);
    thread::scope(|scope| {
        scope.spawn(|| {
            traffic::send(&upstream, 3 * MIB);
            upstream.shutdown(Shutdown::Write).unwrap();
        });
        scope.spawn(|| traffic::receive(&upstream, 5 * MIB));
        traffic::send(&client, MIB);
        traffic::receive(&client, 3 * MIB);
        assert_eq!(read_all(&client), b"", "the answer's end");
        traffic::send_from(&client, MIB, 5 * MIB);
    });
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&upstream), b"", "the request's end");
    let flow = gateway.expect_outcome(client.local_addr().unwrap(), "closed");
    assert_eq!((&flow["bytes_up"], &flow["bytes_down"]), (&(5 * MIB).into(), &(3 * MIB).into()), "{flow:#}");
}

fn a_clients_reset_reaches_the_server_as_a_reset(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Raw, family, 7000);
    for (count, greeted) in (1..).zip([true, false]) {
        let (client, upstream) = flow(&lab, &server);
        if greeted {
            pass(&client, &upstream, b"hello");
            pass(&upstream, &client, b"welcome");
        }
        // A client that is gone before the gateway has seen the connection come about has just left.
        wait_for_connects(&gateway, count);
        let local = client.local_addr().unwrap();
        reset(client);
        assert_eq!(expect_reset(&upstream), b"");
        gateway.expect_outcome(local, "client_reset");
    }
    // Also when the client had said that it is done, and when bytes for it are on their way.
    let (client, upstream) = flow(&lab, &server);
    let local = client.local_addr().unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&upstream), b"");
    pass(&upstream, &client, b"part of an answer");
    reset(client);
    expect_reset_while_sending(&upstream);
    gateway.expect_outcome(local, "client_reset");
}

/// However far the connection to the server has come: what the client broke off never looks finished.
fn a_client_that_leaves_while_its_server_answers_is_no_clean_end(family: Family) {
    const FLOWS: usize = 300;
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Raw, family, 7000);
    for _ in 0..FLOWS {
        reset(lab.connect(Tenant::Alpha, server.address()));
    }
    for flow in gateway.wait_for_flows(FLOWS) {
        assert!(flow["outcome"] == "client_left" || flow["outcome"] == "client_reset", "{flow:#}");
    }
    for upstream in server.accept_those_that_came() {
        assert_eq!(expect_reset(&upstream), b"");
    }
    gateway.wait_for_metric("egret_pool_ports", &[("pool", "alpha")], |live_or_held| live_or_held == 0);
}

fn a_servers_reset_reaches_the_client_as_a_reset(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Raw, family, 7000);
    for (count, greeted) in (1..).zip([true, false]) {
        let (client, upstream) = flow(&lab, &server);
        if greeted {
            pass(&client, &upstream, b"hello");
            pass(&upstream, &client, b"welcome");
        }
        // A reset before the gateway has seen the connection come about would be a refusal.
        wait_for_connects(&gateway, count);
        reset(upstream);
        assert_eq!(expect_reset(&client), b"");
        gateway.expect_outcome(client.local_addr().unwrap(), "upstream_reset");
    }
    let (client, upstream) = flow(&lab, &server);
    upstream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&client), b"");
    pass(&client, &upstream, b"part of a request");
    reset(upstream);
    expect_reset_while_sending(&client);
    gateway.expect_outcome(client.local_addr().unwrap(), "upstream_reset");
}

/// Waits until the gateway has seen that many of alpha's connections to servers come about.
fn wait_for_connects(gateway: &Gateway, count: u64) {
    gateway.wait_for_metric("egret_connect_duration_seconds_count", &[("tenant", "alpha")], |seen| {
        seen == count
    });
}

/// The peer's end has come as a FIN already, so that a reset shows when sending.
fn expect_reset_while_sending(mut stream: &TcpStream) {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        if let Err(e) = stream.write_all(b"x") {
            let kinds = [std::io::ErrorKind::ConnectionReset, std::io::ErrorKind::BrokenPipe];
            assert!(kinds.contains(&e.kind()), "{e}");
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("no reset came");
}

fn a_stalled_reader_stalls_nobody_else_and_gets_every_byte(family: Family) {
    const TOTAL: usize = 100_000_000;
    let lab = Lab::new();
    // One worker, so that a stall would be everybody's.
    let gateway = lab.start_gateway(&Config { workers: 1, ..Config::default() });
    let server = lab.listen(Host::Raw, family, 7000);
    let (client, upstream) = flow(&lab, &server);
    let (other_client, other_upstream) = flow(&lab, &server);
    thread::scope(|scope| {
        scope.spawn(|| traffic::send(&client, TOTAL));
        scope.spawn(|| traffic::send(&upstream, TOTAL));
        // Nobody reads from the first flow yet. Its buffers fill, and stay full:
        let full = |direction| {
            let labels = [("tenant", "alpha"), ("direction", direction)];
            let mut last = 0;
            gateway.wait_for_metric("egret_flow_bytes_total", &labels, |bytes| {
                let settled = bytes > 0 && bytes == last;
                last = bytes;
                thread::sleep(Duration::from_millis(20));
                settled
            })
        };
        for direction in ["up", "down"] {
            assert!(full(direction) < TOTAL as u64, "all of it is gone, so nothing is stalled");
        }
        expect_no_stall(&other_client, &other_upstream, 100);
        traffic::receive_both(&client, &upstream, TOTAL);
    });
    let local = client.local_addr().unwrap();
    drop((client, upstream));
    let flow = gateway.expect_outcome(local, "closed");
    assert_eq!((&flow["bytes_up"], &flow["bytes_down"]), (&TOTAL.into(), &TOTAL.into()), "{flow:#}");
}

fn small_messages_go_back_and_forth_without_a_stall(family: Family) {
    let lab = Lab::new();
    let _gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Raw, family, 7000);
    let (client, upstream) = flow(&lab, &server);
    expect_no_stall(&client, &upstream, 1000);
}

/// What the gateway holds up it holds up each time. What a busy machine does, it does now and then: so many round trips
/// must come to pass of which one in a hundred took 50 ms, and half of them 5.
fn expect_no_stall(client: &TcpStream, upstream: &TcpStream, rounds: usize) {
    wait_for("round trips without a stall", || {
        let times = ping_pong(client, upstream, rounds);
        let (p50, p99) = (times[rounds / 2], times[rounds * 99 / 100 - 1]);
        let is_prompt = p50 < Duration::from_millis(5) && p99 < Duration::from_millis(50);
        if is_prompt { Ok(()) } else { Err(format!("median {p50:?}, p99 {p99:?}")) }
    });
}

/// The times of `rounds` round trips of a small message, fastest first. Two writes a message, which is what
/// delayed acknowledgements and held-back segments punish.
fn ping_pong(client: &TcpStream, upstream: &TcpStream, rounds: usize) -> Vec<Duration> {
    let mut times: Vec<Duration> = (0..rounds)
        .map(|_| {
            let start = Instant::now();
            (&mut &*client).write_all(b"ping: ").unwrap();
            (&mut &*client).write_all(b"x").unwrap();
            let mut got = [0; 7];
            (&mut &*upstream).read_exact(&mut got).unwrap();
            assert_eq!(&got, b"ping: x");
            pass(upstream, client, b"pong!");
            start.elapsed()
        })
        .collect();
    times.sort();
    times
}

fn a_thousand_flows_live_at_once(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    assert_eq!(gateway.status("CapEff"), "0000000000001000", "it may have CAP_NET_ADMIN and nothing else");
    let server = lab.listen(Host::Raw, family, 7000);
    let from = Tenant::Alpha.client(family);
    let clients: Vec<TcpStream> = lab.client.run(|| {
        (0..1000)
            .map(|_| connect_from(from, server.address(), PATIENCE).expect("one of a thousand"))
            .collect()
    });
    for (number, mut client) in (0_u32..).zip(&clients) {
        client.write_all(&number.to_be_bytes()).unwrap();
    }
    let mut upstreams: Vec<(u32, TcpStream)> = clients
        .iter()
        .map(|_| {
            let mut upstream = server.accept();
            let mut number = [0; 4];
            upstream.read_exact(&mut number).unwrap();
            (u32::from_be_bytes(number), upstream)
        })
        .collect();
    upstreams.sort_by_key(|(number, _)| *number);
    gateway.wait_for_metric("egret_flows_active", &[("tenant", "alpha")], |active| active == 1000);
    for ((_, upstream), client) in upstreams.iter().zip(&clients) {
        pass(upstream, client, b"all of us are here");
        pass(client, upstream, b"so it seems");
    }
    // Enough at once that every flow needs a pipe or has to do without.
    for (_, upstream) in &upstreams {
        (&mut &*upstream).write_all(&vec![7; 20_000]).unwrap();
    }
    for mut client in &clients {
        let mut got = vec![0; 20_000];
        client.read_exact(&mut got).unwrap();
        assert!(got.iter().all(|byte| *byte == 7));
    }
    drop((clients, upstreams));
    for flow in gateway.wait_for_flows(1000) {
        assert_eq!(flow["outcome"], "closed", "{flow:#}");
    }
    gateway.wait_for_metric("egret_flows_active", &[("tenant", "alpha")], |active| active == 0);
}

fn an_idle_flow_is_reset_when_the_operator_wants_it(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config { gateway: "idle_timeout = \"1s\"".into(), ..Config::default() });
    let server = lab.listen(Host::Raw, family, 7000);
    let (client, upstream, last) = wait_for("a flow to live on while bytes move", || {
        let opened = Instant::now();
        let (client, upstream) = flow(&lab, &server);
        let last = outlive_a_second(opened, &client, &upstream)?;
        Ok::<_, &str>((client, upstream, last))
    });
    assert_eq!(expect_reset(&client), b"");
    assert_eq!(expect_reset(&upstream), b"");
    assert!(last.elapsed() >= Duration::from_secs(1), "{:?}", last.elapsed());
    gateway.expect_outcome(client.local_addr().unwrap(), "idle_timeout");
}

fn a_half_open_flow_is_reset_after_its_timeout(family: Family) {
    let lab = Lab::new();
    let gateway =
        lab.start_gateway(&Config { gateway: "half_open_timeout = \"1s\"".into(), ..Config::default() });
    let server = lab.listen(Host::Raw, family, 7000);
    let (client, upstream, last) = wait_for("a half-open flow to live on while bytes move", || {
        let (client, upstream) = flow(&lab, &server);
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
}

/// Passes bytes often enough that a time-out of one second must not end the flow, and yields when it began to pass the
/// last. No more than that can be said where the machine itself stands still for nearly as long.
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

fn a_server_that_vanishes_is_noticed_and_told_to_the_client(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&watchful());
    let server = lab.listen(Host::Raw, family, 7000);
    let (idle, _idle_upstream) = flow(&lab, &server);
    let (busy, busy_upstream) = flow(&lab, &server);
    pass(&busy, &busy_upstream, b"hello");
    lab.server.ip("link set s0 down");
    (&mut &busy).write_all(b"anybody there?").unwrap();
    for client in [idle, busy] {
        assert_eq!(expect_reset(&client), b"");
        gateway.expect_outcome(client.local_addr().unwrap(), "upstream_lost");
    }
}

fn a_client_that_vanishes_is_noticed_and_told_to_the_server(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&watchful());
    let server = lab.listen(Host::Raw, family, 7000);
    let (idle, idle_upstream) = flow(&lab, &server);
    let (busy, busy_upstream) = flow(&lab, &server);
    pass(&busy_upstream, &busy, b"hello");
    lab.client.ip("link set c0 down");
    (&mut &busy_upstream).write_all(b"anybody there?").unwrap();
    for (client, upstream) in [(idle, idle_upstream), (busy, busy_upstream)] {
        assert_eq!(expect_reset(&upstream), b"");
        gateway.expect_outcome(client.local_addr().unwrap(), "client_lost");
    }
}

fn an_idle_flow_lives_on_by_default() {
    let lab = Lab::new();
    let _gateway =
        lab.start_gateway(&Config { gateway: "half_open_timeout = \"1s\"".into(), ..Config::default() });
    let server = lab.listen(Host::Raw, Family::V4, 7000);
    let (client, upstream) = flow(&lab, &server);
    thread::sleep(Duration::from_secs(2)); // what is shown is that nothing happens
    pass(&client, &upstream, b"still here");
    pass(&upstream, &client, b"so am I");
}
