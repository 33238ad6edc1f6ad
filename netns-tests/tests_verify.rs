//! Verification that an address is the name's, with a real DNS server.

use crate::clients::expect_http_denial;
use crate::config::Config;
use crate::dns::Dns;
use crate::hello::Hello;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::servers::Server;
use crate::traffic::expect_delivery;
use crate::verified::{NAME, config, denied, reach, rule, with_rules};
use crate::wait::{wait_for, wait_until};
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};

crate::trials! {
    both families:
        verify_permits_only_resolved_addresses,
        explain_uses_the_gateways_dns_cache,
        observe_records_what_verify_would_deny,
        resolve_dials_the_dns_address,
        resolve_falls_over_to_next_address,
        name_resolving_to_private_is_denied;
    once:
        explain_goes_by_dialled_families,
        rules_apply_to_resolved_addresses,
        false_http_host_is_answered
}

fn verify_permits_only_resolved_addresses(family: Family) {
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
    // rules without verification are not affected
    let flow = reach(&lab, &gateway, other.address(), "allowed.example.org", &other);
    assert_eq!(flow["address_check"], Value::Null, "{flow:#}");
    let checks = |result| gateway.metric("egret_verify_total", &[("tenant", "alpha"), ("result", result)]);
    assert_eq!((checks("match"), checks("mismatch"), checks("unknown")), (2, 2, 0));
}

