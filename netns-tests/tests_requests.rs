//! HTTP/1 after the first request: every one is judged, and none slips by in the framing of another.

use crate::clients::{curl_with, expect_reset, read_all, reset};
use crate::config::Config;
use crate::gateway::Gateway;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::nginx::Nginx;
use crate::servers::Server;
use crate::traffic;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;

crate::trials! {
    both families:
        curls_second_request_on_one_connection_is_judged_by_itself,
        requests_in_advance_are_answered_in_their_order,
        the_denial_waits_for_the_answers_before_it,
        a_request_after_a_body_is_judged_however_long_the_body,
        a_second_request_that_could_be_read_in_two_ways_is_denied,
        what_follows_an_upgrade_that_the_server_took_passes_unseen;
    once:
        a_first_request_that_could_be_read_in_two_ways_reaches_nobody,
        an_upgrade_that_the_server_declined_opens_nothing,
        a_server_that_closes_instead_of_answering_ends_the_flow_as_denied,
        what_waits_for_an_answer_does_so_for_as_long_as_one_can_come,
        a_client_that_leaves_after_its_denied_request_is_recorded_as_denied,
        a_head_that_stops_half_way_is_denied_at_the_deadline,
        under_first_request_the_rest_is_relayed_unseen,
        monitor_mode_lets_later_requests_pass_and_notes_them
}

const FIRST: &str = "GET /first HTTP/1.1\r\nHost: allowed.example.org\r\n\r\n";
const EVIL: &str = "GET /second HTTP/1.1\r\nHost: denied.example.org\r\n\r\n";
pub const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A client's connection, on which it has sent this, and the server's end of it.
pub fn opened(lab: &Lab, server: &Server, sent: &str) -> (TcpStream, TcpStream) {
    (asking(lab, server, sent), server.accept())
}

fn asking(lab: &Lab, server: &Server, sent: &str) -> TcpStream {
    let mut client = lab.connect(Tenant::Alpha, server.address());
    client.write_all(sent.as_bytes()).unwrap();
    client
}

/// Exactly this arrives next.
pub fn expect(mut stream: &TcpStream, wanted: &str) {
    let mut got = vec![0; wanted.len()];
    stream.read_exact(&mut got).unwrap_or_else(|e| panic!("{wanted:?} did not arrive: {e}"));
    assert_eq!(String::from_utf8_lossy(&got), wanted);
}

