//! The gateway watches its steering: it reports losses, requests repair, and detects changes at once.

use crate::config::{Config, NO_SOCKET};
use crate::flows::Flow;
use crate::gateway::{Files, Gateway, Rules};
use crate::healer::{Healer, Ward, asks_for_repair, request};
use crate::lab::{Family, Lab, Tenant};
use crate::servers::Server;
use crate::wait::{wait_for, wait_until};
use std::fs;
use std::thread;

crate::trials! {
    both families:
        address_loss_and_return_are_noticed;
    once:
        lost_iptables_rules_are_repaired,
        lost_nftables_rules_are_repaired,
        lost_legacy_rules_are_repaired,
        lost_routes_and_marks_are_repaired,
        unsteered_gateway_reports_it,
        missing_helper_is_not_asked,
        exemptions_are_not_reported_lost,
        rules_added_before_the_start_are_told,
        rules_replaced_with_more_are_noted,
        removed_exemption_leaves_the_gateway_ready,
        disabled_watch_reports_nothing
}

pub fn config(lab: &Lab) -> Config {
    Config { steering: asks_for_repair(lab), gateway: NO_SOCKET.into(), ..Config::default() }
}

/// Waits until `/readyz` is not ready, and returns its text.
pub fn complaint(gateway: &Gateway<'_>) -> String {
    wait_for("the gateway to report lost steering", || match gateway.get("/readyz").unwrap() {
        (503, said) => Ok(said),
        other => Err(format!("{other:?}")),
    })
}

pub fn wait_until_well(gateway: &Gateway<'_>) {
    wait_for("the gateway to be ready", || match gateway.get("/readyz").unwrap() {
        (200, _) => Ok(()),
        other => Err(format!("{other:?}\n{}", gateway.stderr())),
    });
    gateway.wait_for_metric("egret_steering_intact", &[], |value| value == 1);
}

/// A configuration with one more address, of a network that is not steered.
pub fn grown(lab: &Lab) -> Config {
    Config {
        alpha_addresses:
            "[\"203.0.113.16/30\", \"203.0.113.20\", \"2001:db8:100::/120\", \"2001:db8:100::100\"]".into(),
        gateway: format!("admin = \"unix:{}\"", lab.control_socket()),
        ..config(lab)
    }
}

/// Asserts that each damage is reported, with its own words and its part of the metric, until the helper repairs it.
fn is_told_and_put_back(rules: Rules, damages: &[(&str, &str, &str)]) {
    let lab = Lab::new();
    let files = Files::new(&Config { gateway: grown(&lab).gateway, ..config(&lab) });
    let path = files.config();
    lab.must_steer("up", &path, rules);
    let gateway = Gateway::start(&lab, files);
    wait_until_well(&gateway);
    for (done, (damage, part, words)) in damages.iter().enumerate() {
        if *words == ADDED {
            // Rules are known as added to those of the last look. A reload is answered between two looks.
            for _ in 0..2 {
                assert!(gateway.egret(&["reload"]).status.success());
            }
        }
        lab.gateway.shell(damage);
        let said = complaint(&gateway);
        assert!(
            said.contains(words) && said.contains("systemctl restart egret-steering"),
            "{damage}: {said}"
        );
        wait_for("the part to be lost", || {
            match gateway.metric("egret_steering_part_intact", &[("part", part)]) {
                0 => Ok(()),
                other => Err(format!("{damage}: it is {other}")),
            }
        });
        assert_eq!(gateway.metric("egret_steering_intact", &[]), 0, "{damage}");
        assert!(!lab.steer("status", &path, rules).status.success(), "{damage}");
        gateway.expect_logged(words);
        // The test does not wait for the gateway's next request: it makes the request itself.
        if done > 0 {
            fs::write(request(&lab), "").unwrap();
        }
        let ward = Ward::default();
        thread::scope(|scope| {
            let healer = Healer::start(scope, &ward, &lab, &path, rules);
            wait_until_well(&gateway);
            wait_until("the repair to end", || healer.repairs() > 0);
        });
        // A damage to routes has clients of the family refused, until the gateway hears of the routes again.
        wait_until("both families to have a way out", || {
            let log = gateway.stderr();
            log.matches("connections are refused at once").count()
                == log.matches("there is a way out for").count()
        });
        for family in [Family::V4, Family::V6] {
            let server = Server::raw(&lab, family, 7000);
            assert!(Tenant::Alpha.owns_source(Flow::open(&lab, Tenant::Alpha, &server).source().ip()));
        }
    }
    let told = gateway.stderr().matches("steering is in place again").count();
    assert_eq!(told, damages.len(), "{}", gateway.stderr());
    assert!(gateway.metric("egret_steering_repairs_total", &[]) > 0);
}

