//! What is in the kernel, against what should be.

use super::{PacketRules, Plan, Routing, nftables, script};
use crate::addr::PortRange;
use std::collections::BTreeSet;

/// What the read-only commands printed; `None` where a command could not be run or had nothing to list.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// `iptables-save`.
    pub iptables: Option<String>,
    /// `ip6tables-save`.
    pub ip6tables: Option<String>,
    /// `nft list table inet egret`.
    pub nftables: Option<String>,
    /// `ip -N -4 rule show` and `ip -N -6 rule show`.
    pub rules: [Option<String>; 2],
    /// `ip -N -4 route show table all type local`, and `-6`.
    pub routes: [Option<String>; 2],
    /// `/proc/sys/net/ipv4/ip_local_reserved_ports`.
    pub reserved_ports: Option<String>,
}

/// Something that is not as it should be, or that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What was looked at.
    pub what: &'static str,
    /// What is wrong with it; `None` if nothing is.
    pub wrong: Option<String>,
}

/// One entry for each part of the plan.
pub fn compare(plan: &Plan, observed: &Observed) -> Vec<Difference> {
    let mut found = Vec::new();
    match &plan.packet_rules {
        PacketRules::Iptables { v4, v6 } => {
            let wrong = iptables(v4, observed.iptables.as_deref());
            found.push(Difference { what: "IPv4 packet rules", wrong });
            let wrong = iptables(v6, observed.ip6tables.as_deref());
            found.push(Difference { what: "IPv6 packet rules", wrong });
        }
        PacketRules::Nftables(table) => {
            let wrong = nft(table, observed.nftables.as_deref());
            found.push(Difference { what: "packet rules", wrong });
        }
    }
    let names = [["IPv4 mark rule", "IPv4 local routes"], ["IPv6 mark rule", "IPv6 local routes"]];
    for (index, routing) in plan.routing.iter().enumerate() {
        let wrong = mark_rule(routing, observed.rules[index].as_deref());
        found.push(Difference { what: names[index][0], wrong });
        let wrong = local_routes(routing, observed.routes[index].as_deref());
        found.push(Difference { what: names[index][1], wrong });
    }
    let wrong = not_reserved(&plan.reserved_ports, observed.reserved_ports.as_deref());
    found.push(Difference { what: "reserved ports", wrong });
    found
}

/// Ours in the order that matters, table by table: the rules of each chain, and the first rule of each hooked chain.
fn iptables(wanted: &str, saved: Option<&str>) -> Option<String> {
    let Some(saved) = saved else { return Some("cannot be listed (are you root?)".to_owned()) };
    if !saved.contains("EGRET_") {
        return Some("not in place".to_owned());
    }
    for (table, body) in tables(wanted) {
        let actual = tables(saved).find(|(name, _)| *name == table).map_or("", |(_, body)| body);
        for line in body.lines() {
            if let Some(hook) = line.strip_prefix("-I ") {
                let builtin = hook.split(' ').next().unwrap_or_default();
                let first = actual.lines().find(|line| line.starts_with(&format!("-A {builtin} ")));
                if first != Some(&format!("-A {hook}")) {
                    return Some(format!("`{hook}` is not the first rule of {builtin} in table {table}"));
                }
            } else if let Some(chain) = line.strip_prefix(':').and_then(|rest| rest.split(' ').next())
                && let Some(difference) = sequence(&rules_of(body, chain), &rules_of(actual, chain))
            {
                return Some(format!("table {table}: {difference}"));
            }
        }
    }
    None
}

/// `(name, body)` of each table in the format of `iptables-save`.
fn tables(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let sections = text.split("\n*").map(|section| section.strip_prefix('*').unwrap_or(section));
    sections.filter_map(|section| section.split_once('\n'))
}

fn rules_of<'a>(body: &'a str, chain: &str) -> Vec<&'a str> {
    let prefix = format!("-A {chain} ");
    body.lines().filter(|line| line.starts_with(&prefix)).collect()
}

