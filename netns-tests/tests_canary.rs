//! A candidate enforced for a share of clients: all its checks run, and flows that it alone permits end with it.

use crate::clients::s_client;
use crate::config::Config;
use crate::dns::Dns;
use crate::flows::Flow;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::namespace::text;
use crate::rollout::{Rollout, STRICTER};
use crate::servers::Server;
use crate::tests_certificates::{Authority, Has, NAME as PROVED};
use crate::tests_revoke::{expect_revoked, open_by_name};
use crate::verified::{NAME, denied, reach, rule};
use crate::wait::{wait_for, wait_until};
use serde_json::Value;

crate::trials! {
    both families:
        canary_verifies_addresses_of_names,
        canary_resolves_names;
    once:
        canary_names_are_resolved_ahead,
        canary_verifies_certificates,
        failed_checks_roll_back_the_canary,
        dropping_canary_resets_its_flows,
        rollback_resets_flows_the_canary_allowed,
        canary_flows_can_be_kept,
        promotion_resets_only_flows_it_denies,
        canary_resets_no_flow_of_enforced_policy,
        changing_the_share_keeps_the_counts,
        rolled_back_canary_can_be_reenabled
}

const ALL: [&str; 4] = ["--percent", "100", "--max-denials", "100"];
const RESOLVER: &str = "[resolver]\nservers = [\"198.51.100.10\"]";

/// Alpha's rule for the name, and the DNS servers.
fn asking(lab: &Lab, rules: &str) -> Config {
    Config { more: RESOLVER.into(), ..Rollout::config(lab, rules) }
}

fn canary_verifies_addresses_of_names(family: Family) {
    let lab = Lab::new();
    let _dns = Dns::start(&lab, Host::Web, &[(NAME, Host::Named.ip(family))]);
    // The active policy has neither a rule for the name nor a DNS server.
    let rollout = Rollout::new(&lab);
    let (server, other) = (lab.listen(Host::Named, family, 443), lab.listen(Host::Elsewhere, family, 443));
    denied(&lab, &rollout.gateway, server.address(), NAME, "not_allowed");
    rollout.load_config(&asking(&lab, &rule("verify")), &ALL);
    let flow = reach(&lab, &rollout.gateway, server.address(), NAME, &server);
    let said = |flow: &Value| ["address_check", "candidate", "canary", "rule"].map(|key| flow[key].clone());
    assert_eq!(serde_json::json!(said(&flow)), serde_json::json!(["match", "would_allow", true, "by-name"]));
    let flow = denied(&lab, &rollout.gateway, other.address(), NAME, "destination_mismatch");
    assert_eq!(serde_json::json!(said(&flow)), serde_json::json!(["mismatch", "same", true, "by-name"]));
    other.assert_untouched();
}

fn canary_resolves_names(family: Family) {
    let lab = Lab::new();
    let _dns = Dns::start(&lab, Host::Web, &[(NAME, Host::Named.ip(family))]);
    // In the active policy the same name goes to the address its client dials.
    let rollout = Rollout::with(&lab, &asking(&lab, &rule("original")));
    let (server, other) = (lab.listen(Host::Named, family, 443), lab.listen(Host::Elsewhere, family, 443));
    reach(&lab, &rollout.gateway, other.address(), NAME, &other);
    rollout.load_config(&asking(&lab, &rule("resolve")), &ALL);
    let flow = reach(&lab, &rollout.gateway, other.address(), NAME, &server);
    assert_eq!((&flow["address_check"], &flow["canary"]), (&"resolved".into(), &true.into()), "{flow:#}");
    assert_eq!(flow["dialled"], server.address().to_string());
    rollout.must(&["drop"]);
    let flow = reach(&lab, &rollout.gateway, other.address(), NAME, &other);
    assert_eq!((&flow["address_check"], &flow["canary"]), (&Value::Null, &false.into()), "{flow:#}");
}

