//! The gateway watches its steering: it reports losses, requests repair, and detects changes at once.

use crate::config::Config;
use crate::flows::Flow;
use crate::gateway::{Files, Gateway, Rules};
use crate::healer::{Healer, Ward, asks_for_repair, request};
use crate::lab::{Family, Lab, Tenant};
use crate::namespace::text;
use crate::servers::Server;
use crate::wait::{wait_for, wait_until};
use std::fs;
use std::thread;
use std::time::Duration;

crate::trials! {
    both families:
        address_loss_and_return_are_noticed,
        reload_steers_new_addresses;
    once:
        lost_iptables_rules_are_repaired,
        lost_nftables_rules_are_repaired,
        lost_legacy_rules_are_repaired,
        changed_listener_port_awaits_restart,
        lost_routes_and_marks_are_repaired,
        new_interfaces_leave_the_gateway_ready,
        repeated_interfaces_steer_once,
        overtaken_port_rules_are_noted,
        rule_among_port_rules_stops_repairs,
        unsteered_gateway_reports_it,
        interfaces_nothing_comes_in_by_are_told,
        missing_helper_is_not_asked,
        exemptions_are_not_reported_lost,
        removed_exemption_leaves_the_gateway_ready,
        disabled_watch_reports_nothing,
        reload_to_missing_interface_is_refused,
        rules_of_mistyped_interface_are_told,
        failed_renewal_is_repeated,
        rules_of_former_interface_are_renewed,
        renamed_interface_takes_new_rules,
        rules_ahead_may_stay_where_harmless,
        reload_without_helper_names_the_command
}

fn config(lab: &Lab) -> Config {
    Config { steering: asks_for_repair(lab), ..Config::default() }
}

/// Waits until `/readyz` is not ready, and returns its text.
fn complaint(gateway: &Gateway<'_>) -> String {
    wait_for("the gateway to report lost steering", || match gateway.get("/readyz").unwrap() {
        (503, said) => Ok(said),
        other => Err(format!("{other:?}")),
    })
}

fn wait_until_well(gateway: &Gateway<'_>) {
    wait_for("the gateway to be ready", || match gateway.get("/readyz").unwrap() {
        (200, _) => Ok(()),
        other => Err(format!("{other:?}\n{}", gateway.stderr())),
    });
    assert_eq!(gateway.metric("egret_steering_intact", &[]), 1);
}

/// Asserts that each damage is reported, with its own words and its part of the metric, until the helper repairs it.
fn is_told_and_put_back(rules: Rules, damages: &[(&str, &str, &str)]) {
    let lab = Lab::new();
    let files = Files::new(&config(&lab));
    let path = files.config();
    lab.must_steer("up", &path, rules);
    let gateway = Gateway::start(&lab, files);
    wait_until_well(&gateway);
    for (done, (damage, part, words)) in damages.iter().enumerate() {
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
        assert!(gateway.stderr().contains(words), "{damage}: {}", gateway.stderr());
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
        ],
    );
}

fn lost_legacy_rules_are_repaired() {
    is_told_and_put_back(
        Rules::Legacy,
        &[
            ("iptables-legacy -w -t mangle -F", "packet_rules", "IPv4 table mangle"),
            ("ip6tables-legacy -w -F FORWARD", "packet_rules", "IPv6 table filter: FORWARD"),
            (
                "iptables-legacy -w -t raw -D EGRET_OUTPUT 1",
                "packet_rules",
                "IPv4 table raw: chain EGRET_OUTPUT",
            ),
        ],
    );
}

