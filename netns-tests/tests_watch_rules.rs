//! The watch judges interfaces, and the rules of other programs beside Egret's.

use crate::config::Config;
use crate::flows::Flow;
use crate::gateway::{Files, Gateway, Rules};
use crate::healer::{Healer, Ward, request};
use crate::lab::{Family, Lab, Tenant};
use crate::namespace::text;
use crate::servers::Server;
use crate::tests_watch::{complaint, config, grown, wait_until_well};
use crate::wait::{wait_for, wait_until};
use std::thread;
use std::time::Duration;

crate::trials! {
    both families: ;
    once:
        new_interfaces_leave_the_gateway_ready,
        repeated_interfaces_steer_once,
        overtaken_port_rules_are_noted,
        rule_among_port_rules_stops_repairs,
        interfaces_nothing_comes_in_by_are_told,
        rules_of_mistyped_interface_are_told,
        rules_of_former_interface_are_renewed,
        renamed_interface_takes_new_rules,
        rules_ahead_may_stay_where_harmless
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
        wait_until("the note of the interface", || {
            let (status, said) = gateway.get("/readyz").unwrap();
            assert_eq!(status, 200, "{said}");
            said.contains(&format!("{new} is new"))
        });
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

/// Rules that were made from the broken files at a boot, where nothing kept the last good ones.
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
        let up = lab.steer("up", &path, rules);
        assert!(!up.status.success() && text(&up).contains("no interface c00"), "{}", text(&up));
        Flow::open(&lab, Tenant::Alpha, &Server::raw(&lab, Family::V4, 7001)).assert_alive();
        lab.must_steer("down", &path, rules);
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
