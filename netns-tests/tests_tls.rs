//! TLS in all its forms: in pieces, malformed, too late, and too large.

use crate::clients::{connect_from, expect_hello_denied, expect_reset, expect_tls_denial, read_all, reset};
use crate::config::Config;
use crate::hello::{Hello, record};
use crate::lab::{Family, Host, Lab, Tenant};
use crate::traffic::expect_delivery;
use crate::wait::{PATIENCE, wait_until};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

crate::trials! {
    both families:
        split_hello_arrives_whole,
        split_post_quantum_hello_arrives_whole,
        hello_in_tiny_records_arrives_whole,
        malformed_hello_gets_alert,
        unknown_protocol_is_reset,
        silent_client_is_reset_at_deadline,
        partial_hello_is_denied_at_deadline,
        oversized_hello_is_denied,
        client_leaving_during_inspection_is_recorded;
    once:
}

fn split_hello_arrives_whole(family: Family) {
    every_split(family, &Hello::to("allowed.example.org").record());
}

fn split_post_quantum_hello_arrives_whole(family: Family) {
    every_split(family, &Hello::to("a.wild.example.org").post_quantum().record());
}

/// For each offset: sends the bytes before it, and, when the gateway has received them, those after it.
fn every_split(family: Family, hello: &[u8]) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Named, family, 443);
    let (to, from) = (server.address(), Tenant::Alpha.client(family));
    let next = AtomicUsize::new(1);
    let client = || {
        loop {
            let offset = next.fetch_add(1, Ordering::Relaxed);
            let Some((first, second)) = hello.split_at_checked(offset).filter(|(_, rest)| !rest.is_empty())
            else {
                return;
            };
            let mut stream = connect_from(from, to, PATIENCE).unwrap();
            stream.write_all(first).unwrap();
            wait_until_acknowledged(&stream);
            stream.write_all(second).unwrap();
            assert_eq!(read_all(&stream), b"whole", "split at {offset}");
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 1..hello.len() {
                let mut stream = server.accept();
                let mut got = vec![0; hello.len()];
                stream.read_exact(&mut got).unwrap();
                assert!(got == hello, "it arrived changed");
                stream.write_all(b"whole").unwrap();
            }
        });
        for _ in 0..8 {
            scope.spawn(|| lab.client.run(client));
        }
    });
    let flows = gateway.wait_for_flows(hello.len() - 1);
    for flow in &flows {
        assert_eq!((&flow["outcome"], &flow["rule"]), (&"closed".into(), &"alpha-names".into()), "{flow:#}");
        assert_eq!((&flow["bytes_up"], &flow["bytes_down"]), (&hello.len().into(), &5.into()), "{flow:#}");
    }
}

/// Waits until the gateway's kernel has received every byte sent.
fn wait_until_acknowledged(stream: &TcpStream) {
    wait_until("the kernel to deliver the first part", || {
        egret::sys::stream::unacknowledged(stream).unwrap() == 0
    });
}

fn hello_in_tiny_records_arrives_whole(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Named, family, 443);
    for hello in [Hello::to("allowed.example.org"), Hello::to("allowed.example.org").post_quantum()] {
        for size in [1, 2, 5, 100] {
            let bytes = hello.records_of(size);
            let client = lab.send(Tenant::Alpha, server.address(), &bytes);
            let local = client.local_addr().unwrap();
            expect_delivery(client, server.accept(), &bytes);
            gateway.expect_outcome(local, "closed");
        }
    }
}