/// A reload leaves the rules alone, and rules for the new port are reported, until the gateway restarts.
fn changed_listener_port_awaits_restart() {
    let both = "systemctl restart egret-steering egret`";
    for rules in [Rules::Iptables, Rules::Nftables, Rules::Legacy] {
        let lab = Lab::new();
        let files = Files::new(&Config { gateway: grown(&lab).gateway, ..config(&lab) });
        let path = files.config();
        lab.must_steer("up", &path, rules);
        let mut gateway = Gateway::start(&lab, files);
        gateway.write(&grown(&lab).render(&gateway.flow_log()).replace("[::]:15001", "[::]:15002"));
        let said = text(&gateway.egret(&["reload"]));
        assert!(said.contains(both) && said.contains("is in force"), "{rules:?}: {said}");
        let status = text(&lab.steer("status", &path, rules));
        assert!(status.contains(both) && !status.contains("or as root"), "{rules:?}: {status}");
        let server = Server::raw(&lab, Family::V4, 7000);
        Flow::open(&lab, Tenant::Alpha, &server).assert_alive();
        // A loss is reported with the same remedy, and nothing makes rules for the new port meanwhile.
        lab.gateway.ip("route del local 203.0.113.32/30 dev lo table local");
        assert!(complaint(&gateway).contains(both), "{rules:?}");
        assert!(!request(&lab).exists(), "{rules:?}");
        lab.must_steer("up", &path, rules);
        wait_for("the other port to be reported", || {
            let (_, said) = gateway.get("/readyz").unwrap();
            let is_told = said.contains("to port 15002") && said.contains(both);
            if is_told { Ok(()) } else { Err(said) }
        });
        assert_eq!(gateway.metric("egret_steering_part_intact", &[("part", "packet_rules")]), 0, "{rules:?}");
        gateway.kill();
        gateway.start_again();
        wait_until_well(&gateway);
        Flow::open(&lab, Tenant::Alpha, &server).assert_alive();
    }
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
            ("ip -6 rule flush protocol 230", "port_rules", "IPv6: 11 of the `ip rule` entries"),
            ("ip -6 route flush table 100", "steering_table", "IPv6: routing table 100"),
            ("ip route del local 203.0.113.16/30 dev lo", "local_routes", "203.0.113.16/30 of the pools"),
        ],
    );
}

fn new_interfaces_leave_the_gateway_ready() {
    let lab = Lab::new();
    let patterns = Config { interfaces: "[\"c0\", \"veth*\"]".into(), ..config(&lab) };
    let files = Files::new(&patterns);
    let path = files.config();
    lab.must_steer("up", &path, Rules::Iptables);
    let gateway = Gateway::start(&lab, files);
    wait_until_well(&gateway);
    for new in ["veth7", "veth8"] {
        lab.gateway.shell(&format!("ip link add {new} type veth peer name of-{new}"));
        wait_until("the rules of the interface to be requested", || request(&lab).exists());
        let (status, said) = gateway.get("/readyz").unwrap();
        assert!(status == 200 && said.contains(&format!("{new} is new")), "{status}: {said}");
        assert_eq!(gateway.metric("egret_steering_intact", &[]), 1);
        assert!(!lab.steer("status", &path, Rules::Iptables).status.success());
        let ward = Ward::default();
        thread::scope(|scope| {
            let healer = Healer::start(scope, &ward, &lab, &path, Rules::Iptables);
            wait_until("the rules to be put in place", || healer.repairs() > 0);
        });
        lab.must_steer("status", &path, Rules::Iptables);
        wait_until("the note to go", || gateway.get("/readyz").unwrap() == (200, "ready\n".to_owned()));
    }
    assert_eq!(gateway.metric("egret_steering_repairs_total", &[]), 0);
    // What had its rules and loses them is a loss.
    lab.gateway.ip("rule del pref 102 iif veth7 goto 104");
    assert!(complaint(&gateway).contains("no `ip rule` blocks forwarding of intercepted ports from veth7"));
}

fn repeated_interfaces_steer_once() {
    for rules in [Rules::Iptables, Rules::Nftables] {
        let lab = Lab::new();
        let files = Files::new(&Config { interfaces: "[\"c0\", \"c*\", \"c0\"]".into(), ..config(&lab) });
        let path = files.config();
        lab.must_steer("up", &path, rules);
        lab.must_steer("status", &path, rules);
        wait_until_well(&Gateway::start(&lab, files));
    }
}