fn canary_names_are_resolved_ahead() {
    let lab = Lab::new();
    let server = lab.listen(Host::Named, Family::V4, 443);
    let dns = Dns::start(&lab, Host::Web, &[(NAME, server.address().ip())]);
    // The active policy verifies other names.
    let rollout = Rollout::with(&lab, &asking(&lab, &rule("verify").replace(NAME, "old.example.org")));
    let known = || {
        let output = rollout.gateway.egret(&["names", NAME, "--json"]);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        report["addresses"] == serde_json::json!([server.address().ip()])
    };
    rollout.load_config(&asking(&lab, &rule("verify")), &[]);
    assert!(!known(), "names of a candidate without a share are not resolved");
    rollout.must(&["share", "100"]);
    wait_until("the name to be looked up", known);
    dns.stop();
    let flow = reach(&lab, &rollout.gateway, server.address(), NAME, &server);
    assert_eq!((&flow["address_check"], &flow["canary"]), (&"match".into(), &true.into()), "{flow:#}");
}

fn canary_verifies_certificates() {
    let lab = Lab::new();
    let authority = Authority::new();
    let [right, other] = [Host::Named, Host::Elsewhere].map(|host| host.at(Family::V4, 443));
    authority.serve(&lab, right, Has::Right);
    authority.serve(&lab, other, Has::AnotherName);
    let rollout = Rollout::with(&lab, &authority.config(&lab, "off"));
    rollout.load_config(&authority.config(&lab, "require"), &ALL);
    let said = s_client(&lab, Tenant::Alpha, right, Some(PROVED), &authority.root());
    assert_eq!(said.code, 0, "{}", said.text);
    let flow = rollout.gateway.wait_for_flows(1).pop().unwrap();
    assert_eq!((&flow["certificate_check"], &flow["canary"]), (&"valid".into(), &true.into()), "{flow:#}");
    let flow = denied(&lab, &rollout.gateway, other, PROVED, "certificate_invalid");
    assert_eq!((&flow["candidate"], &flow["canary"]), (&"would_deny".into(), &true.into()), "{flow:#}");
    rollout.gateway.wait_for_metric("egret_pool_ports", &[("pool", "alpha"), ("state", "live")], |n| n == 0);
}

fn failed_checks_roll_back_the_canary() {
    let lab = Lab::new();
    let _dns = Dns::start(&lab, Host::Web, &[(NAME, Host::Named.ip(Family::V4))]);
    let rollout = Rollout::with(&lab, &asking(&lab, &rule("original")));
    let other = lab.listen(Host::Elsewhere, Family::V4, 443);
    rollout.load_config(&asking(&lab, &rule("verify")), &["--percent", "100"]);
    for _ in 0..5 {
        let flow = denied(&lab, &rollout.gateway, other.address(), NAME, "destination_mismatch");
        assert_eq!((&flow["candidate"], &flow["canary"]), (&"would_deny".into(), &true.into()), "{flow:#}");
    }
    reach(&lab, &rollout.gateway, other.address(), NAME, &other);
    let status = rollout.status();
    assert_eq!(
        (&status["state"], &status["canary"]["fell_back"]["denied"]),
        (&"fell_back".into(), &5.into())
    );
    let change = &status["changes"][0];
    assert_eq!(
        (&change["reason"], &change["flows"]),
        (&"destination_mismatch".into(), &5.into()),
        "{status:#}"
    );
}

/// Opens a flow that only the candidate permits, and one that both permit.
fn open_both(rollout: &Rollout<'_>, server: &Server) -> (Flow, Flow) {
    let opened = open_by_name(rollout.lab, server, "opened.example.org");
    let both = open_by_name(rollout.lab, server, "a.wild.example.org");
    opened.assert_alive();
    (opened, both)
}

