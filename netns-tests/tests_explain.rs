//! `egret explain --live` while a candidate is enforced for a share of clients reports what their flows meet with.

use crate::clients::begin_from;
use crate::config::Config;
use crate::dns::Dns;
use crate::flows::Flow;
use crate::gateway::Gateway;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::namespace::text;
use crate::rollout::{Rollout, STRICTER};
use crate::servers::Server;
use crate::verified::{NAME, denied, rule};
use crate::wait::wait_until;
use serde_json::{Value, json};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

crate::trials! {
    both families:
        explain_shows_the_enforced_canary,
        explain_tells_packets_left_alone,
        addresses_that_lead_back_are_refused;
    once:
        explain_distinguishes_clients_of_the_share,
        explain_reports_name_checks_of_canary,
        explain_reports_client_unknown_to_canary
}

const ALL: [&str; 4] = ["--percent", "100", "--max-denials", "100"];

/// The gateway's answer in JSON and as text.
fn explain(rollout: &Rollout<'_>, from: IpAddr, to: &str) -> (Value, String) {
    let family = if from.is_ipv4() { Family::V4 } else { Family::V6 };
    let (from, address) = (from.to_string(), Host::Named.ip(family).to_string());
    let question = ["explain", "--live", "--from", &from, "--to", to, "--address", &address];
    let output = rollout.gateway.egret(&[&question[..], &["--json"]].concat());
    let told = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output)));
    (told, text(&rollout.gateway.egret(&question)))
}

fn explain_shows_the_enforced_canary(family: Family) {
    let lab = Lab::new();
    let rollout = Rollout::new(&lab);
    let client = Tenant::Alpha.client(family);
    let told = |name| explain(&rollout, client, name);
    rollout.load(STRICTER, &[]);
    let (json, said) = told("allowed.example.org");
    assert_eq!((&json["canary"], &json["rule"]), (&Value::Null, &"alpha-names".into()), "{json:#}");
    assert!(
        !said.contains("canary") && !said.contains("in force"),
        "a candidate that is judged alone: {said}"
    );

    rollout.must(&["share", "100", "--max-denials", "100"]);
    let (json, said) = told("allowed.example.org");
    assert_eq!(
        (&json["allowed"], &json["rule"], &json["outcome"]["name"], &json["pool"]),
        (&false.into(), &"no-more".into(), &"denied_by_rule".into(), &Value::Null),
        "{json:#}"
    );
    assert_eq!((&json["canary"]["percent"], &json["canary"]["tenant"]), (&100.into(), &"alpha".into()));
    let in_force = &json["canary"]["in_force"];
    assert_eq!(
        (&in_force["allowed"], &in_force["rule"], &in_force["canary"]),
        (&true.into(), &"alpha-names".into(), &Value::Null),
        "{in_force:#}"
    );
    assert!(
        said.contains("canary   the client is of the 100 % for which the candidate is enforced"),
        "{said}"
    );
    assert!(said.contains("verdict  denied (no-more), by the gateway that runs\n"), "{said}");
    assert!(said.contains("in force allowed (alpha-names)\n"), "{said}");

    let (json, said) = told("opened.example.org");
    assert_eq!((&json["allowed"], &json["rule"]), (&true.into(), &"opened".into()), "{json:#}");
    assert_eq!(json["pool"]["name"], "alpha", "the flow leaves from the pool of the active policy");
    assert_eq!(json["canary"]["in_force"]["outcome"]["name"], "not_allowed");
    assert!(said.contains("in force denied: not_allowed\n"), "{said}");

    // The candidate monitors where the active policy denies.
    let monitored = Config { alpha_tenant: "mode = \"monitor\"".into(), ..Rollout::config(&lab, STRICTER) };
    rollout.load_config(&monitored, &ALL);
    let (json, said) = told("unheard.example.org");
    assert_eq!(
        (&json["mode"], &json["allowed"], &json["would_deny"]["name"]),
        (&"monitor".into(), &true.into(), &"not_allowed".into()),
        "{json:#}"
    );
    let in_force = &json["canary"]["in_force"];
    assert_eq!((&in_force["mode"], &in_force["allowed"]), (&"enforce".into(), &false.into()), "{json:#}");
    assert!(
        said.contains(
            "verdict  allowed: monitor mode lets it pass; enforced, it would be denied as not_allowed,"
        ),
        "{said}"
    );
    rollout.must(&["drop"]);
    assert_eq!(
        told("unheard.example.org").0,
        *in_force,
        "as the canary's report described the active policy"
    );
}

