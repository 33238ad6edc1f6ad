//! Bytes and ends between the two legs of a flow.

use crate::clients::{connect_from, read_all};
use crate::config::Config;
use crate::flows::Flow;
use crate::lab::{Family, Lab, Tenant};
use crate::servers::Server;
use crate::traffic::{self, pass};
use crate::wait::{PATIENCE, wait_for};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

crate::trials! {
    both families:
        server_greeting_arrives_within_50_ms,
        half_closed_end_receives_everything,
        stalled_reader_delays_no_other_flow,
        small_messages_alternate_without_delay,
        relay_carries_a_thousand_flows;
    once:
}

const MIB: usize = 1 << 20;

fn server_greeting_arrives_within_50_ms(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = Server::raw(&lab, family, 5432);
    let greeted = || {
        let start = Instant::now();
        let Flow { client, upstream } = Flow::open(&lab, Tenant::Alpha, &server);
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

fn half_closed_end_receives_everything(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = Server::raw(&lab, family, 7000);
    for client_first in [true, false] {
        let Flow { client, upstream } = Flow::open(&lab, Tenant::Alpha, &server);
        let (first, last) = if client_first { (&client, &upstream) } else { (&upstream, &client) };
        thread::scope(|scope| {
            scope.spawn(|| {
                traffic::send(first, 3 * MIB);
                first.shutdown(Shutdown::Write).unwrap();
            });
            // Bytes for it are in flight before it finishes, and continue after.
            scope.spawn(|| traffic::receive(first, 5 * MIB));
            traffic::send(last, MIB);
            traffic::receive(last, 3 * MIB);
            assert_eq!(read_all(last), b"", "the end of the first");
            traffic::send_from(last, MIB, 5 * MIB);
        });
        last.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(first), b"", "the end of the last");
        let flow = gateway.expect_outcome(client.local_addr().unwrap(), "closed");
        let [up, down] = if client_first { [3 * MIB, 5 * MIB] } else { [5 * MIB, 3 * MIB] };
        assert_eq!((&flow["bytes_up"], &flow["bytes_down"]), (&up.into(), &down.into()), "{flow:#}");
    }
}

fn stalled_reader_delays_no_other_flow(family: Family) {
    const TOTAL: usize = 100_000_000;
    let lab = Lab::new();
    // One worker, so that a stall would affect all flows.
    let gateway = lab.start_gateway(&Config { workers: 1, ..Config::default() });
    let server = Server::raw(&lab, family, 7000);
    let Flow { client, upstream } = Flow::open(&lab, Tenant::Alpha, &server);
    let other = Flow::open(&lab, Tenant::Beta, &server);
    let relayed = || {
        ["up", "down"].map(|direction| {
            gateway.metric("egret_flow_bytes_total", &[("tenant", "alpha"), ("direction", direction)])
        })
    };
    thread::scope(|scope| {
        scope.spawn(|| traffic::send(&client, TOTAL));
        scope.spawn(|| traffic::send(&upstream, TOTAL));
        // The first flow is not read yet. Its buffers are full when the worker serves the other flow and has nothing to do for it.
        let stalled = wait_for("both directions to stall", || {
            let before = relayed();
            ping_pong(&other, 100);
            let after = relayed();
            if before == after && !after.contains(&0) { Ok(after) } else { Err(format!("{after:?}")) }
        });
        assert!(
            stalled.iter().all(|bytes| *bytes < TOTAL as u64),
            "all of it is gone, so nothing is stalled"
        );
        expect_no_stall(&other, 100);
        assert_eq!(relayed(), stalled, "the buffers were full all the time");
        traffic::receive_both(&client, &upstream, TOTAL);
    });
    let local = client.local_addr().unwrap();
    drop((client, upstream));
    let flow = gateway.expect_outcome(local, "closed");
    assert_eq!((&flow["bytes_up"], &flow["bytes_down"]), (&TOTAL.into(), &TOTAL.into()), "{flow:#}");
}

fn small_messages_alternate_without_delay(family: Family) {
    let lab = Lab::new();
    let _gateway = lab.start_gateway(&Config::default());
    let server = Server::raw(&lab, family, 7000);
    expect_no_stall(&Flow::open(&lab, Tenant::Alpha, &server), 1000);
}

/// A stall in the gateway happens every time, one of a busy machine now and then: so round trips are repeated until one
/// in a hundred took at most 50 ms, and half of them 5.
fn expect_no_stall(flow: &Flow, rounds: usize) {
    wait_for("round trips without a stall", || {
        let times = ping_pong(flow, rounds);
        let (p50, p99) = (times[rounds / 2], times[rounds * 99 / 100 - 1]);
        let is_prompt = p50 < Duration::from_millis(5) && p99 < Duration::from_millis(50);
        if is_prompt { Ok(()) } else { Err(format!("median {p50:?}, p99 {p99:?}")) }
    });
}

/// Times of `rounds` round trips of a small message, fastest first. Two writes per message, which delayed
/// acknowledgements and Nagle's algorithm penalise.
fn ping_pong(Flow { client, upstream }: &Flow, rounds: usize) -> Vec<Duration> {
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

fn relay_carries_a_thousand_flows(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = Server::raw(&lab, family, 7000);
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