fn dropping_canary_resets_its_flows() {
    let lab = Lab::new();
    let rollout = Rollout::new(&lab);
    let server = lab.listen(Host::Named, Family::V4, 443);
    rollout.load(STRICTER, &ALL);
    let (opened, both) = open_both(&rollout, &server);
    let said = rollout.must(&["drop"]);
    assert!(said.contains("; one live flow that nobody allows any more was reset"), "{said}");
    let flow = expect_revoked(&rollout.gateway, opened);
    assert_eq!((&flow["rule"], &flow["canary"]), (&"opened".into(), &true.into()), "{flow:#}");
    both.assert_alive();
    let change = rollout.gateway.change(3);
    assert_eq!((&change["change"], &change["revoked"]), (&"candidate_drop".into(), &1.into()), "{change:#}");

    // Another candidate that replaces it does the same.
    rollout.load(STRICTER, &ALL);
    let (opened, again) = open_both(&rollout, &server);
    let other = "  [[tenant.deny]]\n  hosts = [\"nobody.example.org\"]\n";
    rollout.load(&format!("{STRICTER}{other}"), &ALL);
    opened.assert_alive();
    rollout.load(other, &ALL);
    expect_revoked(&rollout.gateway, opened);
    again.assert_alive();
    both.assert_alive();
}

fn rollback_resets_flows_the_canary_allowed() {
    let lab = Lab::new();
    let rollout = Rollout::new(&lab);
    let server = lab.listen(Host::Named, Family::V4, 443);
    rollout.load(STRICTER, &["--percent", "100"]);
    let (opened, both) = open_both(&rollout, &server);
    for _ in 0..5 {
        assert!(!rollout.asks(&server, "allowed.example.org").0);
    }
    expect_revoked(&rollout.gateway, opened);
    both.assert_alive();
    let change = rollout.gateway.change(3);
    assert_eq!(
        (&change["change"], &change["revoked"]),
        (&"candidate_fall_back".into(), &1.into()),
        "{change:#}"
    );
}

fn canary_flows_can_be_kept() {
    let lab = Lab::new();
    let keep = |rules: &str| Config { policy: "on_reload = \"keep\"".into(), ..Rollout::config(&lab, rules) };
    let rollout = Rollout::with(&lab, &keep(""));
    let server = lab.listen(Host::Named, Family::V4, 443);
    rollout.load_config(&keep(STRICTER), &ALL);
    let (opened, both) = open_both(&rollout, &server);
    let said = rollout.must(&["drop"]);
    assert!(!said.contains("reset"), "{said}");
    assert!(!rollout.asks(&server, "opened.example.org").0, "a new one is denied");
    opened.assert_alive();
    both.assert_alive();
}

fn promotion_resets_only_flows_it_denies() {
    let lab = Lab::new();
    let rollout = Rollout::new(&lab);
    let server = lab.listen(Host::Named, Family::V4, 443);
    let old = open_by_name(&lab, &server, "allowed.example.org");
    rollout.load(STRICTER, &ALL);
    let (opened, both) = open_both(&rollout, &server);
    old.assert_alive();
    let said = rollout.must(&["promote"]);
    assert!(said.contains("this resets 1 live flow, which the candidate does not allow"), "{said}");
    assert!(
        said.contains("; one live flow that is not allowed any more was reset\nconfiguration "),
        "{said}"
    );
    assert_eq!(expect_revoked(&rollout.gateway, old)["rule"], "alpha-names");
    opened.assert_alive();
    both.assert_alive();
}

fn canary_resets_no_flow_of_enforced_policy() {
    let lab = Lab::new();
    let rollout = Rollout::new(&lab);
    let server = lab.listen(Host::Named, Family::V4, 443);
    let old = open_by_name(&lab, &server, "allowed.example.org");
    rollout.load(STRICTER, &ALL);
    assert!(!rollout.asks(&server, "allowed.example.org").0, "a new one is denied");
    old.assert_alive();
    let opened = open_by_name(&lab, &server, "opened.example.org");
    // Nor does a reload that affects neither.
    let other = Rollout::config(&lab, "  [[tenant.deny]]\n  hosts = [\"nobody.example.org\"]\n");
    rollout.gateway.write(&other.render(&rollout.gateway.flow_log()));
    let output = rollout.gateway.egret(&["reload"]);
    assert!(output.status.success() && !text(&output).contains("were reset"), "{}", text(&output));
    old.assert_alive();
    opened.assert_alive();
}

