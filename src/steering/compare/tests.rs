//! Comparisons of the plan with matching and differing kernel states.

use super::super::{iptables as iptables_plan, nftables as nftables_plan, tests::params};
use super::*;
use crate::steering::{PortRule, Routing, RulePackets, SteeringParams};

fn saved(rendered: &str) -> String {
    rendered.replace("-I ", "-A ")
}

fn in_place(plan: &SteeringPlan) -> SteeringOutput {
    let rules = "0:\tfrom all lookup 255\n100:\tfrom all fwmark 0x1/0x1 lookup 100 proto 230\n".to_owned();
    let shown = |rule: &PortRule| {
        let (priority, words) =
            rule.to_string().split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        let words = words.replace("ipproto ", "ipproto ipproto-").replace("blackhole", "6");
        let words = words.replace("prohibit", "8").replace("ens6", "ens6 [detached]");
        let from = if words.starts_with("from ") { "" } else { "from all " };
        format!("{priority}:\t{from}{words} proto 230\n")
    };
    let is_there = |rule: &&PortRule| match &rule.packets {
        RulePackets::Interface(interface) => !interface.is_pattern(),
        RulePackets::Any | RulePackets::Own | RulePackets::Source(_) => true,
    };
    let shown = |routing: &Routing| {
        rules.clone() + &routing.port_rules.iter().filter(is_there).map(shown).collect::<String>()
    };
    let rules = plan.routing.each_ref().map(|routing| Some(shown(routing)));
    let mut observed = SteeringOutput {
        rules,
        routes: [
            Some("2 default dev lo table 100 proto 230 scope 254 \n2 203.0.113.16/28 dev lo table 255 scope 254\n2 203.0.113.99 dev ens5 table 255 proto 2\n".into()),
            Some("2 default dev lo table 100 metric 1024\n2 2001:db8:100::/64 dev lo table 255\n".into()),
        ],
        reserved_ports: Some("53,1024-56903,61000-65535\n".into()),
        ..SteeringOutput::default()
    };
    match &plan.packet_rules {
        PacketRules::Iptables { v4, v6 } => {
            (observed.iptables, observed.ip6tables) = (Some(saved(v4)), Some(saved(v6)));
        }
        PacketRules::Nftables(table) => observed.nftables = Some(table.clone()),
    }
    observed
}

fn wrong(plan: &SteeringPlan, observed: &SteeringOutput) -> Vec<String> {
    compare(plan, observed).into_iter().filter_map(|difference| difference.wrong).collect()
}

#[test]
fn intact_steering_has_no_difference() {
    for plan in [iptables_plan(&params()), nftables_plan(&params())] {
        assert_eq!(wrong(&plan, &in_place(&plan)), Vec::<String>::new());
    }
}

#[test]
fn other_listener_port_restarts_both() {
    let edited = SteeringParams { listen_port: 15002, ..params() };
    for [running, plan] in [
        [iptables_plan(&params()), iptables_plan(&edited)],
        [nftables_plan(&params()), nftables_plan(&edited)],
    ] {
        let observed = in_place(&running);
        let remedies = |plan: &SteeringPlan, observed: &SteeringOutput| -> BTreeSet<Remedy> {
            let wrong = compare(plan, observed).into_iter().filter(|part| part.wrong.is_some());
            wrong.map(|part| part.remedy).collect()
        };
        assert_eq!(remedies(&plan, &observed), BTreeSet::from([Remedy::RestartBoth]));
        let lost = SteeringOutput { routes: [None, None], ..observed };
        assert_eq!(remedies(&running, &lost), BTreeSet::from([Remedy::Renew]), "the port is the same");
    }
}

#[test]
fn empty_kernel_differs_everywhere() {
    let plan = iptables_plan(&params());
    let empty = String::new();
    let observed = SteeringOutput {
        iptables: Some(empty.clone()),
        ip6tables: Some(empty.clone()),
        rules: [Some(empty.clone()), Some(empty.clone())],
        routes: [Some(empty.clone()), Some(empty.clone())],
        reserved_ports: Some("\n".into()),
        ..SteeringOutput::default()
    };
    assert_eq!(wrong(&plan, &observed).len(), compare(&plan, &observed).len());
}

