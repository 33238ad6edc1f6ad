//! HTTP/1: judged by Host or absolute form, denied with a readable answer.

use crate::clients::{expect_http_denial, read_all};
use crate::config::Config;
use crate::gateway::Gateway;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::namespace::text;
use crate::servers::Server;
use crate::traffic::expect_delivery;
use std::io::Write;

crate::trials! {
    both families:
        allowed_request_arrives_whole,
        request_for_other_host_gets_403,
        ambiguous_request_gets_error_answer,
        only_cidr_rule_permits_missing_host,
        head_in_single_bytes_arrives_whole,
        denial_names_its_rule;
    once:
}

fn expect_denial(lab: &Lab, gateway: &Gateway, server: &Server, request: &[u8], outcome: &str, why: &str) {
    let client = lab.send(Tenant::Alpha, server.address(), request);
    let local = client.local_addr().unwrap();
    expect_http_denial(&client, 403, &["alpha", outcome]);
    drop(client); // the record is written when both sides have closed
    let flow = gateway.flow_from(local);
    assert_eq!((&flow["outcome"], &flow["protocol"]), (&outcome.into(), &"http".into()), "{why}: {flow:#}");
    server.assert_untouched();
}

fn allowed_request_arrives_whole(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Named, family, 80);
    for request in [
        "GET / HTTP/1.1\r\nHost: allowed.example.org\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: allowed.example.org\r\n\r\n",
        "POST /x HTTP/1.1\r\nContent-Length: 5\r\nhOsT:   Allowed.Example.ORG.:80 \r\n\r\nhello",
        "GET http://allowed.example.org/x HTTP/1.1\r\nHost: allowed.example.org\r\n\r\n",
        "GET http://ALLOWED.example.org:80 HTTP/1.1\r\nHost: allowed.example.org\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: allowed.example.org\r\n\r\n",
    ] {
        let client = lab.send(Tenant::Alpha, server.address(), request.as_bytes());
        let local = client.local_addr().unwrap();
        expect_delivery(client, server.accept(), request.as_bytes());
        let flow = gateway.expect_outcome(local, "closed");
        assert_eq!(flow["hostname"], "allowed.example.org", "{flow:#}");
        assert_eq!(flow["hostname_from"], "http_host", "{flow:#}");
    }
}

/// From the refusal's flow ID to the rule that would have permitted it, as a refused user would search.
fn denial_names_its_rule(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config {
        policy: "help = \"ask #net-egress\"".to_owned(),
        gateway: format!("admin = \"unix:{}\"", lab.control_socket()),
        ..Config::default()
    });
    let server = lab.listen(Host::Named, family, 80);
    let request = "GET / HTTP/1.1\r\nHost: new.example.org\r\n\r\n";
    let client = lab.send(Tenant::Alpha, server.address(), request.as_bytes());
    let page = String::from_utf8(read_all(&client)).unwrap();
    assert!(page.ends_with("\nask #net-egress\n"), "{page}");
    let id = page.lines().find_map(|line| line.strip_prefix("flow: ")).expect("the flow's ID");
    let flow = gateway.flow_from(client.local_addr().unwrap());
    assert_eq!(flow["flow"], id, "{flow:#}");

    let why = gateway.egret(&["why", id]);
    let said = text(&why);
    assert!(why.status.success() && said.contains("outcome  not_allowed"), "{said}");
    assert!(
        said.contains(&format!("`egret allow {id}`")) && said.contains("help     ask #net-egress"),
        "{said}"
    );
    let allow = gateway.egret(&["allow", id, "--write"]);
    assert!(allow.status.success(), "{}", text(&allow));
    let reload = gateway.egret(&["reload"]);
    assert!(reload.status.success(), "{}", text(&reload));
    let said = text(&gateway.egret(&["why", id]));
    assert!(said.contains("would allow it now") && !said.contains("egret allow"), "{said}");
    let client = lab.send(Tenant::Alpha, server.address(), request.as_bytes());
    expect_delivery(client, server.accept(), request.as_bytes());
    let tests = gateway.flow_log().with_file_name("policy-tests.toml");
    let check = gateway.egret(&["check", "--tests", tests.to_str().unwrap()]);
    assert!(check.status.success() && text(&check).contains("tests: 1 passed"), "{}", text(&check));
}

