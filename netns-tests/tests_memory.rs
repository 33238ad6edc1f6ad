//! Memory of flows is released when they end.

use crate::clients::{connect_from, read_all};
use crate::config::Config;
use crate::hello::Hello;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::requests::FIRST;
use crate::servers::Server;
use crate::wait::PATIENCE;
use std::io::{Read, Write};
use std::net::TcpStream;

crate::trials! {
    both families: ;
    once:
        waves_of_flows_leak_no_memory,
        endless_answer_heads_take_no_memory
}

/// Concurrent flows.
const WAVE: usize = 400;

/// A leak of 200 bytes per flow would show. `scripts/bench.sh` does the same with half a million flows.
fn waves_of_flows_leak_no_memory() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Named, Family::V4, 443);
    let least_of_three_waves = || {
        let waves = (0..3).map(|_| {
            wave(&lab, &server);
            gateway.wait_for_metric("egret_flows_active", &[], |active| active == 0);
            gateway.resident_kib()
        });
        waves.min().unwrap()
    };
    least_of_three_waves(); // after these, every buffer and table has its size
    let early = least_of_three_waves();
    least_of_three_waves();
    let late = least_of_three_waves();
    assert!(late * 100 <= early * 105, "resident: {early} KiB, and {} flows later {late} KiB", 6 * WAVE);
}

/// Opens flows, passes bytes both ways, and closes them, the server first.
fn wave(lab: &Lab, server: &Server) {
    let from = Tenant::Alpha.client(Family::V4);
    let hello = Hello::to("allowed.example.org").record();
    let open = || {
        let mut client = connect_from(from, server.address(), PATIENCE).unwrap();
        client.write_all(&hello).unwrap();
        client
    };
    let clients: Vec<TcpStream> = lab.client.run(|| (0..WAVE).map(|_| open()).collect());
    let mut upstreams: Vec<TcpStream> = clients.iter().map(|_| server.accept()).collect();
    for upstream in &mut upstreams {
        upstream.read_exact(&mut vec![0; hello.len()]).unwrap();
        upstream.write_all(b"answer").unwrap();
    }
    drop(upstreams);
    for client in &clients {
        assert_eq!(read_all(client), b"answer");
    }
}

/// Sixty kilobytes of each head have arrived, and been delivered: buffered, they would be 24 MB.
fn endless_answer_heads_take_no_memory() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Named, Family::V4, 80);
    let from = Tenant::Alpha.client(Family::V4);
    let wave = |answer: &str| {
        let open = || {
            let mut client = connect_from(from, server.address(), PATIENCE).unwrap();
            client.write_all(FIRST.as_bytes()).unwrap();
            client
        };
        let clients: Vec<TcpStream> = lab.client.run(|| (0..WAVE).map(|_| open()).collect());
        let upstreams: Vec<TcpStream> = clients.iter().map(|_| server.accept()).collect();
        for mut upstream in &upstreams {
            upstream.read_exact(&mut vec![0; FIRST.len()]).unwrap();
            upstream.write_all(answer.as_bytes()).unwrap();
        }
        for mut client in &clients {
            client.read_exact(&mut vec![0; answer.len()]).unwrap();
        }
        (gateway.resident_kib(), clients, upstreams)
    };
    let body = "x".repeat(60_000);
    let whole = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    drop(wave(&whole)); // after this, every buffer and table has its size
    gateway.wait_for_metric("egret_flows_active", &[], |active| active == 0);
    let (after_answers, ..) = wave(&whole);
    gateway.wait_for_metric("egret_flows_active", &[], |active| active == 0);
    for endless in [
        format!("HTTP/1.1 200 OK\r\nX: {body}"),
        format!("HTTP/1.1 200 OK\r\n{}", "X: y\r\n".repeat(200)),
        "HTTP/1.1 100 Continue\r\n\r\n".repeat(2000),
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;{body}"),
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: {body}"),
    ] {
        let (in_heads, ..) = wave(&endless);
        gateway.wait_for_metric("egret_flows_active", &[], |active| active == 0);
        let each = in_heads.saturating_sub(after_answers) * 1024 / WAVE as u64;
        assert!(each < 4096, "{each} bytes more for each flow with {:?}…", &endless[..40]);
    }
}