#[test]
fn removed_or_overtaken_rule_is_found() {
    let plan = iptables_plan(&params());
    let good = in_place(&plan);
    let edits = [
        (
            "-A EGRET_REFUSE -p tcp -m tcp --dport 443 -m comment --comment not_forwarded -j DROP\n",
            "",
            "should be",
        ),
        ("-A INPUT -j EGRET_INPUT\n", "", "is missing in table filter"),
        ("-A EGRET_STEER -p icmp", "-A EGRET_STEER -j ACCEPT\n-A EGRET_STEER -p icmp", "should be"),
        ("-A FORWARD -j EGRET_FORWARD", "-A FORWARD -j ACCEPT\n-A FORWARD -j EGRET_FORWARD", "not the first"),
        (
            "-A FORWARD -j EGRET_FORWARD",
            "-A FORWARD -j DOCKER-USER\n-A DOCKER-USER -j ACCEPT\n-A FORWARD -j EGRET_FORWARD\n:DOCKER-USER - [0:0]",
            "`-A FORWARD -j DOCKER-USER` may take its packets",
        ),
        ("-A EGRET_DIVERT -j ACCEPT\n", "", "is missing"),
        ("COMMIT\n*raw", "-A EGRET_FORWARD -j ACCEPT\nCOMMIT\n*raw", "was added"),
    ];
    for (from, to, expected) in edits {
        let edited = good.iptables.as_ref().unwrap().replace(from, to);
        let found = wrong(&plan, &SteeringOutput { iptables: Some(edited), ..good.clone() });
        assert!(found.len() == 1 && found[0].contains(expected), "{from}: {found:?}");
    }
}

#[test]
fn preceding_rules_taking_nothing_may_stay() {
    let plan = iptables_plan(&params());
    let good = in_place(&plan);
    let libvirt = ":LIBVIRT_PRT - [0:0]\n-A POSTROUTING -j LIBVIRT_PRT\n\
                   -A LIBVIRT_PRT -o virbr0 -p udp -m udp --dport 68 -j CHECKSUM --checksum-fill";
    for before in [
        libvirt,
        ":DOCKER-USER - [0:0]\n-A FORWARD -j DOCKER-USER\n-A DOCKER-USER -j RETURN",
        "-A FORWARD -i docker0 -j ACCEPT",
        "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    ] {
        let ours = if before == libvirt {
            "-A POSTROUTING -j EGRET_POSTROUTING"
        } else {
            "-A FORWARD -j EGRET_FORWARD"
        };
        let edited = good.iptables.as_ref().unwrap().replace(ours, &format!("{before}\n{ours}"));
        assert_ne!(good.iptables.as_ref(), Some(&edited));
        let found = wrong(&plan, &SteeringOutput { iptables: Some(edited), ..good.clone() });
        assert_eq!(found, Vec::<String>::new(), "{before}");
    }
}

#[test]
fn exemptions_are_named_but_intact() {
    let plan = iptables_plan(&params());
    let mut observed = in_place(&plan);
    let exemption = "-A EGRET_FORWARD -s 10.0.1.9/32 -d 198.51.100.7/32 -j ACCEPT";
    let at = "-A EGRET_FORWARD -i ens6 ";
    observed.iptables = observed.iptables.map(|saved| saved.replacen(at, &format!("{exemption}\n{at}"), 1));
    assert_eq!(wrong(&plan, &observed), Vec::<String>::new());
    let notes: Vec<_> = compare(&plan, &observed).into_iter().filter_map(|found| found.note).collect();
    assert!(notes.len() == 1 && notes[0].ends_with(exemption), "{notes:?}");
    let plan = nftables_plan(&params());
    let mut observed = in_place(&plan);
    let hook = "type filter hook prerouting priority mangle; policy accept;\n";
    for (rule, differences) in [
        ("ip saddr 10.0.1.9 ip daddr 198.51.100.7 accept", 0),
        ("accept", 1),
        ("ip saddr != 10.0.1.9 accept", 1),
    ] {
        let PacketRules::Nftables(table) = &plan.packet_rules else { unreachable!() };
        observed.nftables = Some(table.replace(hook, &format!("{hook}\t\t{rule}\n")));
        assert_eq!(wrong(&plan, &observed).len(), differences, "{rule}");
    }
}