/// The words for rules that are no exemptions.
const ADDED: &str = "others were added that are no exemptions";

fn lost_iptables_rules_are_repaired() {
    is_told_and_put_back(
        Rules::Iptables,
        &[
            ("nft flush ruleset", "packet_rules", "none of Egret's packet rules"),
            ("iptables -w -t mangle -F EGRET_STEER", "packet_rules", "EGRET_STEER has 0 rules"),
            ("ip6tables -w -t mangle -F PREROUTING", "packet_rules", "IPv6 table mangle: PREROUTING"),
            ("iptables -w -I FORWARD -j ACCEPT", "packet_rules", "FORWARD does not begin with a jump"),
            (
                "iptables -w -t mangle -I POSTROUTING -j ACCEPT",
                "packet_rules",
                "POSTROUTING does not begin with a jump",
            ),
            ("iptables -w -I INPUT -i c0 -j DROP", "packet_rules", "INPUT does not begin with a jump"),
            (
                "ip6tables -w -I INPUT -p tcp --dport 7000 -j DROP",
                "packet_rules",
                "IPv6 table filter: INPUT does not begin with a jump",
            ),
            ("iptables -w -t mangle -R EGRET_STEER 2 -j ACCEPT", "packet_rules", "removed or replaced"),
            ("iptables -w -t mangle -I EGRET_STEER -j RETURN", "packet_rules", ADDED),
            ("ip6tables -w -t mangle -I EGRET_STEER ! -s fd00:9::1 -j ACCEPT", "packet_rules", ADDED),
            ("iptables -w -I EGRET_FORWARD 2 -s 10.0.3.2 -j ACCEPT", "packet_rules", ADDED),
            (
                "nft 'add table ip mangle { flags dormant; }'",
                "packet_rules",
                "IPv4 table mangle: it is dormant",
            ),
        ],
    );
}

fn lost_nftables_rules_are_repaired() {
    is_told_and_put_back(
        Rules::Nftables,
        &[
            ("nft flush ruleset", "packet_rules", "none of Egret's packet rules"),
            ("nft flush chain inet egret refuse", "packet_rules", "chain refuse has 0 rules"),
            ("nft delete chain inet egret steer", "packet_rules", "chain steer is gone"),
            (
                "nft 'add table inet egret { flags dormant; }'",
                "packet_rules",
                "table inet egret: it is dormant",
            ),
            ("nft add chain inet egret other", "packet_rules", "chain other was added"),
            (
                "nft chain inet egret refuse '{ policy drop; }'",
                "packet_rules",
                "the policy of chain refuse is drop",
            ),
            ("nft insert rule inet egret steer accept", "packet_rules", ADDED),
            ("nft insert rule inet egret steer ip protocol tcp accept", "packet_rules", ADDED),
            ("nft insert rule inet egret refuse ip daddr != 10.9.0.0/16 return", "packet_rules", ADDED),
        ],
    );
}

fn lost_legacy_rules_are_repaired() {
    is_told_and_put_back(
        Rules::Legacy,
        &[
            ("iptables-legacy -w -t mangle -F", "packet_rules", "IPv4 table mangle"),
            ("ip6tables-legacy -w -t mangle -I EGRET_STEER -j RETURN", "packet_rules", ADDED),
            ("iptables-legacy -w -t mangle -I EGRET_STEER ! -d 10.9.0.0/16 -j RETURN", "packet_rules", ADDED),
            ("ip6tables-legacy -w -F FORWARD", "packet_rules", "IPv6 table filter: FORWARD"),
            (
                "iptables-legacy -w -t raw -D EGRET_OUTPUT 1",
                "packet_rules",
                "IPv4 table raw: chain EGRET_OUTPUT",
            ),
        ],
    );
}

