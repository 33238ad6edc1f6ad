//! Flows leave from their tenant's addresses beside NAT of others, whatever packet rules steering has in place.

use crate::config::Config;
use crate::flows::Flow;
use crate::gateway::{Files, Gateway, Rules};
use crate::lab::{Family, Lab, Tenant, in_filter};
use crate::namespace::text;
use crate::requests::expect;
use crate::servers::Server;
use crate::traffic::pass;
use crate::wait::{wait_for, wait_until};
use std::io::Write;

crate::trials! {
    both families:
        new_ports_leave_from_tenants_addresses,
        rules_of_other_ports_change_no_address,
        flushed_rules_change_no_address,
        flows_outlive_their_address;
    once:
        answers_to_former_ports_pass_firewalls
}

const FORMER: &str = "20000-29999";
const PRESENT: &str = "30000-39999";

/// Nobody renews steering but the test.
fn config(lab: &Lab, ports: &str) -> Config {
    Config {
        steering: "repair = \"off\"".into(),
        alpha_pool: format!("ports = \"{ports}\""),
        gateway: format!("admin = \"unix:{}\"", lab.control_socket()),
        ..Config::default()
    }
}

fn masquerade(lab: &Lab, family: Family, rules: Rules) {
    let tool = match (family, rules) {
        (Family::V4, Rules::Legacy) => "iptables-legacy",
        (Family::V6, Rules::Legacy) => "ip6tables-legacy",
        (Family::V4, Rules::Iptables | Rules::Nftables) => "iptables",
        (Family::V6, Rules::Iptables | Rules::Nftables) => "ip6tables",
    };
    lab.gateway.shell(&format!("{tool} -w -t nat -A POSTROUTING -o s0 -j MASQUERADE"));
}

fn reload(gateway: &Gateway<'_>, config: &Config) {
    gateway.write(&config.render(&gateway.flow_log()));
    let answer = gateway.egret(&["reload"]);
    assert!(answer.status.success(), "{}", text(&answer));
}

/// Opens a flow of alpha's, which leaves from its pool and these ports.
fn open(lab: &Lab, server: &Server, ports: &str) -> Flow {
    let flow = Flow::open(lab, Tenant::Alpha, server);
    let (first, last) = ports.split_once('-').unwrap();
    let range = first.parse().unwrap()..=last.parse().unwrap();
    let source = flow.source();
    assert!(Tenant::Alpha.owns_source(source.ip()) && range.contains(&source.port()), "{source}");
    flow
}

/// Before the rules are renewed, and after: flows on new ports, and those that are left on former ones.
fn new_ports_leave_from_tenants_addresses(family: Family) {
    for rules in [Rules::Iptables, Rules::Legacy, Rules::Nftables] {
        let lab = Lab::new();
        let gateway = lab.start_steered_gateway(&config(&lab, FORMER), rules);
        masquerade(&lab, family, rules);
        let server = Server::raw(&lab, family, 7000);
        let before = open(&lab, &server, FORMER);
        reload(&gateway, &config(&lab, PRESENT));
        let after = open(&lab, &server, PRESENT);
        for flow in [&before, &after] {
            pass(&flow.client, &flow.upstream, b"before the renewal");
        }
        lab.must_steer("up", &gateway.config(), rules);
        for flow in [&before, &after, &open(&lab, &server, PRESENT)] {
            pass(&flow.client, &flow.upstream, b"after the renewal");
        }
    }
}

/// A gateway that starts beside rules of other ports, which `up` has left or somebody has lost.
fn rules_of_other_ports_change_no_address(family: Family) {
    for rules in [Rules::Iptables, Rules::Nftables] {
        let lab = Lab::new();
        lab.must_steer("up", &Files::new(&config(&lab, FORMER)).config(), rules);
        masquerade(&lab, family, rules);
        let _gateway = Gateway::start_unready(&lab, Files::new(&config(&lab, PRESENT)));
        let server = Server::raw(&lab, family, 7000);
        let flow = open(&lab, &server, PRESENT);
        pass(&flow.client, &flow.upstream, b"hello");
    }
}