/// The client reads these answers, then why its next request was denied, and a clean end.
pub fn expect_denial_after(client: &TcpStream, answers: &str, outcome: &str) {
    let all = String::from_utf8(read_all(client)).unwrap();
    let denial =
        all.strip_prefix(answers).unwrap_or_else(|| panic!("{answers:?} is not what {all:?} starts with"));
    assert!(denial.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{denial:?}");
    assert!(denial.contains(&format!("reason: {outcome}")), "{denial:?}");
}

/// The record of a flow that was let out, and ended for a later request.
fn expect_record(gateway: &Gateway, client: SocketAddr, outcome: &str, requests: u64) -> Value {
    let flow = gateway.expect_outcome(client, outcome);
    assert_eq!(
        (&flow["hostname"], &flow["verdict"]),
        (&"allowed.example.org".into(), &"deny".into()),
        "{flow:#}"
    );
    assert_eq!(flow["requests"], requests, "{flow:#}");
    flow
}

fn curls_second_request_on_one_connection_is_judged_by_itself(family: Family) {
    let lab = Lab::new();
    let web = Nginx::start(&lab);
    let gateway = lab.start_gateway(&Config::default());
    let both = |second: &str| {
        let host = format!("Host: {second}");
        let url = "http://allowed.example.org/";
        let next = ["--next", "--silent", "--include", "--max-time", "30", "-H", &host, url];
        curl_with(&lab, Tenant::Alpha, family, url, Host::Web, &web.certificate(), &next)
    };
    let said = both("any.wild.example.org");
    assert_eq!(said.code, 0, "{}", said.text);
    assert!(
        said.text.contains("host=allowed.example.org") && said.text.contains("host=any.wild.example.org"),
        "{}",
        said.text
    );
    let said = both("denied.example.org");
    let answers: Vec<_> = said.text.matches("HTTP/1.1 ").collect();
    assert_eq!((said.code, answers.len()), (0, 2), "{}", said.text);
    assert!(said.text.find("host=allowed.example.org") < said.text.find("HTTP/1.1 403"), "{}", said.text);
    assert!(said.text.contains("destination: denied.example.org:80\nreason: not_allowed"), "{}", said.text);
    let flows = gateway.wait_for_flows(2);
    assert_eq!(
        (&flows[0]["outcome"], &flows[0]["requests"]),
        (&"closed".into(), &2.into()),
        "{:#}",
        flows[0]
    );
    let denied = &flows[1];
    assert_eq!((&denied["outcome"], &denied["requests"]), (&"not_allowed".into(), &1.into()), "{denied:#}");
    assert_eq!(denied["hostname"], "allowed.example.org", "{denied:#}");
    assert_eq!(denied["denied_hostname"], "denied.example.org", "{denied:#}");
    assert_eq!(gateway.metric("egret_http_requests_total", &[("tenant", "alpha")]), 3);
    assert_eq!(gateway.metric("egret_denials_total", &[("tenant", "alpha"), ("reason", "not_allowed")]), 1);
}

fn requests_in_advance_are_answered_in_their_order(family: Family) {
    let lab = Lab::new();
    let _web = Nginx::start(&lab);
    let gateway = lab.start_gateway(&Config::default());
    let mut client = lab.connect(Tenant::Alpha, Host::Web.at(family, 80));
    let local = client.local_addr().unwrap();
    let head = "HEAD / HTTP/1.1\r\nHost: allowed.example.org\r\n\r\n";
    client.write_all(format!("{FIRST}{head}{FIRST}{EVIL}{FIRST}").as_bytes()).unwrap();
    let all = String::from_utf8(read_all(&client)).unwrap();
    let statuses: Vec<_> = all.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect();
    assert_eq!(statuses, ["200", "200", "200", "403"], "{all}");
    assert_eq!(all.matches("host=allowed.example.org").count(), 2, "{all}");
    drop(client);
    let flow = expect_record(&gateway, local, "not_allowed", 3);
    assert_eq!(flow["denied_hostname"], "denied.example.org", "{flow:#}");
}

fn the_denial_waits_for_the_answers_before_it(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Named, family, 80);
    let (client, mut upstream) = opened(&lab, &server, &format!("{FIRST}{EVIL}"));
    expect(&upstream, FIRST);
    upstream
        .write_all(b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        .unwrap();
    expect(&client, "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    upstream.write_all(b"5\r\nhello\r\n").unwrap();
    expect(&client, "5\r\nhello\r\n");
    upstream.write_all(b"0\r\n\r\n").unwrap();
    expect_denial_after(&client, "0\r\n\r\n", "not_allowed");
    let local = client.local_addr().unwrap();
    drop(client);
    assert_eq!(expect_reset(&upstream), b"", "the denied request did not reach the server");
    expect_record(&gateway, local, "not_allowed", 1);
}

fn a_request_after_a_body_is_judged_however_long_the_body(family: Family) {
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
        // The answers are as long.
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
        post(&format!("X: y\nContent-Length: {length}"), EVIL),
        FIRST.replace("\r\n\r\n", &format!("\r\nContent-Length: {length}\r\n\r\n{EVIL}")),
    ]
}

fn a_second_request_that_could_be_read_in_two_ways_is_denied(family: Family) {
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
    // In the middle of a body nobody could tell an answer from a part of one.
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

fn what_follows_an_upgrade_that_the_server_took_passes_unseen(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Named, family, 80);
    let upgrade = "GET /chat HTTP/1.1\r\nHost: allowed.example.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let (client, mut upstream) = opened(&lab, &server, &format!("{upgrade}{EVIL}"));
    expect(&upstream, upgrade);
    let taken =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\u{1}hi";
    upstream.write_all(taken.as_bytes()).unwrap();
    expect(&client, taken);
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

fn a_first_request_that_could_be_read_in_two_ways_reaches_nobody() {
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

fn an_upgrade_that_the_server_declined_opens_nothing() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Named, Family::V4, 80);
    for protocol in ["websocket", "h2c"] {
        let upgrade = format!(
            "GET / HTTP/1.1\r\nHost: allowed.example.org\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n\r\n"
        );
        let (client, mut upstream) = opened(&lab, &server, &format!("{upgrade}{FIRST}{EVIL}"));
        expect(&upstream, &upgrade);
        upstream.write_all(OK.as_bytes()).unwrap();
        expect(&upstream, FIRST);
        upstream.write_all(OK.as_bytes()).unwrap();
        expect_denial_after(&client, &OK.repeat(2), "not_allowed");
        let local = client.local_addr().unwrap();
        drop(client);
        assert_eq!(expect_reset(&upstream), b"");
        expect_record(&gateway, local, "not_allowed", 2);
    }
    // HTTP/2 without TLS may be offered, but nobody would see its requests.
    let upgrade = "GET / HTTP/1.1\r\nHost: allowed.example.org\r\nUpgrade: h2c\r\n\r\n";
    let (mut client, mut upstream) = opened(&lab, &server, upgrade);
    expect(&upstream, upgrade);
    upstream.write_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\n").unwrap();
    expect(&client, "HTTP/1.1 101 Switching Protocols\r\n\r\n");
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    expect_reset(&client);
    assert_eq!(expect_reset(&upstream), b"");
    let flow = expect_record(&gateway, client.local_addr().unwrap(), "malformed_http", 1);
    assert_eq!(flow["detail"], "HTTP/2 without TLS", "{flow:#}");
}

fn a_server_that_closes_instead_of_answering_ends_the_flow_as_denied() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Named, Family::V4, 80);
    for said in ["", "HTTP/1.0 200 OK\r\n\r\nuntil the end"] {
        let (client, mut upstream) = opened(&lab, &server, &format!("{FIRST}{EVIL}"));
        expect(&upstream, FIRST);
        upstream.write_all(said.as_bytes()).unwrap();
        drop(upstream);
        assert_eq!(String::from_utf8(read_all(&client)).unwrap(), said);
        let local = client.local_addr().unwrap();
        drop(client);
        expect_record(&gateway, local, "not_allowed", 1);
    }
    let (client, upstream) = opened(&lab, &server, &format!("{FIRST}{EVIL}"));
    expect(&upstream, FIRST);
    reset(upstream);
    assert_eq!(expect_reset(&client), b"");
    expect_record(&gateway, client.local_addr().unwrap(), "not_allowed", 1);
}

