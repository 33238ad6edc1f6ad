//! Is the address really the name's? A real DNS server says which addresses names have.

use crate::clients::{ACCESS_DENIED, expect_alert, expect_http_denial};
use crate::config::Config;
use crate::dns::Dns;
use crate::gateway::Gateway;
use crate::hello::Hello;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::servers::Server;
use crate::traffic::expect_delivery;
use crate::wait::{wait_for, wait_until};
use serde_json::Value;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

crate::trials! {
    both families:
        verify_lets_flows_go_to_the_names_addresses_and_nowhere_else,
        egret_explain_knows_what_the_gateway_knows_of_a_name,
        observe_lets_all_go_and_says_what_verify_would_deny,
        resolve_goes_where_dns_says_whatever_the_client_dialled,
        resolve_tries_the_next_address_when_one_does_not_answer,
        a_name_that_points_into_the_network_leads_nowhere;
    once:
        addresses_rotate_and_the_old_ones_stay_good,
        names_of_rules_are_known_before_the_first_flow_and_outlive_the_resolver,
        without_an_answer_nothing_passes,
        a_resolver_that_is_silent_holds_a_flow_up_no_longer_than_inspection_may,
        an_answer_too_long_for_a_datagram_is_fetched_over_tcp,
        the_answers_of_all_servers_count,
        a_name_without_addresses_is_told_from_a_silent_resolver,
        rules_hold_for_addresses_that_were_resolved,
        an_http_request_with_a_false_host_is_answered
}

pub(crate) const NAME: &str = "verified.example.org";

fn with_rules(rules: &str, resolver: &str) -> Config {
    Config { alpha_rules: rules.into(), more: format!("[resolver]\n{resolver}"), ..Config::default() }
}

/// Alpha's rule for the name, and what it does of addresses.
pub(crate) fn rule(destination: &str) -> String {
    format!(
        "  [[tenant.allow]]\n  name = \"by-name\"\n  hosts = [\"{NAME}\", \"*.cdn.example.org\"]\n  \
         destination = \"{destination}\"\n"
    )
}

pub fn config(destination: &str) -> Config {
    with_rules(&rule(destination), "servers = [\"198.51.100.10\"]")
}

/// Alpha dials `to` and asks for the name; the flow must reach the server. Yields its record.
pub fn reach(lab: &Lab, gateway: &Gateway, to: SocketAddr, name: &str, server: &Server) -> Value {
    let hello = Hello::to(name).record();
    let mut client = lab.connect(Tenant::Alpha, to);
    client.write_all(&hello).unwrap();
    let local = client.local_addr().unwrap();
    expect_delivery(client, server.accept(), &hello);
    gateway.expect_outcome(local, "closed")
}

/// The same, and it must be denied. Yields its record.
pub fn denied(lab: &Lab, gateway: &Gateway, to: SocketAddr, name: &str, outcome: &str) -> Value {
    let mut client = lab.connect(Tenant::Alpha, to);
    client.write_all(&Hello::to(name).record()).unwrap();
    let local = client.local_addr().unwrap();
    expect_alert(&client, ACCESS_DENIED);
    drop(client);
    let flow = gateway.expect_outcome(local, outcome);
    assert_eq!((&flow["verdict"], &flow["source"]), (&"deny".into(), &Value::Null), "{flow:#}");
    flow
}

fn verify_lets_flows_go_to_the_names_addresses_and_nowhere_else(family: Family) {
    let lab = Lab::new();
    let _dns = Dns::start(
        &lab,
        Host::Web,
        &[(NAME, Host::Named.ip(family)), ("a.cdn.example.org", Host::Named.ip(family))],
    );
    let gateway = lab.start_gateway(&config("verify"));
    let (server, other) = (lab.listen(Host::Named, family, 443), lab.listen(Host::Elsewhere, family, 443));
    for name in [NAME, "a.cdn.example.org"] {
        let flow = reach(&lab, &gateway, server.address(), name, &server);
        assert_eq!((&flow["address_check"], &flow["rule"]), (&"match".into(), &"by-name".into()), "{flow:#}");
        let flow = denied(&lab, &gateway, other.address(), name, "destination_mismatch");
        assert_eq!(
            (&flow["address_check"], &flow["rule"]),
            (&"mismatch".into(), &"by-name".into()),
            "{flow:#}"
        );
        assert_eq!(flow["dialled"], Value::Null, "{flow:#}");
    }
    other.assert_untouched();
    // rules that do not ask are left alone
    let flow = reach(&lab, &gateway, other.address(), "allowed.example.org", &other);
    assert_eq!(flow["address_check"], Value::Null, "{flow:#}");
    let checks = |result| gateway.metric("egret_verify_total", &[("tenant", "alpha"), ("result", result)]);
    assert_eq!((checks("match"), checks("mismatch"), checks("unknown")), (2, 2, 0));
}

