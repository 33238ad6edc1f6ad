//! HTTP/1: bytes after an upgrade pass unchecked only if the server accepted it.

use crate::clients::{expect_reset, read_all};
use crate::config::Config;
use crate::lab::{Family, Host, Lab};
use crate::requests::{EVIL, FIRST, OK, asking, expect, expect_denial_after, expect_record, opened};
use crate::traffic;
use std::io::Write;
use std::net::Shutdown;

crate::trials! {
    both families:
        accepted_upgrade_passes_unseen,
        http2_upgrade_never_reaches_the_server;
    once:
        declined_upgrade_keeps_inspection,
        held_bytes_wait_for_possible_answer
}

fn accepted_upgrade_passes_unseen(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Named, family, 80);
    let upgrade = "GET /chat HTTP/1.1\r\nHost: allowed.example.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let taken =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\u{1}hi";
    // Some servers end lines in LF alone.
    for taken in [taken.to_owned(), taken.replace('\r', "")] {
        let (client, mut upstream) = opened(&lab, &server, &format!("{upgrade}{EVIL}"));
        expect(&upstream, upgrade);
        upstream.write_all(taken.as_bytes()).unwrap();
        expect(&client, &taken);
        expect(&upstream, EVIL);
        traffic::pass(&client, &upstream, b"\x82\x05\0\r\n\r\n");
        traffic::pass(&upstream, &client, b"HTTP/1.1 not HTTP");
        let local = client.local_addr().unwrap();
        drop(client);
        assert_eq!(read_all(&upstream), b"");
        drop(upstream);
        let flow = gateway.expect_outcome(local, "closed");
        assert_eq!(flow["requests"], 1, "{flow:#}");
    }
}

fn declined_upgrade_keeps_inspection() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Named, Family::V4, 80);
    let upgrade =
        "GET / HTTP/1.1\r\nHost: allowed.example.org\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    let (client, mut upstream) = opened(&lab, &server, &format!("{upgrade}{FIRST}{EVIL}"));
    expect(&upstream, upgrade);
    upstream.write_all(OK.as_bytes()).unwrap();
    expect(&upstream, FIRST);
    upstream.write_all(OK.as_bytes()).unwrap();
    expect_denial_after(&client, &OK.repeat(2), "not_allowed");
    let local = client.local_addr().unwrap();
    drop(client);
    assert_eq!(expect_reset(&upstream), b"");
    expect_record(&gateway, local, "not_allowed", 2);
}

/// As Java's client sends it by default, with each first request of a connection.
fn http2_upgrade_never_reaches_the_server(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Named, family, 80);
    let offer = |connection: &str, upgrade: &str, settings: &str| {
        format!(
            "GET /first HTTP/1.1\r\nConnection: {connection}\r\nHost: allowed.example.org\r\n\
             {settings}: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n{upgrade}: h2c\r\nUser-Agent: Java\r\n\r\n"
        )
    };
    let sent = offer("Upgrade, HTTP2-Settings", "Upgrade", "HTTP2-Settings");
    let passed = offer("Ignored, Ignored-Header", "Ignored", "Ignored-Header");
    // In pieces, too, and with more bytes after it.
    for pieces in [vec![&sent[..], EVIL], vec![&sent[..40], &sent[40..], EVIL]] {
        let client = asking(&lab, &server, pieces[0]);
        for piece in &pieces[1..] {
            (&client).write_all(piece.as_bytes()).unwrap();
        }
        let mut upstream = server.accept();
        expect(&upstream, &passed);
        upstream.write_all(OK.as_bytes()).unwrap();
        expect_denial_after(&client, OK, "not_allowed");
        let local = client.local_addr().unwrap();
        drop(client);
        assert_eq!(expect_reset(&upstream), b"");
        expect_record(&gateway, local, "not_allowed", 1);
    }
    // If a server accepts what it was not offered, all further requests are still judged.
    let (mut client, mut upstream) = opened(&lab, &server, &sent);
    expect(&upstream, &passed);
    upstream.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").unwrap();
    expect(&client, "HTTP/1.1 101 Switching Protocols\r\n\r\n");
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    expect_reset(&client);
    assert_eq!(expect_reset(&upstream), b"");
    let flow = expect_record(&gateway, client.local_addr().unwrap(), "malformed_http", 1);
    assert_eq!(flow["detail"], "HTTP/2 without TLS", "{flow:#}");
}

fn held_bytes_wait_for_possible_answer() {
    let lab = Lab::new();
    let mut config = Config { gateway: "half_open_timeout = \"1s\"".into(), ..Config::default() };
    let gateway = lab.start_gateway(&config);
    let server = lab.listen(Host::Named, Family::V4, 80);
    let upgrade =
        "GET / HTTP/1.1\r\nHost: allowed.example.org\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    let upgraded = |second: &str| {
        let (client, mut upstream) = opened(&lab, &server, &format!("{FIRST}{upgrade}{second}"));
        expect(&upstream, FIRST);
        upstream.write_all(OK.as_bytes()).unwrap();
        expect(&client, OK);
        // Not before the answer to the first.
        expect(&upstream, upgrade);
        (client, upstream)
    };
    // The server closes instead of answering.
    for (second, passes) in [(EVIL, false), (FIRST, true)] {
        let (client, upstream) = upgraded(second);
        upstream.shutdown(Shutdown::Write).unwrap();
        let local = client.local_addr().unwrap();
        if passes {
            expect(&upstream, second);
            drop((client, upstream));
            gateway.expect_outcome(local, "upstream_reset");
        } else {
            assert_eq!(read_all(&client), b"");
            drop(client);
            expect_record(&gateway, local, "not_allowed", 2);
        }
    }
    // The server is silent, and the client has gone.
    let (client, upstream) = upgraded(EVIL);
    let local = client.local_addr().unwrap();
    drop(client);
    assert_eq!(expect_reset(&upstream), b"");
    gateway.expect_outcome(local, "half_open_timeout");
    // The server only says that it has not answered yet.
    drop(gateway);
    config.inspect = "deadline = \"100ms\"".into();
    let gateway = lab.start_gateway(&config);
    let (client, mut upstream) = upgraded(FIRST);
    upstream.write_all(b"HTTP/1.1 102 Processing\r\n\r\n").unwrap();
    expect(&client, "HTTP/1.1 102 Processing\r\n\r\n");
    assert_eq!(expect_reset(&client), b"");
    assert_eq!(expect_reset(&upstream), b"");
    expect_record(&gateway, client.local_addr().unwrap(), "inspect_timeout", 2);
}