fn overtaken_port_rules_are_noted() {
    let lab = Lab::new();
    lab.gateway.ip("rule add pref 50 from all lookup main");
    let gateway = lab.start_gateway(&config(&lab));
    wait_until_well(&gateway);
    let words = "another program's `ip rule` at priority 50";
    let said = gateway.get("/readyz").unwrap().1;
    assert!(said.contains(&format!("note: IPv4: {words}")) && gateway.stderr().contains(words), "{said}");
    let status = lab.steer("status", &gateway.config(), Rules::Iptables);
    let said = text(&status);
    assert!(
        !status.status.success() && said.contains("`50: from all lookup 254` comes before them"),
        "{said}"
    );
    // Once it comes before the rule for the mark as well, intercepted packets go by it.
    lab.gateway.ip("rule add pref 10 from 10.0.1.0/24 lookup main");
    wait_until("the mark rule to be lost", || {
        gateway.metric("egret_steering_part_intact", &[("part", "mark_rule")]) == 0
    });
    let said = gateway.get("/readyz").unwrap().1;
    assert!(said.contains("priority 10 comes before the one for mark"), "{said}");
    lab.gateway.ip("rule del pref 10\nrule del pref 50");
    wait_until("the note to go", || gateway.get("/readyz").unwrap() == (200, "ready\n".to_owned()));
    lab.must_steer("status", &gateway.config(), Rules::Iptables);
}

/// `up` refuses to work beside it, so that a request would have root busy in vain.
fn rule_among_port_rules_stops_repairs() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&config(&lab));
    wait_until_well(&gateway);
    lab.gateway.shell("ip rule add pref 103 from 10.9.0.0/16 lookup main; ip rule flush protocol 230");
    let said = complaint(&gateway);
    let first = "steering is not in place: IPv4: another program's `ip rule` at priority 103 lies among";
    assert!(
        said.contains(first) && said.contains("\nfix: give that `ip rule` a priority above 107"),
        "{said}"
    );
    assert!(text(&lab.steer("status", &gateway.config(), Rules::Iptables)).contains("lies among them"));
    assert!(!request(&lab).exists() && gateway.metric("egret_steering_repairs_total", &[]) == 0);
    lab.gateway.ip("rule del pref 103");
    wait_until("a repair to be requested", || request(&lab).exists());
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
    for rules in [Rules::Iptables, Rules::Nftables] {
        let lab = Lab::new();
        let gateway = lab.start_steered_gateway(&config(&lab), rules);
        wait_until_well(&gateway);
        lab.gateway.shell(match rules {
            Rules::Nftables => "nft insert rule inet egret steer ip saddr 10.0.3.2 accept",
            Rules::Iptables | Rules::Legacy => {
                "iptables -w -t mangle -I EGRET_STEER -s 10.0.3.2 -j ACCEPT; iptables -w -A FORWARD -j DROP"
            }
        });
        // When it reports this loss, it has seen the changes before it.
        lab.gateway.ip("route del local 203.0.113.32/30 dev lo table local");
        let said = complaint(&gateway);
        assert!(said.contains("203.0.113.32/30") && !said.contains("table"), "{said}");
    }
}

/// An exemption that came while the gateway ran goes unremarked; one that it started with takes one repair.
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

/// A configuration with one more address, of a network that is not steered.
fn grown(lab: &Lab) -> Config {
    Config {
        alpha_addresses:
            "[\"203.0.113.16/30\", \"203.0.113.20\", \"2001:db8:100::/120\", \"2001:db8:100::100\"]".into(),
        gateway: format!("admin = \"unix:{}\"", lab.control_socket()),
        ..config(lab)
    }
}

fn new_address(family: Family) -> &'static str {
    if family == Family::V4 { "203.0.113.20" } else { "2001:db8:100::100" }
}

fn reload_steers_new_addresses(family: Family) {
    let lab = Lab::new();
    let before = Config { gateway: grown(&lab).gateway, ..config(&lab) };
    let files = Files::new(&before);
    let path = files.config();
    lab.must_steer("up", &path, Rules::Iptables);
    let gateway = Gateway::start(&lab, files);
    gateway.write(&grown(&lab).render(&gateway.flow_log()));
    let ward = Ward::default();
    thread::scope(|scope| {
        let _healer = Healer::start(scope, &ward, &lab, &path, Rules::Iptables);
        let said = text(&gateway.egret(&["reload"]));
        assert!(said.contains("steering was renewed") && said.contains("is in force"), "{said}");
        let labels = [("source", new_address(family)), ("state", "available")];
        gateway.wait_for_metric("egret_pool_source_state", &labels, |value| value == 1);
        // Steered ports can change too, and no other request is needed.
        let ports = Config { steering_ports: "[7000]".into(), ..grown(&lab) };
        gateway.write(&ports.render(&gateway.flow_log()));
        let said = text(&gateway.egret(&["reload"]));
        assert!(said.contains("[steering] changed") && said.contains("steering was renewed"), "{said}");
        let said = text(&gateway.egret(&["reload"]));
        assert!(!said.contains("renewed"), "{said}");
    });
    let server = Server::raw(&lab, family, 7000);
    Flow::open(&lab, Tenant::Alpha, &server).assert_alive();
    lab.must_steer("status", &path, Rules::Iptables);
}