fn egret_explain_knows_what_the_gateway_knows_of_a_name(family: Family) {
    let lab = Lab::new();
    let (named, elsewhere) = (Host::Named.ip(family), Host::Elsewhere.ip(family));
    let _dns = Dns::start(&lab, Host::Web, &[(NAME, named)]);
    let folder = tempfile::TempDir::with_prefix("egret-netns-").unwrap();
    for destination in ["verify", "resolve"] {
        let admin = format!("admin = \"unix:{}\"", folder.path().join("admin.sock").display());
        let gateway = lab.start_gateway(&Config { gateway: admin, ..config(destination) });
        let explain = |address: IpAddr, live: &[&str]| -> Value {
            let (from, address) = (Tenant::Alpha.client(family).to_string(), address.to_string());
            let question = ["explain", "--json", "--from", &from, "--to", NAME, "--address", &address];
            let output = gateway.egret(&[&question, live].concat());
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
        };
        // looked up before the first flow, since the rule names it
        let told = wait_for("the name's addresses", || {
            let told = explain(named, &["--live"]);
            if told["known_addresses"] == serde_json::json!([named]) { Ok(told) } else { Err(told) }
        });
        assert_eq!((&told["allowed"], &told["destination"]), (&true.into(), &destination.into()), "{told:#}");
        let [at_home, astray, outcome] = if destination == "verify" {
            ["match".into(), "mismatch".into(), "destination_mismatch".into()]
        } else {
            ["resolved".into(), "resolved".into(), Value::Null]
        };
        assert_eq!((&told["address_check"], &told["certificate"]), (&at_home, &"off".into()), "{told:#}");
        // that there is no other address is known when the lookup has ended
        let told = wait_for("the address to be judged", || {
            let told = explain(elsewhere, &["--live"]);
            if told["address_check"] == astray { Ok(told) } else { Err(told) }
        });
        assert_eq!(told["outcome"]["name"], outcome, "{told:#}");
        let (from, address) = (Tenant::Alpha.client(family).to_string(), elsewhere.to_string());
        let output =
            gateway.egret(&["explain", "--live", "--from", &from, "--to", NAME, "--address", &address]);
        let said = String::from_utf8(output.stdout).unwrap();
        let checks = if destination == "verify" {
            format!("checks   destination = \"verify\"; the name has other addresses (known are {named})\n")
        } else {
            format!("checks   destination = \"resolve\"; the name is resolved to {named}\n")
        };
        assert!(said.contains(&checks), "{said}");
        let told = explain(elsewhere, &[]);
        assert_eq!((&told["allowed"], &told["known_addresses"]), (&true.into(), &Value::Null), "{told:#}");
    }
}

fn observe_lets_all_go_and_says_what_verify_would_deny(family: Family) {
    let lab = Lab::new();
    let dns = Dns::start(&lab, Host::Web, &[(NAME, Host::Named.ip(family))]);
    let gateway = lab.start_gateway(&config("observe"));
    let (server, other) = (lab.listen(Host::Named, family, 443), lab.listen(Host::Elsewhere, family, 443));
    let checks = |result| gateway.metric("egret_verify_total", &[("tenant", "alpha"), ("result", result)]);
    let check_of = |server: &Server, name, result| {
        // The flow lives until its address was looked into.
        let before = checks(result);
        let hello = Hello::to(name).record();
        let mut client = lab.connect(Tenant::Alpha, server.address());
        client.write_all(&hello).unwrap();
        let (local, upstream) = (client.local_addr().unwrap(), server.accept());
        wait_until("the address to be looked into", || checks(result) > before);
        expect_delivery(client, upstream, &hello);
        gateway.expect_outcome(local, "closed")["address_check"].clone()
    };
    assert_eq!(check_of(&server, NAME, "match"), "match");
    assert_eq!(check_of(&other, NAME, "mismatch"), "mismatch");
    assert_eq!(check_of(&server, "no.cdn.example.org", "absent"), "absent");
    dns.stop();
    assert_eq!(check_of(&server, "new.cdn.example.org", "unknown"), "unknown");
}

