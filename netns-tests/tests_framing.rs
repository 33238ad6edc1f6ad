//! HTTP/1: no request can hide in the framing of another.

use crate::clients::expect_reset;
use crate::config::Config;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::requests::{EVIL, FIRST, OK, asking, expect, expect_denial_after, expect_record, opened};
use crate::traffic;
use serde_json::Value;
use std::io::{Read, Write};
use std::thread;

crate::trials! {
    both families:
        request_after_any_body_is_judged,
        ambiguous_second_request_is_denied,
        trailers_smuggle_no_request_or_host;
    once:
        ambiguous_first_request_reaches_no_server,
        partial_head_is_denied_at_deadline
}

fn request_after_any_body_is_judged(family: Family) {
    const BODY: usize = 20_000_000;
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Named, family, 80);
    let head = |framing: &str| format!("POST / HTTP/1.1\r\nHost: allowed.example.org\r\n{framing}\r\n\r\n");
    let (length, chunked) = (head(&format!("Content-Length: {BODY}")), head("Transfer-Encoding: chunked"));
    let (client, mut upstream) = opened(&lab, &server, &length);
    thread::scope(|scope| {
        scope.spawn(|| {
            traffic::send(&client, BODY);
            (&client).write_all(chunked.as_bytes()).unwrap();
            for size in [1, 70_000, 3] {
                write!(&client, "{size:x};a=b\r\n").unwrap();
                traffic::send(&client, size);
                (&client).write_all(b"\r\n").unwrap();
            }
            (&client).write_all(format!("0\r\nDigest: x\r\n\r\n{EVIL}").as_bytes()).unwrap();
        });
        expect(&upstream, &length);
        traffic::receive(&upstream, BODY);
        expect(&upstream, &chunked);
        for size in [1, 70_000, 3] {
            expect(&upstream, &format!("{size:x};a=b\r\n"));
            traffic::receive(&upstream, size);
            expect(&upstream, "\r\n");
        }
        expect(&upstream, "0\r\nDigest: x\r\n\r\n");
        // The responses are as long.
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {BODY}\r\n\r\n");
        let mut writer = upstream.try_clone().unwrap();
        let first = answer.clone();
        scope.spawn(move || {
            writer.write_all(first.as_bytes()).unwrap();
            traffic::send(&writer, BODY);
            writer.write_all(OK.as_bytes()).unwrap();
        });
        expect(&client, &answer);
        traffic::receive(&client, BODY);
    });
    expect_denial_after(&client, OK, "not_allowed");
    let local = client.local_addr().unwrap();
    drop(client);
    let mut rest = Vec::new();
    let _ = upstream.read_to_end(&mut rest);
    assert_eq!(rest, b"");
    expect_record(&gateway, local, "not_allowed", 2);
}

/// Requests that a server and a gateway could frame differently, each with another inside.
fn smuggled() -> Vec<String> {
    let post = |framing: &str, body: &str| {
        format!("POST /x HTTP/1.1\r\nHost: allowed.example.org\r\n{framing}\r\n\r\n{body}")
    };
    let length = EVIL.len();
    vec![
        post(&format!("Content-Length: {length}\r\nTransfer-Encoding: chunked"), &format!("0\r\n\r\n{EVIL}")),
        post(&format!("Transfer-Encoding: chunked\r\nContent-Length: {length}"), &format!("0\r\n\r\n{EVIL}")),
        post(&format!("Content-Length: 0\r\nContent-Length: {length}"), EVIL),
        post(&format!("Content-Length: {length}, 0"), EVIL),
        post("Transfer-Encoding: xchunked", EVIL),
        post("Transfer-Encoding: chunked, identity", EVIL),
        post("Transfer-Encoding:\r\n chunked", EVIL),
        post("Transfer-Encoding: chunked\r\n\tX: y", EVIL),
        post("Transfer-Encoding : chunked", EVIL),
        post("Transfer-Encoding:\u{b}chunked", EVIL),
        post(&format!("Content-Length: {length}\r\nTransfer_Encoding: chunked"), EVIL),
        FIRST.replace("\r\n\r\n", &format!("\r\nConnection: Upgrade\r\nUpgrade: h 2c\r\n\r\n{EVIL}")),
        post(&format!("Connection: Content-Length\r\nContent-Length: {length}"), EVIL),
        post(&format!("X: y\nContent-Length: {length}"), EVIL),
        FIRST.replace("\r\n\r\n", &format!("\r\nContent-Length: {length}\r\n\r\n{EVIL}")),
    ]
}