/// Rules that the new configuration has in common with the old one do not count as renewed.
fn failed_renewal_is_repeated() {
    for (rules, ports, pool, words) in [
        (
            Rules::Iptables,
            "[7000]",
            "30000-39999",
            "the packet rules are still those from before the last reload",
        ),
        (Rules::Nftables, "[7001]", "20000-29999", "that block forwarding of intercepted ports are missing"),
    ] {
        let lab = Lab::new();
        let with = |ports: &str, pool: &str| Config {
            steering_ports: ports.into(),
            alpha_pool: format!("ports = \"{pool}\""),
            gateway: grown(&lab).gateway,
            ..config(&lab)
        };
        let files = Files::new(&with("[7000]", "20000-29999"));
        let path = files.config();
        lab.must_steer("up", &path, rules);
        let gateway = Gateway::start(&lab, files);
        gateway.write(&with(ports, pool).render(&gateway.flow_log()));
        let said = thread::scope(|scope| {
            // The repair unit takes the request, and fails.
            scope.spawn(|| wait_until("a request", || fs::remove_file(request(&lab)).is_ok()));
            text(&gateway.egret(&["reload"]))
        });
        assert!(said.contains("is in force") && !said.contains("was renewed"), "{said}");
        let said = complaint(&gateway);
        assert!(said.contains(words), "{said}");
        wait_until("another request", || request(&lab).exists());
        lab.must_steer("up", &path, rules);
        wait_until_well(&gateway);
    }
}

fn interfaces_nothing_comes_in_by_are_told() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config { steering: "repair = \"off\"".into(), ..Config::default() });
    let path = gateway.config();
    let run = |line: &str| lab.carry_out(line, &path);
    run("ip link add br0 type bridge");
    for (damage, words, cure) in [
        ("ip link set c0 master br0", "c0 is a port of bridge br0", "ip link set c0 nomaster"),
        ("ip link set c0 down; ip link set c0 name c9", "there is no interface c0", "ip link set c9 name c0"),
        (
            "for s in all c0; do echo 1 >/proc/sys/net/ipv4/conf/$s/rp_filter; echo 1 >/proc/sys/net/ipv4/conf/$s/src_valid_mark; done",
            "the kernel drops every intercepted IPv4 packet",
            "for s in all c0; do echo 0 >/proc/sys/net/ipv4/conf/$s/src_valid_mark; done",
        ),
    ] {
        run(damage);
        wait_for(words, || {
            let (status, said) = gateway.get("/readyz").unwrap();
            if status == 503 && said.contains(words) { Ok(()) } else { Err(said) }
        });
        assert_eq!(gateway.metric("egret_steering_part_intact", &[("part", "interfaces")]), 0, "{words}");
        let status = lab.steer("status", &path, Rules::Iptables);
        assert_eq!(status.status.code(), Some(1), "{damage}: {}", text(&status));
        run(cure);
        wait_for("the gateway to miss no interface", || {
            let (_, said) = gateway.get("/readyz").unwrap();
            if said.contains(words) { Err(said) } else { Ok(()) }
        });
    }
}

fn reload_to_missing_interface_is_refused() {
    let lab = Lab::new();
    let before = Config { gateway: grown(&lab).gateway, ..Config::default() };
    let gateway = lab.start_gateway(&before);
    let mistyped = Config { interfaces: "[\"c7\"]".into(), ..before };
    gateway.write(&mistyped.render(&gateway.flow_log()));
    let answer = gateway.egret(&["reload"]);
    let said = text(&answer);
    assert_eq!(answer.status.code(), Some(1), "{said}");
    assert!(said.contains("no interface c7") && said.contains("stays in force"), "{said}");
    let server = Server::raw(&lab, Family::V4, 7000);
    Flow::open(&lab, Tenant::Alpha, &server).assert_alive();
    wait_until_well(&gateway);
}