/// Packets to and from the gateway's own addresses, and to a broadcast address behind it, beside rules that allow everything.
fn explain_tells_packets_left_alone(family: Family) {
    let lab = Lab::new();
    let everything = "[[tenant.allow]]\ncidrs = [\"0.0.0.0/0\", \"::/0\"]\ninspect = \"none\"\n";
    let (own, own_address) = match family {
        Family::V4 => ("198.51.100.1/32", IpAddr::from([198, 51, 100, 1])),
        Family::V6 => ("2001:db8:51::1/128", "2001:db8:51::1".parse().unwrap()),
    };
    let more = format!("[[tenant]]\nname = \"own\"\nsources = [\"{own}\"]\npool = \"beta\"\n{everything}");
    let gateway = lab.start_gateway(&Config { more, ..Rollout::config(&lab, everything) });
    let server = Server::raw(&lab, family, 7000);
    lab.client.shell(&format!("ip addr add {own} dev lo"));
    let client = Tenant::Alpha.client(family);
    let mut left_alone = vec![
        (own_address, server.address().ip(), "own_source"),
        (client, family.gateway(), "own_address"),
        (client, own_address, "own_address"),
    ];
    if family == Family::V4 {
        left_alone.push((client, [198, 51, 100, 255].into(), "broadcast"));
    }
    for (from, to, why) in left_alone {
        let to = SocketAddr::new(to, 7000);
        let question = ["explain", "--live", "--json", "--from", &from.to_string(), "--to", &to.to_string()];
        let output = gateway.egret(&question);
        let told: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output)));
        assert_eq!((&told["never_steered"], &told["allowed"]), (&why.into(), &false.into()), "{told:#}");
        let begun = lab.client.run(|| begin_from(from, to));
        // One that begins later is through.
        Flow::open(&lab, Tenant::Beta, &server).assert_alive();
        assert!(begun.peer_addr().is_err(), "{from} reaches {to}");
    }
}

/// A local route of another table than `local`, which packet rules intercept; and an anycast address, where nothing answers.
fn addresses_that_lead_back_are_refused(family: Family) {
    let lab = Lab::new();
    let everything = "[[tenant.allow]]\ncidrs = [\"0.0.0.0/0\", \"::/0\"]\ninspect = \"none\"\n";
    let gateway = lab.start_gateway(&Rollout::config(&lab, everything));
    let addresses: &[&str] = match family {
        Family::V4 => {
            lab.gateway.shell(
                "for n in 0 1; do ip route add local 198.51.100.20$n/32 dev lo table 7$n; done\n\
                 ip rule add pref 500 lookup 70; ip rule add pref 501 from 203.0.113.0/24 lookup 71",
            );
            &["198.51.100.200", "198.51.100.201"]
        }
        Family::V6 => {
            lab.gateway.set_forwarding(true);
            &["2001:db8:51::"]
        }
    };
    for address in addresses {
        address_that_leads_back_is_refused(&lab, &gateway, family, address.parse().unwrap());
    }
}

fn address_that_leads_back_is_refused(lab: &Lab, gateway: &Gateway, family: Family, address: IpAddr) {
    let (client, to) = (Tenant::Alpha.client(family), SocketAddr::new(address, 7000));
    let question = ["explain", "--live", "--json", "--from", &client.to_string(), "--to", &to.to_string()];
    wait_until("the explanation to tell", || {
        let output = gateway.egret(&question);
        let told: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output)));
        told["allowed"] == false
            && match family {
                Family::V4 => told["outcome"]["name"] == "destination_local" && told["steered"] == true,
                Family::V6 => told["never_steered"] == "anycast",
            }
    });
    let begun = lab.client.run(|| begin_from(client, to));
    match family {
        Family::V4 => wait_until("the refusal to be logged", || {
            let is_refused = |flow: &Value| flow["outcome"] == "destination_local";
            gateway.flows().iter().any(|flow| is_refused(flow) && flow["destination"] == to.to_string())
        }),
        Family::V6 => {
            // One that begins later is through.
            let server = Server::raw(lab, family, 7000);
            Flow::open(lab, Tenant::Beta, &server).assert_alive();
            assert!(begun.peer_addr().is_err(), "{client} reaches {to}");
        }
    }
}

