//! Urgent data (`MSG_OOB`) arrives as part of the stream.

use crate::clients::read_all;
use crate::config::Config;
use crate::flows::Flow;
use crate::gateway::Gateway;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::requests::{FIRST, OK, expect};
use crate::servers::Server;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;

crate::trials! {
    both families:
        urgent_data_stays_in_the_stream,
        urgent_data_in_bulk_loses_nothing,
        interrupted_gateways_lose_nothing,
        urgent_data_hides_no_request;
    once:
}

fn urgent(stream: &TcpStream, bytes: &[u8]) {
    let sent = loop {
        match send(stream.as_raw_fd(), bytes, MsgFlags::MSG_OOB) {
            Err(Errno::EINTR) => {} // this process was stopped for a moment
            sent => break sent.unwrap(),
        }
    };
    assert_eq!(sent, bytes.len());
}

/// Sends piece by piece, every other as urgent data, whose last byte is the urgent one.
fn say(mut from: &TcpStream, to: &TcpStream, pieces: &[&[u8]], mut is_urgent: bool) {
    for piece in pieces {
        if is_urgent {
            urgent(from, piece);
        } else {
            from.write_all(piece).unwrap();
        }
        is_urgent = !is_urgent;
    }
    let all = pieces.concat();
    expect(to, std::str::from_utf8(&all).unwrap());
}

fn urgent_data_stays_in_the_stream(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config {
        alpha_rules: "other_protocols = \"allow\"".into(), // of the rule by address
        ..Config::default()
    });
    for host in [Host::Raw, Host::Inspected] {
        let server = lab.listen(host, family, 7000);
        for first in [false, true] {
            let client = lab.connect(Tenant::Alpha, server.address());
            let mut early = &client;
            early.write_all(b"(no HTTP)").unwrap();
            let upstream = server.accept();
            expect(&upstream, "(no HTTP)");
            for pieces in [&[&b"abc"[..], b"!", b"def"][..], &[b"!", b"!", b"!", b"!"], &[b"urgent", b"not"]]
            {
                say(&client, &upstream, pieces, first);
                say(&upstream, &client, pieces, first);
            }
            let local = client.local_addr().unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_all(&upstream), b"");
            urgent(&upstream, b"last");
            drop(upstream);
            assert_eq!(read_all(&client), b"last");
            gateway.expect_outcome(local, "closed");
        }
        // The first bytes, which are inspected.
        for first in [&b"("[..], b"(!", b"(no HTTP)"] {
            let client = lab.connect(Tenant::Alpha, server.address());
            urgent(&client, first);
            let upstream = server.accept();
            expect(&upstream, std::str::from_utf8(first).unwrap());
            say(&client, &upstream, &[b"more", b"!", b"after"], false);
        }
    }
}

fn urgent_data_in_bulk_loses_nothing(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = Server::raw(&lab, family, 7000);
    bulk_arrives(&gateway, Flow::open(&lab, Tenant::Alpha, &server));
}

/// A read at urgent data says "would block" although bytes are there, of which no event tells again, while a signal is
/// pending (`tcp_recvmsg_locked` in net/ipv4/tcp.c).
fn interrupted_gateways_lose_nothing(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = Server::raw(&lab, family, 7000);
    gateway.while_interrupted(|| {
        let flow = Flow::open(&lab, Tenant::Alpha, &server);
        for _ in 0..2_000 {
            urgent(&flow.client, b"(!");
            expect(&flow.upstream, "(!");
        }
        bulk_arrives(&gateway, flow);
    });
}

/// Many bytes both ways, urgent ones among them.
fn bulk_arrives(gateway: &Gateway<'_>, Flow { client, upstream }: Flow) {
    const PIECE: usize = 700_001;
    let piece: Vec<u8> = (0..251).cycle().take(PIECE).collect();
    let bulk = |mut stream: &TcpStream| {
        for _ in 0..8 {
            stream.write_all(&piece).unwrap();
            urgent(stream, b"!?");
        }
        stream.shutdown(Shutdown::Write).unwrap();
    };
    let arrives = |mut stream: &TcpStream| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        let sent = [&piece[..], b"!?"].concat().repeat(8);
        assert!(all == sent, "{} of {} bytes", all.len(), sent.len());
    };
    thread::scope(|scope| {
        scope.spawn(|| bulk(&client));
        scope.spawn(|| bulk(&upstream));
        scope.spawn(|| arrives(&client));
        scope.spawn(|| arrives(&upstream));
    });
    gateway.expect_outcome(client.local_addr().unwrap(), "closed");
}

/// First requests and later ones, a byte of each urgent.
fn requests_arrive(lab: &Lab, server: &Server) {
    for at in [1, 4, 30, FIRST.len()] {
        let (head, rest) = FIRST.split_at(at);
        let client = lab.connect(Tenant::Alpha, server.address());
        urgent(&client, head.as_bytes());
        (&client).write_all(rest.as_bytes()).unwrap();
        let mut upstream = server.accept();
        expect(&upstream, FIRST);
        upstream.write_all(OK.as_bytes()).unwrap();
        expect(&client, OK);
        urgent(&client, head.as_bytes());
        (&client).write_all(rest.as_bytes()).unwrap();
        expect(&upstream, FIRST);
    }
}

/// The server reads the bytes that were judged: every one, none of them urgent.
fn urgent_data_hides_no_request(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Named, family, 80);
    requests_arrive(&lab, &server);
    // A name that would be permitted only without its urgent byte is denied.
    let (head, rest) = FIRST.split_at(FIRST.find("allowed").unwrap());
    let mut client = lab.connect(Tenant::Alpha, server.address());
    client.write_all(head.as_bytes()).unwrap();
    urgent(&client, b"x");
    client.write_all(rest.as_bytes()).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    gateway.expect_outcome(client.local_addr().unwrap(), "not_allowed");
    server.assert_untouched();
}