/// Rules that were made from the broken files, where nothing kept the last good ones.
fn rules_of_mistyped_interface_are_told() {
    for rules in [Rules::Iptables, Rules::Nftables, Rules::Legacy] {
        let lab = Lab::new();
        let before = Config { gateway: grown(&lab).gateway, ..config(&lab) };
        let gateway = lab.start_steered_gateway(&before, rules);
        let path = gateway.config();
        let mistyped = Config { interfaces: "[\"c00\"]".into(), ..before.clone() };
        gateway.write(&mistyped.render(&gateway.flow_log()));
        let checked = gateway.egret(&["check"]);
        assert_eq!(checked.status.code(), Some(1), "{}", text(&checked));
        assert!(
            text(&checked).contains("no interface c00")
                && text(&checked).contains("`egret reload` refuses it")
        );
        assert_eq!(gateway.egret(&["reload"]).status.code(), Some(1));
        let status = text(&lab.steer("status", &path, rules));
        assert!(status.contains("c00") && !status.contains("restart egret-steering"), "{status}");
        lab.must_steer("up", &path, rules);
        let told = [
            "for interface c00",
            "none for c0",
            "; fix: if the files name that interface, correct [steering]",
        ];
        wait_for("the other interface to be told", || {
            let said = gateway.stderr();
            if told.iter().all(|words| said.contains(words)) { Ok(()) } else { Err(said) }
        });
        let said = complaint(&gateway);
        assert!(said.contains("\nfix: if the files name that interface, correct [steering]"), "{said}");
        for part in ["packet_rules", "port_rules"] {
            gateway.wait_for_metric("egret_steering_part_intact", &[("part", part)], |intact| intact == 0);
        }
        gateway.write(&before.render(&gateway.flow_log()));
        let ward = Ward::default();
        thread::scope(|scope| {
            let _healer = Healer::start(scope, &ward, &lab, &path, rules);
            let answer = gateway.egret(&["reload"]);
            assert!(answer.status.success(), "{}", text(&answer));
            wait_until_well(&gateway);
        });
        let server = Server::raw(&lab, Family::V4, 7000);
        Flow::open(&lab, Tenant::Alpha, &server).assert_alive();
    }
}

/// A change of interfaces that both exist takes no other files, but steering put in place anew.
fn rules_of_former_interface_are_renewed() {
    for rules in [Rules::Iptables, Rules::Nftables, Rules::Legacy] {
        let lab = Lab::new();
        lab.gateway.shell("ip link add c1 type veth peer name c2; ip link set c1 up");
        // Clients may arrive by it.
        for tenant in 1..=2 {
            lab.gateway.ip(&format!(
                "addr add 10.0.{tenant}.193/28 dev c1\naddr add fd00:{tenant}:0:0:d::1/80 dev c1 nodad\n"
            ));
        }
        let off = |interfaces: &str| Config {
            steering: "repair = \"off\"".into(),
            interfaces: interfaces.into(),
            gateway: grown(&lab).gateway,
            ..Config::default()
        };
        let gateway = lab.start_steered_gateway(&off("[\"c0\"]"), rules);
        gateway.write(&off("[\"c1\"]").render(&gateway.flow_log()));
        let said = text(&gateway.egret(&["reload"]));
        assert!(said.contains("restart egret-steering"), "{rules:?}: {said}");
        let said = complaint(&gateway);
        assert!(said.contains("for interface c0"), "{rules:?}: {said}");
        for told in [said, gateway.stderr()] {
            assert!(
                told.contains("fix: `systemctl restart egret-steering")
                    && !told.contains("correct [steering]"),
                "{rules:?}: {told}"
            );
        }
        lab.must_steer("up", &gateway.config(), rules);
        wait_until_well(&gateway);
    }
}