fn ambiguous_second_request_is_denied(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Named, family, 80);
    for request in smuggled() {
        let (client, mut upstream) = opened(&lab, &server, &format!("{FIRST}{request}"));
        expect(&upstream, FIRST);
        upstream.write_all(OK.as_bytes()).unwrap();
        expect_denial_after(&client, OK, "malformed_http");
        let local = client.local_addr().unwrap();
        drop(client);
        assert_eq!(expect_reset(&upstream), b"", "{request:?}");
        let flow = expect_record(&gateway, local, "malformed_http", 1);
        assert!(flow["detail"].is_string(), "{flow:#}");
    }
    // Inside a body an answer could not be told from a part of it.
    for chunks in ["5\nhello\n0\n\n", "5\r\nhello!\r\n", "ffffffffffffffff5\r\n", "0\r\nA\n\n"] {
        let head = "POST / HTTP/1.1\r\nHost: allowed.example.org\r\nTransfer-Encoding: chunked\r\n\r\n";
        let (client, upstream) = opened(&lab, &server, &format!("{head}{chunks}{EVIL}"));
        expect(&upstream, head);
        assert_eq!(expect_reset(&client), b"", "{chunks:?}");
        let passed = expect_reset(&upstream);
        assert!(chunks.as_bytes().starts_with(&passed), "{}", passed.escape_ascii());
        expect_record(&gateway, client.local_addr().unwrap(), "malformed_http", 1);
    }
}

fn trailers_smuggle_no_request_or_host(family: Family) {
    let lab = Lab::new();
    let config = Config { inspect: "deadline = \"300ms\"".into(), ..Config::default() };
    let gateway = lab.start_gateway(&config);
    let server = lab.listen(Host::Named, family, 80);
    let head = "POST / HTTP/1.1\r\nHost: allowed.example.org\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n";
    let long = format!("A: {}\r\n\r\n", "x".repeat(9000));
    for (trailers, outcome) in [
        (EVIL, "malformed_http"),
        ("Digest: x\r\nHost: denied.example.org\r\n\r\n", "malformed_http"),
        ("content_length: 100\r\n\r\n", "malformed_http"),
        ("Transfer-Encoding: chunked\r\n\r\n", "malformed_http"),
        ("GET: http://denied.example.org/ HTTP/1.1\r\n\r\n", "malformed_http"),
        ("xx\r\n\r\n", "malformed_http"),
        ("A: b\r\n c\r\n\r\n", "malformed_http"),
        ("A: b\rC: d\r\n\r\n", "malformed_http"),
        ("A: b\n\n", "malformed_http"),
        (&long, "malformed_http"),
        ("Digest: x\r\n", "inspect_timeout"),
    ] {
        let client = gateway.while_stopped(|| asking(&lab, &server, &format!("{head}{trailers}")));
        let upstream = server.accept();
        expect(&upstream, head);
        assert_eq!(expect_reset(&client), b"", "{trailers:?}");
        assert_eq!(expect_reset(&upstream), b"", "{trailers:?}");
        expect_record(&gateway, client.local_addr().unwrap(), outcome, 1);
    }
}

fn ambiguous_first_request_reaches_no_server() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Named, Family::V4, 80);
    for request in smuggled() {
        let mut client = lab.connect(Tenant::Alpha, server.address());
        client.write_all(request.as_bytes()).unwrap();
        expect_denial_after(&client, "", "malformed_http");
        let local = client.local_addr().unwrap();
        drop(client);
        let flow = gateway.expect_outcome(local, "malformed_http");
        assert_eq!((&flow["requests"], &flow["source"]), (&Value::Null, &Value::Null), "{flow:#}");
        server.assert_untouched();
    }
}

fn partial_head_is_denied_at_deadline() {
    let lab = Lab::new();
    let config = Config { inspect: "deadline = \"300ms\"\nmax_hello = \"2KiB\"".into(), ..Config::default() };
    let gateway = lab.start_gateway(&config);
    let server = lab.listen(Host::Named, Family::V4, 80);
    let long = format!("GET / HTTP/1.1\r\nHost: allowed.example.org\r\nX: {}", "y".repeat(2048));
    for (second, outcome) in [(&EVIL[..30], "inspect_timeout"), (&*long, "hello_too_large")] {
        let client = gateway.while_stopped(|| asking(&lab, &server, FIRST));
        let mut upstream = server.accept();
        expect(&upstream, FIRST);
        upstream.write_all(OK.as_bytes()).unwrap();
        expect(&client, OK);
        (&client).write_all(second.as_bytes()).unwrap();
        expect_denial_after(&client, "", outcome);
        let local = client.local_addr().unwrap();
        drop(client);
        assert_eq!(expect_reset(&upstream), b"");
        expect_record(&gateway, local, outcome, 1);
    }
}