fn explain_uses_the_gateways_dns_cache(family: Family) {
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
        // looked up before the first flow, because a rule contains the name
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
        // other addresses are excluded only once the lookup has ended
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

fn explain_goes_by_dialled_families() {
    let lab = Lab::new();
    let [v4, v6] = [Family::V4, Family::V6].map(|family| Host::Named.ip(family));
    let _dns = Dns::start(&lab, Host::Web, &[(NAME, v4), (NAME, v6)]);
    let admin = format!("admin = \"unix:{}\"", lab.control_socket());
    for (destination, wanted) in [("verify", [vec![v4], vec![v6]]), ("resolve", [vec![v6, v4], vec![v6, v4]])]
    {
        let gateway = lab.start_gateway(&Config { gateway: admin.clone(), ..config(destination) });
        for (family, wanted) in [Family::V4, Family::V6].into_iter().zip(wanted) {
            let from = Tenant::Alpha.client(family).to_string();
            // Both are looked up at the start.
            wait_for("the addresses of the families that are dialled", || {
                let output = gateway.egret(&["explain", "--live", "--json", "--from", &from, "--to", NAME]);
                let told: Value =
                    serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
                let is_told = told["known_addresses"] == serde_json::json!(wanted);
                if is_told { Ok(()) } else { Err(format!("{told:#}")) }
            });
        }
        // The gateway dials the second address where the first has no way.
        let dead = [(v6, 128, true), (v4, 32, false)];
        for (address, length, allowed) in dead.into_iter().filter(|_| destination == "resolve") {
            lab.gateway.ip(&format!("route add blackhole {address}/{length}"));
            let from = Tenant::Alpha.client(Family::V4).to_string();
            let output = gateway.egret(&["explain", "--live", "--json", "--from", &from, "--to", NAME]);
            let told: Value = serde_json::from_slice(&output.stdout).unwrap();
            let outcome = if allowed { Value::Null } else { "dial_failed".into() };
            assert_eq!((&told["allowed"], &told["outcome"]["name"]), (&allowed.into(), &outcome), "{told:#}");
        }
    }
}

fn observe_records_what_verify_would_deny(family: Family) {
    let lab = Lab::new();
    let dns = Dns::start(&lab, Host::Web, &[(NAME, Host::Named.ip(family))]);
    let gateway = lab.start_gateway(&config("observe"));
    let (server, other) = (lab.listen(Host::Named, family, 443), lab.listen(Host::Elsewhere, family, 443));
    let checks = |result| gateway.metric("egret_verify_total", &[("tenant", "alpha"), ("result", result)]);
    let check_of = |server: &Server, name, result| {
        // The flow lives until its address was checked.
        let before = checks(result);
        let hello = Hello::to(name).record();
        let client = lab.send(Tenant::Alpha, server.address(), &hello);
        let (local, upstream) = (client.local_addr().unwrap(), server.accept());
        wait_until("the address check to start", || checks(result) > before);
        expect_delivery(client, upstream, &hello);
        gateway.expect_outcome(local, "closed")["address_check"].clone()
    };
    assert_eq!(check_of(&server, NAME, "match"), "match");
    assert_eq!(check_of(&other, NAME, "mismatch"), "mismatch");
    assert_eq!(check_of(&server, "no.cdn.example.org", "absent"), "absent");
    dns.stop();
    assert_eq!(check_of(&server, "new.cdn.example.org", "unknown"), "unknown");
}

fn resolve_dials_the_dns_address(family: Family) {
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

fn resolve_falls_over_to_next_address(family: Family) {
    let lab = Lab::new();
    // nothing listens on one, and packets to another are dropped
    let hosts = [Host::Named, Host::Inspected, Host::Silent].map(|host| (NAME, host.ip(family)));
    let _dns = Dns::start(&lab, Host::Web, &hosts);
    // No test waits that long for one that does not answer.
    let patient = Config { gateway: "connect_timeout = \"60s\"".into(), ..config("resolve") };
    let gateway = lab.start_gateway(&patient);
    let server = lab.listen(Host::Named, family, 443);
    for _ in 0..6 {
        let flow = reach(&lab, &gateway, Host::Elsewhere.at(family, 443), NAME, &server);
        assert_eq!(flow["dialled"], server.address().to_string(), "{flow:#}");
    }
    drop((server, gateway));
    // If none answers, the flow ends, and every port is free again.
    let gateway = lab.start_gateway(&config("resolve"));
    drop(lab.send(Tenant::Alpha, Host::Elsewhere.at(family, 443), &Hello::to(NAME).record()));
    gateway.wait_for_metric("egret_pool_ports", &[("pool", "alpha"), ("state", "live")], |live| live == 0);
    // What this machine refuses is logged with both ends.
    let length = if family == Family::V4 { 32 } else { 128 };
    for (_, ip) in hosts {
        lab.gateway.ip(&format!("route add prohibit {ip}/{length}"));
    }
    let client = lab.expect_reset(Tenant::Alpha, Host::Elsewhere.at(family, 443), &Hello::to(NAME).record());
    gateway.expect_outcome(client, "dial_failed");
    let ends = |line: &str| {
        let (to, source) =
            line.split_once("cannot dial: ")?.1.split_once(": a route")?.0.split_once(" from ")?;
        Some((to.parse::<SocketAddr>().ok()?, source.parse::<SocketAddr>().ok()?))
    };
    wait_until("both ends to be logged", || {
        let found = gateway.stderr().lines().find_map(ends);
        found.is_some_and(|(_, source)| Tenant::Alpha.owns_source(source.ip()))
    });
}

fn name_resolving_to_private_is_denied(family: Family) {
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
            ("224.0.0.1", "destination_local"),
            ("198.51.100.255", "destination_local"),
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
            ("ff0e::1", "destination_local"),
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
    // beside a valid address an invalid one is skipped
    let server = lab.listen(Host::Named, family, 443);
    reach(&lab, &gateway, Host::Elsewhere.at(family, 443), NAME, &server);
}

fn rules_apply_to_resolved_addresses() {
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
    // networks of the rule apply to the dialled address, and to the resolved addresses
    let inside = "10.77.0.9:443".parse().unwrap();
    denied(&lab, &gateway, inside, "out.example.org", "not_allowed");
    lab.server.ip("addr add 10.77.0.2/32 dev lo");
    let server = lab.server.run(|| Server::bind("10.77.0.2:443".parse().unwrap()));
    reach(&lab, &gateway, inside, "private.example.org", &server);
}

fn false_http_host_is_answered() {
    let lab = Lab::new();
    let _dns = Dns::start(&lab, Host::Web, &[(NAME, Host::Named.ip(Family::V4))]);
    let gateway = lab.start_gateway(&config("verify"));
    let other = lab.listen(Host::Elsewhere, Family::V4, 80);
    let request = format!("GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
    let client = lab.send(Tenant::Alpha, other.address(), request.as_bytes());
    expect_http_denial(&client, 403, &["alpha", NAME, "destination_mismatch", "other addresses"]);
    gateway.expect_outcome(client.local_addr().unwrap(), "destination_mismatch");
    other.assert_untouched();
}