/// Acknowledgements come from the flow's own address.
fn flushed_rules_change_no_address(family: Family) {
    for rules in [Rules::Iptables, Rules::Nftables] {
        let lab = Lab::new();
        let _gateway = lab.start_steered_gateway(&config(&lab, FORMER), rules);
        let server = Server::raw(&lab, family, 7000);
        let flow = open(&lab, &server, FORMER);
        lab.gateway.shell("nft flush ruleset");
        masquerade(&lab, family, rules);
        (&flow.upstream).write_all(b"late").unwrap();
        expect(&flow.client, "late");
        let filter = format!("dst {}:{}", in_filter(flow.source().ip()), flow.source().port());
        wait_for("it to be acknowledged", || {
            let listed = lab.server.shell(&format!("ss -Htn '{filter}'"));
            if listed.split_whitespace().nth(2) == Some("0") { Ok(()) } else { Err(listed) }
        });
    }
}

/// Its route and its rules stay for those that have it, until the next `up` without them.
fn flows_outlive_their_address(family: Family) {
    let address = if family == Family::V4 { "203.0.113.20" } else { "2001:db8:100::100" };
    for rules in [Rules::Iptables, Rules::Nftables] {
        let lab = Lab::new();
        let with = |addresses: &str| Config { alpha_addresses: addresses.into(), ..config(&lab, FORMER) };
        let gateway = lab.start_steered_gateway(&with("[\"203.0.113.20\", \"2001:db8:100::100\"]"), rules);
        masquerade(&lab, family, rules);
        let server = Server::raw(&lab, family, 7000);
        let flow = Flow::open(&lab, Tenant::Alpha, &server);
        assert_eq!(flow.source().ip().to_string(), address);
        reload(&gateway, &with(&Config::default().alpha_addresses));
        let path = gateway.config();
        let steered = text(&lab.steer("up", &path, rules));
        assert!(steered.contains(&format!("{address} stays local")), "{steered}");
        pass(&flow.client, &flow.upstream, b"to the former address");
        let present = family.pool().to_string();
        let labels = [("source", &*present), ("state", "available")];
        gateway.wait_for_metric("egret_pool_source_state", &labels, |value| value == 1);
        open(&lab, &server, FORMER);
        lab.must_steer("status", &path, rules);
        let listed = || lab.gateway.shell("ip route show table local; ip -6 route show table local");
        assert!(listed().contains(address));
        drop(flow);
        wait_until("the connection to end", || {
            lab.gateway.shell(&format!("ss -Htn src {}", in_filter(address.parse().unwrap()))).is_empty()
        });
        lab.must_steer("up", &path, rules);
        assert!(!listed().contains(address), "{}", listed());
    }
}

/// A firewall that accepts only what connection tracking knows, which these flows are kept from.
fn answers_to_former_ports_pass_firewalls() {
    for rules in [Rules::Iptables, Rules::Legacy] {
        let lab = Lab::new();
        let gateway = lab.start_steered_gateway(&config(&lab, FORMER), rules);
        let tool = if rules == Rules::Legacy { "iptables-legacy" } else { "iptables" };
        lab.gateway.shell(&format!(
            "{tool} -w -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT; {tool} -w -A INPUT -i s0 -j DROP"
        ));
        let server = Server::raw(&lab, Family::V4, 7000);
        let before = open(&lab, &server, FORMER);
        reload(&gateway, &config(&lab, PRESENT));
        let after = open(&lab, &server, PRESENT);
        lab.must_steer("up", &gateway.config(), rules);
        for flow in [&before, &after, &open(&lab, &server, PRESENT)] {
            pass(&flow.client, &flow.upstream, b"hello");
        }
    }
}
