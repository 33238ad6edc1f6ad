//! Urgent data (`MSG_OOB`) arrives as part of the stream.

use crate::clients::read_all;
use crate::config::Config;
use crate::flows::Flow;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::requests::{FIRST, OK, expect};
use crate::servers::Server;
use nix::sys::socket::{MsgFlags, send};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;

crate::trials! {
    both families:
        urgent_data_stays_in_the_stream,
        urgent_data_in_bulk_loses_nothing,
        urgent_data_hides_no_request;
    once:
}

fn urgent(stream: &TcpStream, bytes: &[u8]) {
    assert_eq!(send(stream.as_raw_fd(), bytes, MsgFlags::MSG_OOB).unwrap(), bytes.len());
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
    const PIECE: usize = 700_001;
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = Server::raw(&lab, family, 7000);
    let Flow { client, upstream } = Flow::open(&lab, Tenant::Alpha, &server);
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

/// The server reads the bytes that were judged: every one, none of them urgent.
fn urgent_data_hides_no_request(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Named, family, 80);
    for at in [1, 4, 30, FIRST.len()] {
        let (head, rest) = FIRST.split_at(at);
        let client = lab.connect(Tenant::Alpha, server.address());
        urgent(&client, head.as_bytes());
        (&client).write_all(rest.as_bytes()).unwrap();
        let mut upstream = server.accept();
        expect(&upstream, FIRST);
        upstream.write_all(OK.as_bytes()).unwrap();
        expect(&client, OK);
        // The same for later bytes.
        urgent(&client, head.as_bytes());
        (&client).write_all(rest.as_bytes()).unwrap();
        expect(&upstream, FIRST);
    }
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