fn nft(wanted: &str, listed: Option<&str>) -> Option<String> {
    let Some(listed) = listed else {
        return Some("not in place, or cannot be listed (are you root?)".to_owned());
    };
    let start = format!("table {}", nftables::TABLE);
    let lines = |text: &str| -> Vec<String> {
        let words = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        words.filter(|line| !line.is_empty()).skip_while(|line| *line != format!("{start} {{")).collect()
    };
    sequence(&lines(wanted), &lines(listed))
}

/// The first place where two sequences part.
fn sequence<T: AsRef<str>>(wanted: &[T], actual: &[T]) -> Option<String> {
    for index in 0..wanted.len().max(actual.len()) {
        let [wanted, actual] = [wanted, actual].map(|side| side.get(index).map(AsRef::as_ref));
        match (wanted, actual) {
            (Some(wanted), Some(actual)) if wanted != actual => {
                return Some(format!("`{actual}` where `{wanted}` should be"));
            }
            (Some(wanted), None) => return Some(format!("`{wanted}` is missing")),
            (None, Some(actual)) => return Some(format!("`{actual}` was added")),
            (Some(_), Some(_)) | (None, None) => {}
        }
    }
    None
}

fn mark_rule(routing: &Routing, shown: Option<&str>) -> Option<String> {
    let Some(shown) = shown else { return Some("cannot be listed".to_owned()) };
    let (mark, table) = (routing.mark, routing.table);
    let wanted = format!("fwmark {mark:#x}/{mark:#x} lookup {table}");
    let whole_words = |line: &str| format!("{} ", line.trim_end()).contains(&format!(" {wanted} "));
    (!shown.lines().any(whole_words)).then(|| format!("no rule `{wanted}`"))
}

fn local_routes(routing: &Routing, shown: Option<&str>) -> Option<String> {
    let Some(shown) = shown else { return Some("cannot be listed".to_owned()) };
    let table = routing.table.to_string();
    let mut present = BTreeSet::new();
    for line in shown.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let after = |word| words.iter().position(|w| *w == word).and_then(|at| words.get(at + 1)).copied();
        // The command asks for local routes only; their type is shown as a number too.
        if let Some(network) = words.get(1).copied() {
            present.insert((network, after("table").unwrap_or("255")));
        }
    }
    if !present.contains(&("default", table.as_str())) {
        return Some(format!("table {table} does not deliver locally"));
    }
    let missing = |pool: &&ipnet::IpNet| !present.contains(&(script::as_shown(**pool).as_str(), "255"));
    routing.pools.iter().find(missing).map(|pool| format!("{pool} is not local: answers to it would be lost"))
}

/// What is wrong with `net.ipv4.ip_local_reserved_ports`, if anything is.
pub fn not_reserved(wanted: &[PortRange], present: Option<&str>) -> Option<String> {
    let Some(present) = present else { return Some("cannot be read".to_owned()) };
    let present: Vec<_> = present.trim().split(',').filter_map(parse_range).collect();
    let inside = |range: &&PortRange| {
        present.iter().any(|have| have.contains(range.first()) && have.contains(range.last()))
    };
    let missing = wanted.iter().find(|range| !inside(range));
    missing.map(|range| format!("ports {range} of the pools are not reserved"))
}