fn changing_the_share_keeps_the_counts() {
    let lab = Lab::new();
    let rollout = Rollout::new(&lab);
    let server = lab.listen(Host::Named, Family::V4, 443);
    for (lines, order) in [(2, &["share", "10"][..]), (3, &["drop"])] {
        assert_eq!(rollout.ask(order).status.code(), Some(1), "no candidate is loaded");
        let change = rollout.gateway.change(lines);
        assert!(
            change["change"] == format!("candidate_{}", order[0]) && change["result"] == "refused",
            "{change}"
        );
    }
    rollout.load(STRICTER, &[]);
    let loaded = rollout.status()["loaded"].clone();
    assert!(rollout.asks(&server, "allowed.example.org").0);
    assert!(
        rollout
            .must(&["share", "100"])
            .contains("enforced for 100 % of the clients, as long as it alone denies at most 1 %")
    );
    assert!(!rollout.asks(&server, "allowed.example.org").0);
    assert_eq!(rollout.counts("alpha"), [0, 2, 0, 0]);
    let opened = open_by_name(&lab, &server, "opened.example.org");
    rollout.must(&["share", "100", "--max-denials", "7.5"]);
    assert_eq!(rollout.status()["canary"]["max_denials"], 7.5);
    opened.assert_alive();
    let said = rollout.must(&["share", "0"]);
    assert!(said.contains("without effect; one live flow that nobody allows"), "{said}");
    expect_revoked(&rollout.gateway, opened);
    assert!(rollout.asks(&server, "allowed.example.org").0);
    let status = rollout.status();
    assert_eq!((&status["state"], &status["loaded"]), (&"observing".into(), &loaded), "{status:#}");
    assert_eq!(rollout.counts("alpha"), [0, 3, 1, 0]);
    rollout.gateway.change(7);
    let mut changes = rollout.gateway.changes();
    changes.retain(|line| line["result"] == "done");
    let shares: Vec<_> = changes.iter().filter(|line| line["change"] == "candidate_share").collect();
    let percent: Vec<_> = shares.iter().map(|line| line["percent"].as_u64()).collect();
    assert_eq!(percent, [Some(100), Some(100), Some(0)]);
    let load = changes.iter().find(|line| line["change"] == "candidate_load").unwrap();
    assert!(load["percent"] == 0 && load["candidate"] == shares[0]["candidate"], "{load:#}");
    assert_eq!(load["difference"]["tenants"]["changed"], 1, "{load:#}");
    assert_eq!(shares[2]["revoked"], 1);
}

fn rolled_back_canary_can_be_reenabled() {
    let lab = Lab::new();
    let rollout = Rollout::new(&lab);
    let server = lab.listen(Host::Named, Family::V4, 443);
    let fall = || {
        for _ in 0..5 {
            assert!(!rollout.asks(&server, "allowed.example.org").0);
        }
        assert!(rollout.asks(&server, "allowed.example.org").0);
        assert_eq!(rollout.status()["state"], "fell_back");
    };
    rollout.load(STRICTER, &["--percent", "100"]);
    fall();
    rollout.must(&["share", "100"]);
    assert_eq!(rollout.status()["state"], "canary");
    fall();
    // Each rollback is logged.
    wait_for("both rollbacks to be in the audit log", || {
        let changes = rollout.gateway.changes();
        let falls = changes.iter().filter(|line| line["change"] == "candidate_fall_back").count();
        if falls == 2 { Ok(()) } else { Err(falls) }
    });
}