fn lost_routes_and_marks_are_repaired() {
    is_told_and_put_back(
        Rules::Iptables,
        &[
            ("ip link set lo down; ip link set lo up", "steering_table", "does not deliver packets locally"),
            (
                "for to in 1 0; do echo $to >/proc/sys/net/ipv6/conf/all/disable_ipv6; done; \
                 ip addr add fd00:1::1/64 dev c0 nodad; ip addr add 2001:db8:51::1/64 dev s0 nodad; \
                 ip -6 route add default via 2001:db8:51::a",
                "steering_table",
                "IPv6: routing table 100",
            ),
            ("ip rule del fwmark 1/1", "mark_rule", "IPv4: there is no rule `fwmark 0x1/0x1 lookup 100`"),
            ("ip -6 rule flush protocol 230", "port_rules", "IPv6: 12 of the `ip rule` entries"),
            ("ip -6 route flush table 100", "steering_table", "IPv6: routing table 100"),
            ("ip route del local 203.0.113.16/30 dev lo", "local_routes", "203.0.113.16/30 of the pools"),
        ],
    );
}

fn unsteered_gateway_reports_it() {
    let lab = Lab::new();
    let files = Files::new(&config(&lab));
    let path = files.config();
    let gateway = Gateway::start_unready(&lab, files);
    let said = complaint(&gateway);
    for words in ["none of Egret's packet rules", "there is no rule `fwmark 0x1/0x1", "203.0.113.16/30"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(!said.contains("interface"), "{said}");
    wait_until("a repair to be requested", || request(&lab).exists());
    // Repaired by hand, and not by the helper: then the request is obsolete.
    lab.must_steer("up", &path, Rules::Nftables);
    wait_until_well(&gateway);
    wait_until("the request to be withdrawn", || !request(&lab).exists());
}

fn missing_helper_is_not_asked() {
    let lab = Lab::new();
    let nowhere = "repair = \"/run/no/such/folder/request\"".into();
    let gateway = lab.start_gateway(&Config { steering: nowhere, ..Config::default() });
    lab.gateway.shell("nft flush ruleset");
    complaint(&gateway);
    let words = "systemctl start egret-steering-heal.path";
    wait_until("the log to name the command", || gateway.stderr().contains(words));
    assert_eq!(gateway.metric("egret_steering_repairs_total", &[]), 0);
    // A missing interface is reported, and no repair is requested.
    let off = Config { steering: "repair = \"off\"".into(), ..Config::default() };
    let lab = Lab::new();
    let gateway = lab.start_gateway(&off);
    lab.gateway.shell("ip link set c0 down; ip link set c0 name c9");
    let said = complaint(&gateway);
    assert!(
        said.contains("there is no interface c0") && said.contains("\nfix: correct [steering] interfaces"),
        "{said}"
    );
    assert_eq!(gateway.metric("egret_steering_part_intact", &[("part", "interfaces")]), 0);
}

fn exemptions_are_not_reported_lost() {
    for (rules, commands) in [
        (
            Rules::Iptables,
            "iptables -w -t mangle -I EGRET_STEER -s 10.0.3.2 -j ACCEPT; iptables -w -A FORWARD -j DROP
             ip6tables -w -t mangle -I EGRET_STEER -s fd00:3::/32 -d fd00::/8 -p tcp --dport 443 -j RETURN",
        ),
        (
            Rules::Legacy,
            "iptables-legacy -w -t mangle -I EGRET_STEER -d 10.9.0.0/16 -j ACCEPT
             ip6tables-legacy -w -t mangle -I EGRET_STEER -s fd00::/8 -p tcp --dport 443 -j RETURN",
        ),
        (
            Rules::Nftables,
            "nft insert rule inet egret steer ip saddr 10.0.3.2 accept
             nft insert rule inet egret steer ip6 saddr fd00::/8 tcp dport 443 accept
             nft insert rule inet egret steer 'ip daddr . tcp dport { 10.9.0.1 . 443, 10.9.0.2 . 80 } return'",
        ),
    ] {
        let lab = Lab::new();
        let gateway = lab.start_steered_gateway(&config(&lab), rules);
        wait_until_well(&gateway);
        lab.gateway.shell(commands);
        // When it reports this loss, it has seen the changes before it.
        lab.gateway.ip("route del local 203.0.113.32/30 dev lo table local");
        let said = complaint(&gateway);
        assert!(said.contains("203.0.113.32/30") && !said.contains("table"), "{rules:?}: {said}");
    }
}

fn rules_added_before_the_start_are_told() {
    for (rules, damage) in [
        (Rules::Nftables, "nft insert rule inet egret steer accept"),
        (Rules::Iptables, "iptables -w -t mangle -I EGRET_STEER -j RETURN"),
        (Rules::Legacy, "iptables-legacy -w -t mangle -I EGRET_STEER -p tcp -j ACCEPT"),
    ] {
        let lab = Lab::new();
        let files = Files::new(&config(&lab));
        lab.must_steer("up", &files.config(), rules);
        lab.gateway.shell(damage);
        let said = complaint(&Gateway::start_unready(&lab, files));
        assert!(said.contains(ADDED), "{damage}: {said}");
    }
}

/// As by a repair with other files, or one that somebody adds to before the gateway looks.
fn rules_replaced_with_more_are_noted() {
    let lab = Lab::new();
    let gateway = lab.start_steered_gateway(&config(&lab), Rules::Nftables);
    wait_until_well(&gateway);
    lab.gateway.shell(
        "rules=$(nft -s list table inet egret)
         printf '%s\n' 'delete table inet egret' \"$rules\" 'insert rule inet egret steer accept' | nft -f -",
    );
    wait_for("the other rules to be noted", || match gateway.get("/readyz").unwrap() {
        (200, said)
            if said.contains("chain steer has 12 rules instead of 11, which were put in place together") =>
        {
            Ok(())
        }
        other => Err(format!("{other:?}")),
    });
    lab.must_steer("up", &gateway.config(), Rules::Nftables);
    wait_until("the note to go", || gateway.get("/readyz").unwrap() == (200, "ready\n".to_owned()));
}

fn removed_exemption_leaves_the_gateway_ready() {
    for (rules, insert, remove) in [
        (
            Rules::Nftables,
            "nft insert rule inet egret steer ip saddr 10.0.3.2 accept",
            "nft delete rule inet egret steer handle \
             $(nft -a list chain inet egret steer | sed -n '/10.0.3.2/s/.*# handle //p')",
        ),
        (
            Rules::Iptables,
            "iptables -w -t mangle -I EGRET_STEER -s 10.0.3.2 -j ACCEPT",
            "iptables -w -t mangle -D EGRET_STEER -s 10.0.3.2 -j ACCEPT",
        ),
    ] {
        let lab = Lab::new();
        let files = Files::new(&config(&lab));
        let path = files.config();
        lab.must_steer("up", &path, rules);
        let mut gateway = Gateway::start(&lab, files);
        wait_until_well(&gateway);
        // When it reports a loss, it has seen the changes before it.
        let look = |gateway: &Gateway<'_>| {
            lab.gateway.ip("route del local 203.0.113.32/30 dev lo table local");
            let said = complaint(gateway);
            lab.gateway.ip("route add local 203.0.113.32/30 dev lo table local");
            wait_until_well(gateway);
            said
        };
        lab.gateway.shell(insert);
        look(&gateway);
        lab.gateway.shell(remove);
        let said = look(&gateway);
        assert!(!said.contains("table inet") && !said.contains("table mangle"), "{rules:?}: {said}");
        lab.gateway.shell(insert);
        gateway.kill();
        gateway.start_again();
        wait_until_well(&gateway);
        lab.gateway.shell(remove);
        let said = look(&gateway);
        assert!(!said.contains("table inet") && !said.contains("table mangle"), "{rules:?}: {said}");
        lab.gateway.shell("nft flush ruleset");
        complaint(&gateway);
        lab.must_steer("up", &path, rules);
        wait_until_well(&gateway);
    }
}

fn disabled_watch_reports_nothing() {
    let lab = Lab::new();
    let files = Files::new(&Config { steering: "watch = false".into(), ..Config::default() });
    let gateway = Gateway::start(&lab, files);
    assert_eq!(gateway.gauges("egret_steering_intact", &[]), [0.0; 0]);
}

fn address_loss_and_return_are_noticed(family: Family) {
    let lab = Lab::new();
    let files = Files::new(&Config { steering: "watch = false".into(), ..Config::default() });
    lab.must_steer("up", &files.config(), Rules::Iptables);
    let gateway = Gateway::start(&lab, files);
    let address = family.pool().to_string();
    let network = if family == Family::V4 { "203.0.113.16/30" } else { "2001:db8:100::/120" };
    for (order, state) in [("del", "withdrawn"), ("add", "available"), ("del", "withdrawn")] {
        lab.gateway.ip(&format!("route {order} local {network} dev lo table local"));
        let labels = [("source", &*address), ("state", state)];
        gateway.wait_for_metric("egret_pool_source_state", &labels, |value| value == 1);
    }
}