fn resolve_goes_where_dns_says_whatever_the_client_dialled(family: Family) {
    let lab = Lab::new();
    let _dns = Dns::start(&lab, Host::Web, &[(NAME, Host::Named.ip(family))]);
    let gateway = lab.start_gateway(&config("resolve"));
    let server = lab.listen(Host::Named, family, 443);
    let other_family = if family == Family::V4 { Family::V6 } else { Family::V4 };
    for dialled in [
        Host::Elsewhere.at(family, 443),
        Host::Elsewhere.at(other_family, 443),
        "10.99.9.9:443".parse().unwrap(),
    ] {
        let flow = reach(&lab, &gateway, dialled, NAME, &server);
        assert_eq!(flow["destination"], dialled.to_string(), "{flow:#}");
        assert_eq!(flow["dialled"], server.address().to_string(), "{flow:#}");
        assert_eq!(flow["address_check"], "resolved", "{flow:#}");
        let source: SocketAddr = flow["source"].as_str().unwrap().parse().unwrap();
        assert!(Tenant::Alpha.owns_source(source.ip()), "{flow:#}");
    }
    gateway.wait_for_metric("egret_pool_ports", &[("pool", "alpha"), ("state", "live")], |live| live == 0);
}

fn resolve_tries_the_next_address_when_one_does_not_answer(family: Family) {
    let lab = Lab::new();
    // nothing listens on the one, and packets to the other vanish
    let hosts = [Host::Named, Host::Inspected, Host::Silent].map(|host| (NAME, host.ip(family)));
    let _dns = Dns::start(&lab, Host::Web, &hosts);
    // Nobody here waits so long for one that does not answer.
    let patient = Config { gateway: "connect_timeout = \"60s\"".into(), ..config("resolve") };
    let gateway = lab.start_gateway(&patient);
    let server = lab.listen(Host::Named, family, 443);
    for _ in 0..6 {
        let flow = reach(&lab, &gateway, Host::Elsewhere.at(family, 443), NAME, &server);
        assert_eq!(flow["dialled"], server.address().to_string(), "{flow:#}");
    }
    drop((server, gateway));
    // When none answers, that is the end, and every port is free again.
    let gateway = lab.start_gateway(&config("resolve"));
    let mut client = lab.connect(Tenant::Alpha, Host::Elsewhere.at(family, 443));
    client.write_all(&Hello::to(NAME).record()).unwrap();
    drop(client);
    gateway.wait_for_metric("egret_pool_ports", &[("pool", "alpha"), ("state", "live")], |live| live == 0);
}

fn a_name_that_points_into_the_network_leads_nowhere(family: Family) {
    let lab = Lab::new();
    let addresses: &[(&str, &str)] = match family {
        Family::V4 => &[
            ("127.0.0.1", "destination_local"),
            ("10.0.1.1", "destination_local"),
            ("203.0.113.17", "destination_local"),
            ("10.77.0.1", "destination_private"),
            ("192.168.0.1", "destination_private"),
            ("100.64.0.1", "destination_private"),
            ("169.254.169.254", "destination_private"),
            ("224.0.0.1", "destination_private"),
        ],
        Family::V6 => &[
            ("::1", "destination_local"),
            ("fd00:1::1", "destination_local"),
            ("2001:db8:100::7", "destination_local"),
            ("fd77::1", "destination_private"),
            ("fe80::1", "destination_private"),
            ("fd00:ec2::254", "destination_private"),
            ("::ffff:10.77.0.1", "destination_private"),
            ("::ffff:127.0.0.1", "destination_local"),
            ("64:ff9b::a9fe:a9fe", "destination_private"),
            ("2002:a00:1::1", "destination_private"),
        ],
    };
    let names: Vec<_> = (0..addresses.len()).map(|n| format!("n{n}.cdn.example.org")).collect();
    let mut records: Vec<(&str, IpAddr)> =
        names.iter().zip(addresses).map(|(name, (ip, _))| (name.as_str(), ip.parse().unwrap())).collect();
    records.push((NAME, addresses[3].0.parse().unwrap()));
    records.push((NAME, Host::Named.ip(family)));
    let _dns = Dns::start(&lab, Host::Web, &records);
    let gateway = lab.start_gateway(&config("resolve"));
    for (name, (ip, outcome)) in names.iter().zip(addresses) {
        let flow = denied(&lab, &gateway, Host::Elsewhere.at(family, 443), name, outcome);
        assert_eq!(
            (&flow["dialled"], &flow["address_check"]),
            (&Value::Null, &"resolved".into()),
            "{ip}: {flow:#}"
        );
    }
    // beside a good address a bad one is passed over
    let server = lab.listen(Host::Named, family, 443);
    reach(&lab, &gateway, Host::Elsewhere.at(family, 443), NAME, &server);
}