/// The rules are for a name that is gone, and the files are right. No tenant passes meanwhile.
fn renamed_interface_takes_new_rules() {
    for rules in [Rules::Iptables, Rules::Nftables, Rules::Legacy] {
        let lab = Lab::new();
        lab.gateway.set_forwarding(true);
        let off = |interface: &str| Config {
            steering: "repair = \"off\"".into(),
            interfaces: format!("[\"{interface}\"]"),
            gateway: grown(&lab).gateway,
            ..Config::default()
        };
        let mut gateway = lab.start_steered_gateway(&off("c0"), rules);
        lab.gateway.shell("ip link set c0 down; ip link set c0 name c9; ip link set c9 up");
        let server = Server::raw(&lab, Family::V4, 7000);
        let hangs = || {
            lab.try_connect(Tenant::Alpha, server.address(), Duration::from_millis(300)).unwrap_err();
            assert!(server.accept_those_that_came().is_empty(), "{rules:?}");
        };
        let said = complaint(&gateway);
        assert!(said.contains("there is no interface c0") && said.contains("correct [steering]"), "{said}");
        hangs();
        gateway.write(&off("c9").render(&gateway.flow_log()));
        let said = text(&gateway.egret(&["reload"]));
        assert!(said.contains("is in force"), "{said}");
        let told = |gateway: &Gateway<'_>| {
            wait_for("rules of the former name to be told", || {
                let (_, said) = gateway.get("/readyz").unwrap();
                let is_told = said.contains("for interface c0")
                    && said.contains("fix: `systemctl restart egret-steering")
                    && !said.contains("correct [steering]");
                if is_told { Ok(()) } else { Err(format!("{rules:?}: {said}")) }
            });
        };
        told(&gateway);
        hangs();
        // Not known to a gateway that starts now.
        gateway.kill();
        let gateway = Gateway::start_unready(&lab, Files::new(&off("c9")));
        told(&gateway);
        hangs();
        lab.must_steer("up", &gateway.config(), rules);
        wait_until_well(&gateway);
        Flow::open(&lab, Tenant::Alpha, &server).assert_alive();
    }
}

/// Rules as libvirt, Neutron and NodeLocal DNSCache insert them, before ours.
fn rules_ahead_may_stay_where_harmless() {
    for (rules, tool) in [(Rules::Iptables, "iptables"), (Rules::Legacy, "iptables-legacy")] {
        let lab = Lab::new();
        let off = Config { steering: "repair = \"off\"".into(), ..Config::default() };
        let gateway = lab.start_steered_gateway(&off, rules);
        let path = gateway.config();
        let run = |line: &str| lab.gateway.shell(&format!("{tool} -w {line}"));
        run("-t mangle -N LIBVIRT_PRT");
        run("-t mangle -A LIBVIRT_PRT -o virbr0 -p udp --dport 68 -j CHECKSUM --checksum-fill");
        run("-t mangle -A LIBVIRT_PRT -m comment --comment counted");
        run("-t mangle -I POSTROUTING -j LIBVIRT_PRT");
        run("-t mangle -I POSTROUTING -o tap1 -p udp --dport 68 -j CHECKSUM --checksum-fill");
        run("-t raw -I OUTPUT -s 169.254.20.10 -p tcp --sport 53 -j CT --notrack");
        lab.must_steer("status", &path, rules);
        // Each rule before it has been looked at once this one is told.
        run("-t mangle -A LIBVIRT_PRT -j ACCEPT");
        let said = complaint(&gateway);
        assert!(
            said.contains("IPv4 table mangle: POSTROUTING does not begin")
                && said.contains("rule 2 there takes packets first")
                && !said.contains("OUTPUT"),
            "{rules:?}: {said}"
        );
        assert!(text(&lab.steer("status", &path, rules)).contains("-j LIBVIRT_PRT` may take its packets"));
        run("-t mangle -D LIBVIRT_PRT -j ACCEPT");
        wait_until_well(&gateway);
    }
}

fn reload_without_helper_names_the_command() {
    let lab = Lab::new();
    let off = |config: Config| Config { steering: "repair = \"off\"".into(), ..config };
    let before = off(Config { gateway: grown(&lab).gateway, ..Config::default() });
    let gateway = lab.start_gateway(&before);
    gateway.write(&off(grown(&lab)).render(&gateway.flow_log()));
    let said = text(&gateway.egret(&["reload"]));
    let remedy = said.split("or as root `").nth(1).and_then(|rest| rest.split('`').next());
    let remedy = remedy.unwrap_or_else(|| panic!("no remedy: {said}"));
    complaint(&gateway);
    lab.carry_out(remedy, &gateway.flow_log().with_file_name("egret.toml"));
    wait_until_well(&gateway);
    for family in [Family::V4, Family::V6] {
        let labels = [("source", new_address(family)), ("state", "available")];
        gateway.wait_for_metric("egret_pool_source_state", &labels, |value| value == 1);
    }
}