fn malformed_hello_gets_alert(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    // A CIDR rule covers this host, but malformed hellos must not pass.
    let server = lab.listen(Host::Inspected, family, 443);
    let whole = Hello::to("allowed.example.org");
    let handshake = whole.handshake();
    let with = |at: usize, byte: u8| {
        let mut changed = handshake.clone();
        changed[at] = byte;
        record(&changed)
    };
    let cut = |bytes: &[u8]| [&bytes[..1], &[0, 0, 40], &bytes[4..44]].concat();
    for (why, bytes) in [
        ("a ServerHello", with(0, 2)),
        ("a session id beyond the end", with(38, 0xff)),
        ("a body shorter than its parts", record(&cut(&handshake))),
        ("an extension beyond the end", {
            let mut bytes = whole.clone().with_extension(0x1234, &[1, 2, 3]).handshake();
            let at = bytes.len() - 4;
            bytes[at] = 9;
            record(&bytes)
        }),
        ("a list of names longer than its extension", {
            record(&Hello::nameless().with_extension(0, &[0, 9, 0, 0, 1, b'a']).handshake())
        }),
        ("a record longer than TLS allows", [&[22, 3, 1, 0x41, 0x01], &handshake[..]].concat()),
        ("an empty record", [record(&[]), record(&handshake)].concat()),
        ("a record version that Go takes for TLS", [&[22, 4], &whole.record()[2..]].concat()),
        ("an alert before the hello", [&[21, 3, 1, 0, 2, 1, 0], &whole.record()[..]].concat()),
        ("an alert between the parts", [record(&handshake[..20]), vec![21, 3, 3, 0, 2, 1, 0]].concat()),
    ] {
        expect_hello_denied(&lab, &gateway, &server, &bytes, "malformed_tls", why);
    }
}

fn unknown_protocol_is_reset(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Named, family, 443);
    for bytes in [
        &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
        b"\x00\x01\x02\x03\x04\x05\x06\x07",
        b"\x80\x2e\x01\x00\x02\x00\x15\x00",
    ] {
        let client = lab.send(Tenant::Alpha, server.address(), bytes);
        assert_eq!(expect_reset(&client), b"");
        gateway.expect_outcome(client.local_addr().unwrap(), "no_hostname");
    }
    server.assert_untouched();
}

fn hasty() -> Config {
    Config { inspect: "deadline = \"200ms\"".into(), ..Config::default() }
}

fn silent_client_is_reset_at_deadline(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&hasty());
    let server = lab.listen(Host::Inspected, family, 443);
    let start = Instant::now();
    let client = lab.send(Tenant::Alpha, server.address(), b"");
    assert_eq!(expect_reset(&client), b"");
    let default = Duration::from_secs(5);
    assert!((Duration::from_millis(190)..default).contains(&start.elapsed()), "{:?}", start.elapsed());
    gateway.expect_outcome(client.local_addr().unwrap(), "inspect_timeout");
    server.assert_untouched();
}

fn partial_hello_is_denied_at_deadline(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&hasty());
    let server = lab.listen(Host::Named, family, 443);
    let hello = Hello::to("allowed.example.org").record();
    let client =
        gateway.while_stopped(|| lab.send(Tenant::Alpha, server.address(), &hello[..hello.len() - 1]));
    expect_tls_denial(&gateway, client, "inspect_timeout", "one byte is missing");
    server.assert_untouched();
}

fn oversized_hello_is_denied(family: Family) {
    let lab = Lab::new();
    let bounded = Config { inspect: "deadline = \"60s\"\nmax_hello = \"4KiB\"".into(), ..Config::default() };
    let gateway = lab.start_gateway(&bounded);
    let server = lab.listen(Host::Named, family, 443);
    let big = Hello::to("allowed.example.org").with_extension(21, &[0; 8000]);
    expect_hello_denied(&lab, &gateway, &server, &big.record(), "hello_too_large", "8 KB");
    let bytes = Hello::to("allowed.example.org").post_quantum().record();
    let client = lab.send(Tenant::Alpha, server.address(), &bytes);
    expect_delivery(client, server.accept(), &bytes);
}

fn client_leaving_during_inspection_is_recorded(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Named, family, 443);
    let hello = Hello::to("allowed.example.org").record();
    for said in [0, 1, hello.len() - 1] {
        let client = lab.send(Tenant::Alpha, server.address(), &hello[..said]);
        let local = client.local_addr().unwrap();
        drop(client);
        gateway.expect_outcome(local, "client_left");
        let client = lab.send(Tenant::Alpha, server.address(), &hello[..said]);
        let local = client.local_addr().unwrap();
        reset(client);
        gateway.expect_outcome(local, "client_left");
    }
    server.assert_untouched();
}