fn addresses_rotate_and_the_old_ones_stay_good() {
    let lab = Lab::new();
    let [old, new] = [Host::Named, Host::Elsewhere].map(|host| lab.listen(host, Family::V4, 443));
    let name = "rotates.cdn.example.org";
    let mut dns = Dns::start(&lab, Host::Web, &[(name, old.address().ip())]);
    let gateway = lab.start_gateway(&config("verify"));
    reach(&lab, &gateway, old.address(), name, &old);
    denied(&lab, &gateway, new.address(), name, "destination_mismatch");
    dns.say(&[(name, new.address().ip())]);
    // Within a second of the last lookup it is not asked again.
    wait_for("the new address to be found", || {
        let mut client = lab.connect(Tenant::Alpha, new.address());
        client.write_all(&Hello::to(name).record()).unwrap();
        let local = client.local_addr().unwrap();
        wait_until("either end", || {
            let denied = || gateway.flows().iter().any(|flow| flow["client"] == local.to_string());
            new.accept_those_that_came().pop().is_some() || denied()
        });
        drop(client);
        let flow = gateway.flow_from(local);
        if flow["address_check"] == "match" { Ok(()) } else { Err(flow["outcome"].to_string()) }
    });
    reach(&lab, &gateway, old.address(), name, &old);
}

fn names_of_rules_are_known_before_the_first_flow_and_outlive_the_resolver() {
    let lab = Lab::new();
    let server = lab.listen(Host::Named, Family::V4, 443);
    let dns = Dns::start(&lab, Host::Web, &[(NAME, server.address().ip())]);
    let config = config("verify");
    let gateway = lab.start_gateway(&config);
    gateway.wait_for_metric("egret_resolver_lookups_total", &[("result", "answered")], |count| count >= 1);
    dns.stop();
    reach(&lab, &gateway, server.address(), NAME, &server);
    // and a reload forgets nothing
    gateway.reload(&config.render(&gateway.flow_log()));
    wait_until("the reload", || gateway.stderr().contains("reloaded"));
    reach(&lab, &gateway, server.address(), NAME, &server);
    denied(&lab, &gateway, server.address(), "new.cdn.example.org", "resolver_unavailable");
}

fn without_an_answer_nothing_passes() {
    let lab = Lab::new();
    let server = lab.listen(Host::Named, Family::V4, 443);
    for destination in ["verify", "resolve"] {
        // nothing listens there
        let gateway = lab.start_gateway(&with_rules(&rule(destination), "servers = [\"198.51.100.11\"]"));
        for name in [NAME, "a.cdn.example.org"] {
            let flow = denied(&lab, &gateway, server.address(), name, "resolver_unavailable");
            assert_eq!(flow["detail"], "no DNS server answered", "{flow:#}");
            assert_eq!(flow["address_check"], "unknown", "{flow:#}");
        }
        server.assert_untouched();
        gateway.wait_for_metric("egret_resolver_lookups_total", &[("result", "failed")], |count| count >= 2);
    }
}

fn a_resolver_that_is_silent_holds_a_flow_up_no_longer_than_inspection_may() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config {
        inspect: "deadline = \"2s\"".into(),
        ..with_rules(&rule("verify"), "servers = [\"198.51.100.41\"]")
    });
    let server = lab.listen(Host::Named, Family::V4, 443);
    let start = Instant::now();
    let flow = denied(&lab, &gateway, server.address(), NAME, "resolver_unavailable");
    assert!(flow["detail"].as_str().unwrap().contains("deadline"), "{flow:#}");
    let lookup = Duration::from_secs(5);
    assert!((Duration::from_secs(2)..lookup).contains(&start.elapsed()), "{:?}", start.elapsed());
    server.assert_untouched();
}

