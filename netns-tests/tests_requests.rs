//! HTTP/1 after the first request: every request is judged.

use crate::clients::{curl_with, expect_reset, read_all, reset};
use crate::config::Config;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::nginx::Nginx;
use crate::requests::{EVIL, FIRST, OK, expect, expect_denial_after, expect_record, opened};
use crate::tests_revoke::{reload_to, with_rules};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::io::Write;
use std::net::Shutdown;

crate::trials! {
    both families:
        second_request_of_curl_is_judged,
        pipelined_requests_are_answered_in_order,
        denial_follows_earlier_answers;
    once:
        server_closing_early_ends_flow_as_denied,
        client_leaving_after_denial_is_denied,
        gateway_stop_records_the_denied_request,
        revoked_flow_with_pending_denial_is_denied,
        first_request_mode_relays_rest_unseen,
        monitor_passes_and_records_later_requests
}

fn second_request_of_curl_is_judged(family: Family) {
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

fn pipelined_requests_are_answered_in_order(family: Family) {
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

fn denial_follows_earlier_answers(family: Family) {
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

fn server_closing_early_ends_flow_as_denied() {
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

fn client_leaving_after_denial_is_denied() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Named, Family::V4, 80);
    let (client, upstream) = opened(&lab, &server, &format!("{FIRST}{EVIL}"));
    let local = client.local_addr().unwrap();
    expect(&upstream, FIRST);
    reset(client);
    assert_eq!(expect_reset(&upstream), b"");
    expect_record(&gateway, local, "not_allowed", 1);
    // Half a request is not one.
    let (client, mut upstream) = opened(&lab, &server, &format!("{FIRST}{}", &EVIL[..20]));
    client.shutdown(Shutdown::Write).unwrap();
    expect(&upstream, FIRST);
    upstream.write_all(OK.as_bytes()).unwrap();
    expect_denial_after(&client, OK, "malformed_http");
    assert_eq!(expect_reset(&upstream), b"");
    expect_record(&gateway, client.local_addr().unwrap(), "malformed_http", 1);
}

fn gateway_stop_records_the_denied_request() {
    for (mode, passes, outcome, verdict, would_deny) in [
        ("monitor", EVIL, "drained", "allow", Value::from("not_allowed")),
        ("enforce", "", "not_allowed", "deny", Value::Null),
    ] {
        let lab = Lab::new();
        let config = Config { alpha_tenant: format!("mode = \"{mode}\""), ..Config::default() };
        let mut gateway = lab.start_gateway(&config);
        let server = lab.listen(Host::Named, Family::V4, 80);
        let (client, upstream) = opened(&lab, &server, &format!("{FIRST}{EVIL}"));
        expect(&upstream, &format!("{FIRST}{passes}"));
        gateway.signal(Signal::SIGTERM);
        assert!(gateway.wait_for_end().success());
        assert_eq!(expect_reset(&client), b"");
        let flow = &gateway.wait_for_flows(1)[0];
        assert_eq!((&flow["outcome"], &flow["verdict"]), (&outcome.into(), &verdict.into()), "{flow:#}");
        assert_eq!((&flow["would_deny"], &flow["requests"]), (&would_deny, &1.into()), "{flow:#}");
        assert_eq!(flow["denied_hostname"], "denied.example.org", "{flow:#}");
    }
}

fn revoked_flow_with_pending_denial_is_denied() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&with_rules(&lab, ""));
    let server = lab.listen(Host::Named, Family::V4, 80);
    let (client, upstream) = opened(&lab, &server, &format!("{FIRST}{EVIL}"));
    expect(&upstream, FIRST);
    let rule = "[[tenant.deny]]\nname = \"no-more\"\nhosts = [\"allowed.example.org\"]\n";
    reload_to(&gateway, &with_rules(&lab, rule));
    assert_eq!(expect_reset(&client), b"");
    assert_eq!(expect_reset(&upstream), b"");
    let flow = expect_record(&gateway, client.local_addr().unwrap(), "not_allowed", 1);
    assert_eq!((&flow["verdict"], &flow["detail"]), (&"deny".into(), &Value::Null), "{flow:#}");
    assert_eq!(gateway.metric("egret_denials_total", &[("tenant", "alpha"), ("reason", "not_allowed")]), 1);
}

fn first_request_mode_relays_rest_unseen() {
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

fn monitor_passes_and_records_later_requests() {
    let lab = Lab::new();
    let gateway =
        lab.start_gateway(&Config { alpha_tenant: "mode = \"monitor\"".into(), ..Config::default() });
    let server = lab.listen(Host::Named, Family::V4, 80);
    for (second, outcome, name) in [
        (EVIL, "not_allowed", Value::from("denied.example.org")),
        ("no request\r\n\r\n", "malformed_http", Value::Null),
        (&*FIRST.replace("\r\n\r\n", "\r\nUpgrade: x\r\n\r\n"), "malformed_http", Value::Null),
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