#[test]
fn leftover_rules_of_other_formats_are_found() {
    let (iptables, nftables) = (iptables_plan(&params()), nftables_plan(&params()));
    let mut observed = in_place(&iptables);
    observed.other_backend = vec![("ip6tables-legacy-save", "*raw\n:EGRET_OUTPUT - [0:0]\nCOMMIT\n".into())];
    assert!(wrong(&iptables, &observed)[0].contains("`ip6tables-legacy-save`"));
    observed.other_backend.clear();
    observed.nftables = in_place(&nftables).nftables;
    for plan in [&iptables, &nftables] {
        let found = wrong(plan, &observed);
        assert!(found.len() == 1 && found[0].ends_with(" too"), "{found:?}");
    }
}

#[test]
fn rule_overtaking_mark_rule_is_found() {
    let plan = iptables_plan(&params());
    let good = in_place(&plan);
    let wrong = |plan: &SteeringPlan, observed: &SteeringOutput| {
        let mut found = compare(plan, observed);
        found.retain(|difference| difference.part == PlanPart::MarkRule(Family::V4));
        found.into_iter().filter_map(|difference| difference.wrong).collect::<Vec<_>>()
    };
    let rules =
        good.rules[0].as_ref().map(|text| text.replace("100:", "50:\tfrom 10.0.1.0/24 lookup 50\n100:"));
    let found = wrong(&plan, &SteeringOutput { rules: [rules, good.rules[1].clone()], ..good.clone() });
    assert!(
        found.len() == 1 && found[0].contains("`50: from 10.0.1.0/24 lookup 50` is asked before"),
        "{found:?}"
    );
    for (rule, overtakes) in [
        ("0:\tfrom all lookup 254", true),
        ("1:\tfrom all fwmark 0x1/0x1 lookup 254", true),
        ("1:\tfrom all fwmark 0x8/0x8 lookup 254", false),
        ("1:\tnot from all fwmark 0xca6c lookup 51820", true),
        ("50:\tfrom all to 0.0.0.0/1 lookup 254", true),
        ("50:\tfrom 10.0.1.9 to 198.51.100.7 lookup 254", false),
        ("1:\tnot from all iif lo blackhole proto 231", false),
        ("1000:\tfrom all lookup [l3mdev-table]", false),
        ("99:\tfrom all to 10.0.1.0/24 iif lo ipproto ipproto-6 sport 80 6", false),
    ] {
        let rules = good.rules[0].as_ref().map(|text| text.replace("100:", &format!("{rule}\n100:")));
        let found = wrong(&plan, &SteeringOutput { rules: [rules, good.rules[1].clone()], ..good.clone() });
        assert_eq!(found.len(), usize::from(overtakes), "{rule}: {found:?}");
    }
}

#[test]
fn nothing_overtakes_an_absent_mark_rule() {
    let shown =
        "0:\tfrom all lookup 255\n101:\tfrom all iif lo goto 107 proto 230\n32766:\tfrom all lookup 254\n";
    assert_eq!(before_mark_rule(shown, 0x0100, 100), None);
}

#[test]
fn rule_overtaking_port_rules_is_found() {
    let plan = iptables_plan(&params());
    let good = in_place(&plan);
    let rules =
        good.rules[0].as_ref().map(|text| text.replacen("101:", "101:\tfrom all lookup 254\n101:", 1));
    let observed = SteeringOutput { rules: [rules, good.rules[1].clone()], ..good };
    let found = compare(&plan, &observed).into_iter().find(|difference| difference.wrong.is_some()).unwrap();
    assert!(
        found.wrong.as_ref().unwrap().contains("`101: from all lookup 254` comes before them"),
        "{found:?}"
    );
    assert_eq!((found.part, found.remedy), (PlanPart::PortRules(Family::V4), Remedy::MoveRule));
}

#[test]
fn interface_of_a_pattern_needs_its_rules() {
    let plan = iptables_plan(&params());
    let mut observed = in_place(&plan);
    observed.interfaces = ["lo", "ens6", "veth7"].map(str::to_owned).into();
    let found = wrong(&plan, &observed);
    assert_eq!(found, vec!["no rule `102 iif veth7 goto 104`"; 2]);
    for rules in observed.rules.iter_mut().flatten() {
        let of_veth: Vec<_> = rules.lines().filter(|line| line.contains("iif ens6")).collect();
        let of_veth = of_veth.join("\n").replace("ens6", "veth7");
        rules.push_str(&of_veth);
        rules.push('\n');
    }
    assert_eq!(wrong(&plan, &observed), Vec::<String>::new());
}