fn explain_distinguishes_clients_of_the_share() {
    const CLIENTS: u8 = 16;
    let lab = Lab::new();
    let clients: Vec<_> = (0..CLIENTS).map(|n| Ipv4Addr::new(10, 0, 1, 100 + n)).collect();
    let addresses: Vec<_> = clients.iter().map(|ip| format!("addr add {ip}/24 dev c0\n")).collect();
    lab.client.ip(&addresses.concat());
    let rollout = Rollout::new(&lab);
    let server = lab.listen(Host::Named, Family::V4, 443);
    rollout.load(STRICTER, &["--percent", "50", "--max-denials", "100"]);
    let is_canary = |client: &&Ipv4Addr| {
        let client = IpAddr::V4(**client);
        let (told, _) = explain(&rollout, client, "allowed.example.org");
        let (allowed, flow) = rollout.asks_from(client, &server, "allowed.example.org");
        assert_eq!(told["canary"].is_object(), flow["canary"] == true, "{told:#}\n{flow:#}");
        assert_eq!((&told["allowed"], &told["rule"]), (&allowed.into(), &flow["rule"]), "{told:#}\n{flow:#}");
        !allowed
    };
    let canaries = clients.iter().filter(is_canary).count();
    assert!(0 < canaries && canaries < clients.len(), "{canaries} of {CLIENTS}");
}

fn explain_reports_name_checks_of_canary() {
    let lab = Lab::new();
    let _dns = Dns::start(&lab, Host::Web, &[(NAME, Host::Elsewhere.ip(Family::V4))]);
    // The active policy has neither a rule for the name nor a DNS server.
    let rollout = Rollout::new(&lab);
    let server = lab.listen(Host::Named, Family::V4, 443);
    let more = "[resolver]\nservers = [\"198.51.100.10\"]".into();
    rollout.load_config(&Config { more, ..Rollout::config(&lab, &rule("verify")) }, &ALL);
    denied(&lab, &rollout.gateway, server.address(), NAME, "destination_mismatch");
    let (json, said) = explain(&rollout, Tenant::Alpha.client(Family::V4), NAME);
    assert_eq!(
        (&json["rule"], &json["address_check"], &json["outcome"]["name"]),
        (&"by-name".into(), &"mismatch".into(), &"destination_mismatch".into()),
        "{json:#}"
    );
    assert_eq!(json["known_addresses"], json!([Host::Elsewhere.ip(Family::V4)]));
    assert_eq!(json["canary"]["in_force"]["outcome"]["name"], "not_allowed");
    assert!(said.contains("in force denied: not_allowed\n"), "{said}");
}

fn explain_reports_client_unknown_to_canary() {
    let lab = Lab::new();
    let rollout = Rollout::new(&lab);
    // The stranger becomes alpha's client, a client of alpha's beta's, and beta's own nobody's.
    let config = Rollout::config(&lab, "").render(&rollout.gateway.flow_log());
    let config =
        config.replace("\"10.0.1.0/24\"", "\"10.0.9.0/24\"").replace("\"10.0.2.0/24\"", "\"10.0.1.0/24\"");
    fs::write(rollout.candidate_file(), config).unwrap();
    let file = rollout.candidate_file().display().to_string();
    rollout.must(&[&["load", &file], &ALL[..]].concat());
    let told = |tenant: Tenant| explain(&rollout, tenant.client(Family::V4), "beta.example.org");

    let (json, said) = told(Tenant::Beta);
    assert_eq!((&json["tenant"], &json["canary"]["tenant"]), (&"beta".into(), &Value::Null), "{json:#}");
    assert_eq!((&json["outcome"]["name"], &json["rules"]), (&"unknown_tenant".into(), &json!([])));
    assert!(said.contains("         which knows no tenant for the client\nverdict  denied,"), "{said}");
    assert!(said.contains("in force allowed (beta-names)\n"), "{said}");

    let (json, said) = told(Tenant::Alpha);
    assert_eq!((&json["tenant"], &json["canary"]["tenant"]), (&"alpha".into(), &"beta".into()), "{json:#}");
    assert_eq!((&json["rule"], &json["pool"]["name"]), (&"beta-names".into(), &"alpha".into()));
    assert!(said.contains("         by which the client is of tenant beta\n"), "{said}");

    let (json, _) = told(Tenant::Stranger);
    assert_eq!((&json["canary"], &json["outcome"]["name"]), (&Value::Null, &"unknown_tenant".into()));
}