fn what_waits_for_an_answer_does_so_for_as_long_as_one_can_come() {
    let lab = Lab::new();
    let config = Config { gateway: "half_open_timeout = \"1s\"".into(), ..Config::default() };
    let gateway = lab.start_gateway(&config);
    let server = lab.listen(Host::Named, Family::V4, 80);
    let upgrade = "GET / HTTP/1.1\r\nHost: allowed.example.org\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
    let upgraded = |second: &str| {
        let (client, mut upstream) = opened(&lab, &server, &format!("{FIRST}{upgrade}{second}"));
        expect(&upstream, &format!("{FIRST}{upgrade}"));
        upstream.write_all(OK.as_bytes()).unwrap();
        expect(&client, OK);
        (client, upstream)
    };
    // The server finishes instead of answering.
    for (second, passes) in [(EVIL, false), (FIRST, true)] {
        let (client, upstream) = upgraded(second);
        upstream.shutdown(Shutdown::Write).unwrap();
        let local = client.local_addr().unwrap();
        if passes {
            expect(&upstream, second);
            drop((client, upstream));
            gateway.expect_outcome(local, "closed");
        } else {
            assert_eq!(read_all(&client), b"");
            drop(client);
            expect_record(&gateway, local, "not_allowed", 2);
        }
    }
    // The server says nothing, and the client has gone.
    let (client, upstream) = upgraded(EVIL);
    let local = client.local_addr().unwrap();
    drop(client);
    assert_eq!(expect_reset(&upstream), b"");
    gateway.expect_outcome(local, "half_open_timeout");
}

