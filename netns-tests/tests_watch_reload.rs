//! A reload has steering renewed, and says what came of it.

use crate::config::Config;
use crate::flows::Flow;
use crate::gateway::{Files, Gateway, Rules};
use crate::healer::{Healer, Ward, request};
use crate::lab::{Family, Lab, Tenant};
use crate::namespace::text;
use crate::servers::Server;
use crate::tests_watch::{complaint, config, grown, wait_until_well};
use crate::wait::{wait_for, wait_until};
use std::fs;
use std::thread;

crate::trials! {
    both families:
        reload_steers_new_addresses;
    once:
        changed_listener_port_awaits_restart,
        reload_to_missing_interface_is_refused,
        failed_renewal_is_repeated,
        reload_taken_back_needs_no_renewal,
        rules_are_told_by_their_files,
        reload_without_helper_names_the_command
}

/// Nothing makes rules for the new port until the gateway restarts.
fn changed_listener_port_awaits_restart() {
    let both = "systemctl restart egret-steering egret";
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
        let up = lab.steer("up", &path, rules);
        assert!(
            !up.status.success() && text(&up).contains("refused: the gateway listens on port 15001"),
            "{}",
            text(&up)
        );
        Flow::open(&lab, Tenant::Alpha, &server).assert_alive();
        gateway.kill();
        lab.must_steer("up", &path, rules);
        gateway.start_again();
        wait_until_well(&gateway);
        Flow::open(&lab, Tenant::Alpha, &server).assert_alive();
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
        (Rules::Iptables, "[7000]", "30000-39999", "made from other files than those in force"),
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

/// Rules of former files are reported until they are renewed, or the files are those again.
fn reload_taken_back_needs_no_renewal() {
    for (rules, repair) in
        [(Rules::Iptables, "off"), (Rules::Nftables, "off"), (Rules::Iptables, "/no/such/folder")]
    {
        let lab = Lab::new();
        let with = |ports: &str| Config {
            steering_ports: ports.into(),
            steering: format!("repair = \"{repair}\""),
            gateway: grown(&lab).gateway,
            ..config(&lab)
        };
        let files = Files::new(&with("[7000]"));
        lab.must_steer("up", &files.config(), rules);
        let gateway = Gateway::start(&lab, files);
        let reload = |ports: &str| {
            gateway.write(&with(ports).render(&gateway.flow_log()));
            text(&gateway.egret(&["reload"]))
        };
        for ports in ["[7000, 7001]", "[7000, 7002]"] {
            let said = reload(ports);
            assert!(said.contains("is in force") && !said.contains("was renewed"), "{said}");
            let said = complaint(&gateway);
            assert!(said.contains("made from other files than those in force"), "{said}");
        }
        let said = reload("[7000]");
        assert!(said.contains("is in force") && !said.contains("as root"), "{said}");
        wait_until_well(&gateway);
    }
}

/// Rules that differ in nothing else that the watch looks at, whichever of rules and configuration comes first.
fn rules_are_told_by_their_files() {
    for rules in [Rules::Iptables, Rules::Nftables, Rules::Legacy] {
        let lab = Lab::new();
        let with = |pool: &str| Config {
            alpha_pool: format!("ports = \"{pool}\""),
            steering: "repair = \"off\"".into(),
            gateway: grown(&lab).gateway,
            ..config(&lab)
        };
        let (old, new) = ("20000-29999", "30000-39999");
        let files = Files::new(&with(old));
        let path = files.config();
        lab.must_steer("up", &path, rules);
        let gateway = Gateway::start(&lab, files);
        let write = |pool, listen| {
            gateway.write(&with(pool).render(&gateway.flow_log()).replace("[::]:15001", listen));
        };
        let reload = |pool, listen| {
            write(pool, listen);
            let said = text(&gateway.egret(&["reload"]));
            assert!(said.contains("is in force"), "{said}");
            said
        };
        let is_told = || complaint(&gateway).contains("made from other files than those in force");
        // Taken back with a change of the port that waits for a restart: to the new rules, and to the old.
        reload(new, "[::]:15002");
        reload(new, "[::]:15001");
        assert!(is_told(), "{rules:?}");
        reload(new, "[::]:15002");
        let said = reload(old, "[::]:15001");
        assert!(!said.contains("steering has to be renewed"), "{rules:?}: {said}");
        wait_until_well(&gateway);
        // Rules first: a note, and nothing to renew.
        write(new, "[::]:15001");
        lab.must_steer("up", &path, rules);
        wait_for("a note", || {
            let (code, said) = gateway.get("/readyz").unwrap();
            if code == 200 && said.contains("files that are not in force yet") { Ok(()) } else { Err(said) }
        });
        let said = reload(new, "[::]:15001");
        assert!(!said.contains("steering has to be renewed"), "{rules:?}: {said}");
        wait_until_well(&gateway);
        assert!(!gateway.get("/readyz").unwrap().1.contains("in force yet"));
        // And back without them.
        reload(old, "[::]:15001");
        assert!(is_told(), "{rules:?}");
        lab.must_steer("up", &path, rules);
        wait_until_well(&gateway);
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