#[test]
fn tables_and_networks_are_compared_whole() {
    let plan = iptables_plan(&params());
    let good = in_place(&plan);
    let rules = good.rules[0].as_ref().map(|text| text.replace("lookup 100 ", "lookup 1000 "));
    let found = wrong(&plan, &SteeringOutput { rules: [rules, good.rules[1].clone()], ..good.clone() });
    assert_eq!(found, ["no rule `fwmark 0x1/0x1 lookup 100`"]);
    let rules = good.rules[0].as_ref().map(|text| text.replace("dport 443 6", "dport 4430 6"));
    let found = wrong(&plan, &SteeringOutput { rules: [rules, good.rules[1].clone()], ..good.clone() });
    assert_eq!(found, ["no rule `104 ipproto 6 dport 443 blackhole`"]);
    let routes = good.routes[0].as_ref().map(|text| text.replace("203.0.113.16/28", "203.0.113.16/29"));
    let found = wrong(&plan, &SteeringOutput { routes: [routes, good.routes[1].clone()], ..good.clone() });
    assert_eq!(found, ["203.0.113.16/28 is not local: answers to it would be lost"]);
    for foreign in ["203.0.113.0/24 via 198.51.100.10 dev s0 ", "throw 192.0.2.0/24 "] {
        let table = format!("{foreign}\nlocal default dev lo proto 230 scope host \n");
        let found = wrong(&plan, &SteeringOutput { steering_tables: [Some(table), None], ..good.clone() });
        assert!(found.len() == 1 && found[0].contains(&format!("`{}`", foreign.trim())), "{found:?}");
    }
    let found = wrong(&plan, &SteeringOutput { reserved_ports: Some("1024-50000".into()), ..good });
    assert_eq!(found, ["ports 1024-56903 of the pools are not reserved"]);
}

/// `up` refuses to work beside those, so that restarting steering is no cure.
#[test]
fn rules_that_steering_refuses_come_first() {
    let plan = iptables_plan(&params());
    let intact = in_place(&plan).rules[0].clone().unwrap();
    let lost: Vec<_> = intact.lines().filter(|line| !line.contains("proto 230")).collect();
    let lost = lost.join("\n");
    for (rules, part, rule, remedy) in [
        (
            &intact,
            PlanPart::PortRules(Family::V4),
            "103:\tfrom all to 10.9.0.0/16 lookup 7",
            Remedy::ClearPlace,
        ),
        (
            &lost,
            PlanPart::PortRules(Family::V4),
            "103:\tfrom all to 10.9.0.0/16 lookup 7",
            Remedy::ClearPlace,
        ),
        (&lost, PlanPart::PortRules(Family::V4), "50:\tfrom all lookup 254", Remedy::Renew),
        (&intact, PlanPart::PortRules(Family::V4), "101:\tfrom all lookup 254", Remedy::MoveRule),
        (
            &intact,
            PlanPart::MarkRule(Family::V4),
            "50:\tfrom all fwmark 0x1/0x1 lookup 7",
            Remedy::DeleteRule,
        ),
        (&lost, PlanPart::MarkRule(Family::V4), "200:\tfrom all fwmark 0x1/0x1 lookup 7", Remedy::DeleteRule),
        (&lost, PlanPart::MarkRule(Family::V4), "200:\tfrom all lookup 100", Remedy::DeleteRule),
        (&intact, PlanPart::MarkRule(Family::V4), "50:\tfrom all lookup 7", Remedy::Renew),
    ] {
        let mut lines: Vec<_> = rules.lines().chain([rule]).collect();
        lines.sort_by_key(|line| line.split(':').next().and_then(|at| at.parse::<u32>().ok()));
        let mut observed = in_place(&plan);
        observed.rules[0] = Some(lines.join("\n"));
        let found = compare(&plan, &observed).into_iter().find(|found| found.part == part).unwrap();
        let named = rule.replace('\t', " ");
        let told =
            found.wrong.as_ref().is_some_and(|wrong| wrong.contains(&named) || remedy == Remedy::Renew);
        assert!(told && found.remedy == remedy, "{rule}: {found:?}");
    }
}