fn an_answer_too_long_for_a_datagram_is_fetched_over_tcp() {
    let lab = Lab::new();
    let server = lab.listen(Host::Named, Family::V4, 443);
    let many = (0..200).map(|n| (NAME, IpAddr::V4(Ipv4Addr::new(192, 0, 2, n))));
    let records: Vec<_> = many.chain([(NAME, server.address().ip())]).collect();
    let _dns = Dns::start_with(&lab, Host::Web, &records, &["--edns-packet-max=512"]);
    let gateway = lab.start_gateway(&config("verify"));
    reach(&lab, &gateway, server.address(), NAME, &server);
}

fn the_answers_of_all_servers_count() {
    let lab = Lab::new();
    let [one, two] = [Host::Named, Host::Elsewhere].map(|host| lab.listen(host, Family::V4, 443));
    let _dns = [(Host::Web, &one), (Host::Inspected, &two)]
        .map(|(host, server)| Dns::start(&lab, host, &[(NAME, server.address().ip())]));
    let servers = "servers = [\"198.51.100.10\", \"198.51.100.21:53\", \"198.51.100.20\"]";
    let gateway = lab.start_gateway(&with_rules(&rule("verify"), servers));
    reach(&lab, &gateway, one.address(), NAME, &one);
    reach(&lab, &gateway, two.address(), NAME, &two);
    denied(&lab, &gateway, Host::Web.at(Family::V4, 443), NAME, "destination_mismatch");
}

fn a_name_without_addresses_is_told_from_a_silent_resolver() {
    let lab = Lab::new();
    let server = lab.listen(Host::Named, Family::V6, 443);
    let _dns = Dns::start(&lab, Host::Web, &[(NAME, Host::Named.ip(Family::V4))]);
    let gateway = lab.start_gateway(&config("verify"));
    for name in [NAME, "none.cdn.example.org"] {
        let flow = denied(&lab, &gateway, server.address(), name, "destination_mismatch");
        assert_eq!(flow["address_check"], "absent", "{flow:#}");
    }
    drop(gateway);
    let gateway = lab.start_gateway(&config("resolve"));
    let flow = denied(&lab, &gateway, server.address(), "none.cdn.example.org", "name_unresolved");
    assert_eq!(flow["address_check"], "absent", "{flow:#}");
}

fn rules_hold_for_addresses_that_were_resolved() {
    let lab = Lab::new();
    let server = lab.listen(Host::Named, Family::V4, 443);
    let records = [
        (NAME, Host::Elsewhere.ip(Family::V4)),
        ("two.cdn.example.org", Host::Elsewhere.ip(Family::V4)),
        ("two.cdn.example.org", server.address().ip()),
        ("private.example.org", "10.77.0.2".parse().unwrap()),
        ("out.example.org", server.address().ip()),
    ];
    let _dns = Dns::start(&lab, Host::Web, &records);
    let more = "  [[tenant.deny]]\n  name = \"not-there\"\n  cidrs = [\"198.51.100.30/32\"]\n  \
         [[tenant.allow]]\n  name = \"inside\"\n  hosts = [\"private.example.org\", \"out.example.org\"]\n  \
         cidrs = [\"10.77.0.0/24\"]\n  destination = \"resolve\"\n";
    let gateway = lab.start_gateway(&with_rules(&(rule("resolve") + more), "servers = [\"198.51.100.10\"]"));
    denied(&lab, &gateway, Host::Web.at(Family::V4, 443), NAME, "denied_by_rule");
    reach(&lab, &gateway, Host::Web.at(Family::V4, 443), "two.cdn.example.org", &server);
    // networks of the rule hold for what the client dialled, and for what the name was resolved to
    let inside = "10.77.0.9:443".parse().unwrap();
    denied(&lab, &gateway, inside, "out.example.org", "not_allowed");
    lab.server.ip("addr add 10.77.0.2/32 dev lo");
    let server = lab.server.run(|| Server::bind("10.77.0.2:443".parse().unwrap()));
    reach(&lab, &gateway, inside, "private.example.org", &server);
}

fn an_http_request_with_a_false_host_is_answered() {
    let lab = Lab::new();
    let _dns = Dns::start(&lab, Host::Web, &[(NAME, Host::Named.ip(Family::V4))]);
    let gateway = lab.start_gateway(&config("verify"));
    let other = lab.listen(Host::Elsewhere, Family::V4, 80);
    let mut client = lab.connect(Tenant::Alpha, other.address());
    write!(client, "GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n").unwrap();
    expect_http_denial(&client, 403, &["alpha", NAME, "destination_mismatch", "other addresses"]);
    gateway.expect_outcome(client.local_addr().unwrap(), "destination_mismatch");
    other.assert_untouched();
}