fn request_for_other_host_gets_403(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Named, family, 80);
    for (host, outcome) in [
        ("denied.example.org", "not_allowed"),
        ("wild.example.org", "not_allowed"),
        ("secret.wild.example.org", "denied_by_rule"),
        ("198.51.100.11", "invalid_hostname"),
        ("[2001:db8:51::b]", "invalid_hostname"),
        (".wild.example.org", "invalid_hostname"),
        ("a..wild.example.org", "invalid_hostname"),
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        expect_denial(&lab, &gateway, &server, request.as_bytes(), outcome, host);
    }
    let absolute = b"GET http://denied.example.org/ HTTP/1.1\r\nHost: denied.example.org\r\n\r\n";
    expect_denial(&lab, &gateway, &server, absolute, "not_allowed", "absolute form");
}

fn ambiguous_request_gets_error_answer(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    // A CIDR rule covers this host, but ambiguous requests must not pass.
    let server = lab.listen(Host::Inspected, family, 80);
    for value in [
        "allowed.example.org, evil.example",
        "allowed.example.org,evil.example",
        "evil.example@allowed.example.org",
        "allowed.example.org@evil.example",
        "allowed.example.org:80@evil.example",
        "allowed.example.org\0",
        "allowed.example.org\0.evil.example",
        "allowed.example.org:80x",
        "allowed.example.org:x",
        "allowed.example.org:80:80",
        "allowed.example.org:80 evil.example",
        "allowed.example.org/evil.example",
        "allowed.example.org#evil.example",
        "allowed.example.org\\evil.example",
        "allowed.example.org\r\nHost: evil.example",
        "evil.example\r\nHost: allowed.example.org",
        "allowed.example.org\r\nHost: allowed.example.org",
        "allowed.example.org\r\n evil.example",
        "allowed.example.org\nHost: evil.example",
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: {value}\r\n\r\n");
        expect_denial(&lab, &gateway, &server, request.as_bytes(), "malformed_http", value);
    }
    for request in [
        "GET http://evil.example/ HTTP/1.1\r\nHost: allowed.example.org\r\n\r\n",
        "GET http://allowed.example.org/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        "GET http://allowed.example.org@evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : allowed.example.org\r\n\r\n",
        "CONNECT allowed.example.org:443 HTTP/1.1\r\nHost: allowed.example.org:443\r\n\r\n",
        " GET / HTTP/1.1\r\nHost: secret.wild.example.org\r\n\r\n",
        "GET\t/\r\nHost: secret.wild.example.org\r\n\r\n",
        "\r\nGET / HTTP/1.1\r\nHost: secret.wild.example.org\r\n\r\n",
        "Get / HTTP/1.1\r\nHost: secret.wild.example.org\r\n\r\n",
    ] {
        expect_denial(&lab, &gateway, &server, request.as_bytes(), "malformed_http", request);
    }
    let request = b"pUT / HTTP/1.1\r\nHost: secret.wild.example.org\r\n\r\n";
    expect_denial(&lab, &gateway, &server, request, "denied_by_rule", "a method of its own");
}

fn only_cidr_rule_permits_missing_host(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let request = b"GET / HTTP/1.0\r\n\r\n";
    let named = lab.listen(Host::Named, family, 80);
    expect_denial(&lab, &gateway, &named, request, "no_hostname", "no Host");
    let inspected = lab.listen(Host::Inspected, family, 80);
    let mut client = lab.connect(Tenant::Alpha, inspected.address());
    client.write_all(request).unwrap();
    expect_delivery(client, inspected.accept(), request);
}

fn head_in_single_bytes_arrives_whole(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Named, family, 80);
    let request = b"GET /some/path HTTP/1.1\r\nUser-Agent: slow\r\nHost: a.wild.example.org\r\n\r\n";
    let mut client = lab.connect(Tenant::Alpha, server.address());
    for byte in request {
        client.write_all(&[*byte]).unwrap();
    }
    let local = client.local_addr().unwrap();
    expect_delivery(client, server.accept(), request);
    gateway.expect_outcome(local, "closed");

    let mut denied = lab.connect(Tenant::Alpha, server.address());
    for byte in b"GET / HTTP/1.1\r\nHost: denied.example.org\r\n\r\n" {
        denied.write_all(&[*byte]).unwrap();
    }
    assert!(read_all(&denied).starts_with(b"HTTP/1.1 403 "));
    server.assert_untouched();
}