fn a_client_that_leaves_after_its_denied_request_is_recorded_as_denied() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Named, Family::V4, 80);
    let (client, upstream) = opened(&lab, &server, &format!("{FIRST}{EVIL}"));
    let local = client.local_addr().unwrap();
    expect(&upstream, FIRST);
    reset(client);
    assert_eq!(expect_reset(&upstream), b"");
    expect_record(&gateway, local, "not_allowed", 1);
    // Half a request is none.
    let (client, mut upstream) = opened(&lab, &server, &format!("{FIRST}{}", &EVIL[..20]));
    client.shutdown(Shutdown::Write).unwrap();
    expect(&upstream, FIRST);
    upstream.write_all(OK.as_bytes()).unwrap();
    expect_denial_after(&client, OK, "malformed_http");
    assert_eq!(expect_reset(&upstream), b"");
    expect_record(&gateway, client.local_addr().unwrap(), "malformed_http", 1);
}

fn a_head_that_stops_half_way_is_denied_at_the_deadline() {
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

fn under_first_request_the_rest_is_relayed_unseen() {
    let lab = Lab::new();
    let rule = "[[tenant.allow]]\nname = \"once\"\nhosts = [\"once.example.org\"]\nhttp = \"first-request\"";
    let gateway = lab.start_gateway(&Config { alpha_rules: rule.into(), ..Config::default() });
    let server = lab.listen(Host::Named, Family::V4, 80);
    let first = "GET / HTTP/1.1\r\nHost: once.example.org\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n";
    let (client, upstream) = opened(&lab, &server, &format!("{first}{EVIL}\0"));
    expect(&upstream, &format!("{first}{EVIL}\0"));
    let local = client.local_addr().unwrap();
    drop(client);
    assert_eq!(read_all(&upstream), b"");
    drop(upstream);
    let flow = gateway.expect_outcome(local, "closed");
    assert_eq!((&flow["rule"], &flow["requests"]), (&"once".into(), &Value::Null), "{flow:#}");
}

fn monitor_mode_lets_later_requests_pass_and_notes_them() {
    let lab = Lab::new();
    let gateway =
        lab.start_gateway(&Config { alpha_tenant: "mode = \"monitor\"".into(), ..Config::default() });
    let server = lab.listen(Host::Named, Family::V4, 80);
    for (second, outcome, name) in [
        (EVIL, "not_allowed", Value::from("denied.example.org")),
        ("no request\r\n\r\n", "malformed_http", Value::Null),
        (&EVIL[..20], "malformed_http", Value::Null),
    ] {
        let (client, upstream) = opened(&lab, &server, &format!("{FIRST}{second}"));
        client.shutdown(Shutdown::Write).unwrap();
        expect(&upstream, &format!("{FIRST}{second}"));
        assert_eq!(read_all(&upstream), b"");
        drop(upstream);
        let flow = gateway.expect_outcome(client.local_addr().unwrap(), "closed");
        assert_eq!((&flow["verdict"], &flow["would_deny"]), (&"allow".into(), &outcome.into()), "{flow:#}");
        assert_eq!((&flow["denied_hostname"], &flow["requests"]), (&name, &1.into()), "{flow:#}");
    }
}