fn parse_range(text: &str) -> Option<PortRange> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    PortRange::new(first.trim().parse().ok()?, last.trim().parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::super::{iptables as iptables_plan, nftables as nftables_plan, tests::params};
    use super::*;

    fn saved(rendered: &str) -> String {
        rendered.replace("-I ", "-A ")
    }

    fn in_place(plan: &Plan) -> Observed {
        let rules = "0:\tfrom all lookup 255\n100:\tfrom all fwmark 0x1/0x1 lookup 100 proto 230\n";
        let mut observed = Observed {
            rules: [Some(rules.into()), Some(rules.into())],
            routes: [
                Some("2 default dev lo table 100 proto 230 scope 254 \n2 203.0.113.16/28 dev lo table 255 scope 254\n2 203.0.113.99 dev ens5 table 255 proto 2\n".into()),
                Some("2 default dev lo table 100 metric 1024\n2 2001:db8:100::/64 dev lo table 255\n".into()),
            ],
            reserved_ports: Some("53,1024-56903,61000-65535\n".into()),
            ..Observed::default()
        };
        match &plan.packet_rules {
            PacketRules::Iptables { v4, v6 } => {
                (observed.iptables, observed.ip6tables) = (Some(saved(v4)), Some(saved(v6)));
            }
            PacketRules::Nftables(table) => observed.nftables = Some(table.clone()),
        }
        observed
    }

    fn wrong(plan: &Plan, observed: &Observed) -> Vec<String> {
        compare(plan, observed).into_iter().filter_map(|difference| difference.wrong).collect()
    }

    #[test]
    fn what_is_in_place_has_no_difference() {
        for plan in [iptables_plan(&params()), nftables_plan(&params())] {
            assert_eq!(wrong(&plan, &in_place(&plan)), Vec::<String>::new());
        }
    }

    #[test]
    fn an_empty_kernel_differs_everywhere() {
        let plan = iptables_plan(&params());
        let empty = String::new();
        let observed = Observed {
            iptables: Some(empty.clone()),
            ip6tables: Some(empty.clone()),
            rules: [Some(empty.clone()), Some(empty.clone())],
            routes: [Some(empty.clone()), Some(empty.clone())],
            reserved_ports: Some("\n".into()),
            nftables: None,
        };
        assert_eq!(wrong(&plan, &observed).len(), compare(&plan, &observed).len());
    }

    #[test]
    fn a_rule_that_somebody_took_away_or_overtook_is_found() {
        let plan = iptables_plan(&params());
        let good = in_place(&plan);
        let edits = [
            ("-A EGRET_REFUSE -p tcp -m tcp --dport 443 -j DROP\n", "", "should be"),
            (
                "-A FORWARD -j EGRET_FORWARD",
                "-A FORWARD -j ACCEPT\n-A FORWARD -j EGRET_FORWARD",
                "not the first",
            ),
            ("-A EGRET_DIVERT -j ACCEPT\n", "", "is missing"),
            ("COMMIT\n*raw", "-A EGRET_FORWARD -j ACCEPT\nCOMMIT\n*raw", "was added"),
        ];
        for (from, to, expected) in edits {
            let edited = good.iptables.as_ref().unwrap().replace(from, to);
            let found = wrong(&plan, &Observed { iptables: Some(edited), ..good.clone() });
            assert!(found.len() == 1 && found[0].contains(expected), "{from}: {found:?}");
        }
    }

    #[test]
    fn tables_and_networks_are_compared_whole() {
        let plan = iptables_plan(&params());
        let good = in_place(&plan);
        let rules = Some("100:\tfrom all fwmark 0x1/0x1 lookup 1000 proto 230\n".to_owned());
        let found = wrong(&plan, &Observed { rules: [rules, good.rules[1].clone()], ..good.clone() });
        assert_eq!(found, ["no rule `fwmark 0x1/0x1 lookup 100`"]);
        let routes = good.routes[0].as_ref().map(|text| text.replace("203.0.113.16/28", "203.0.113.16/29"));
        let found = wrong(&plan, &Observed { routes: [routes, good.routes[1].clone()], ..good.clone() });
        assert_eq!(found, ["203.0.113.16/28 is not local: answers to it would be lost"]);
        let found = wrong(&plan, &Observed { reserved_ports: Some("1024-50000".into()), ..good });
        assert_eq!(found, ["ports 1024-56903 of the pools are not reserved"]);
    }
}
