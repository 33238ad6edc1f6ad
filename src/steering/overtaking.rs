//! Rules of policy routing of other programs that come before Egret's, or that steering refuses to be put in place beside.

use super::origin;
use super::port_rules::is_among;
use crate::interface::Interface;
use crate::sys::routing::{LOCAL_TABLE, RoutingRule};
use ipnet::IpNet;
use std::net::IpAddr;

/// The protocol numbers of Egret's own rules.
const OWN: [u8; 2] = [origin::UP, origin::GUARD];

/// The position of the first rule that tenants' packets to intercepted ports meet before a rule of Egret's against
/// forwarding, and that may route them. Those rules hold what packet rules would have intercepted, after a flush.
pub(super) fn before_port_rules(
    rules: &[RoutingRule],
    steered: &[Interface],
    sources: &[IpNet],
) -> Option<usize> {
    let is_port_rule = |rule: &RoutingRule| rule.protocol == origin::UP && rule.mark.is_none();
    let last = rules.iter().rposition(is_port_rule)?;
    rules.iter().take(last).position(|rule| !is_among(rule.priority) && takes(rule, steered, sources))
}

/// The position of the first rule in the place of Egret's rules against forwarding, where packets skip it. `up` refuses it,
/// also while Egret's are lost (`must_be_together` in prelude.sh).
pub(super) fn among_port_rules(rules: &[RoutingRule]) -> Option<usize> {
    rules.iter().position(|rule| is_among(rule.priority) && !OWN.contains(&rule.protocol))
}

/// True if `up` refuses the rule at any place: it looks Egret's table up, or has a bit in common with the mark
/// (`must_be_free` in prelude.sh). The same rule as Egret's does no harm.
pub(super) fn is_in_the_way(rule: &RoutingRule, mark: u32, table: u32) -> bool {
    let RoutingRule { source, interface, has_destination, is_narrow, inverted, .. } = rule;
    let any_packet = source.is_none() && interface.is_none() && !has_destination && !is_narrow && !inverted;
    let same_mark =
        rule.mark.is_some_and(|(value, mask)| value == mark && (mask == mark || mask == u32::MAX));
    let is_same = same_mark && rule.table == table && any_packet;
    let has_bit = !inverted && rule.mark.is_some_and(|(value, _)| value & mark != 0);
    rule.protocol != origin::UP && !is_same && (rule.table == table || has_bit)
}

/// True if a rule that is not Egret's may take packets with Egret's mark, and no other, from the rule for that mark.
pub(super) fn may_take_marked(rule: &RoutingRule, mark: u32) -> bool {
    let local = rule.priority == 0 && rule.table == LOCAL_TABLE;
    let other_mark = !rule.inverted && rule.mark.is_some_and(|(value, mask)| mark & mask != value);
    // What clients send comes in by an interface.
    let any_packet = rule.inverted || !rule.is_narrow && rule.interface.as_deref() != Some("lo");
    !local && any_packet && rule.protocol != origin::GUARD && !exempts(rule) && !other_mark
}

/// True for an exemption, which names both sources and destinations (docs/steering.md).
fn exempts(rule: &RoutingRule) -> bool {
    !rule.inverted && rule.source.is_some() && rule.has_destination
}

/// True if a rule may route packets that nobody has marked.
fn takes(rule: &RoutingRule, steered: &[Interface], sources: &[IpNet]) -> bool {
    if OWN.contains(&rule.protocol) || !rule.leads_on || rule.table == LOCAL_TABLE {
        return false;
    }
    let overlap =
        |network: IpNet| sources.iter().any(|source| source.contains(&network) || network.contains(source));
    let any_interface = rule.interface.as_ref().is_none_or(|name| steered.iter().any(|one| one.covers(name)));
    let any_mark = rule.mark.is_none_or(|(value, mask)| value & mask == 0);
    // `not` is for nearly everything.
    rule.inverted
        || any_interface && any_mark && rule.source.is_none_or(overlap) && !rule.is_narrow && !exempts(rule)
}

/// Parses a line of `ip -N rule show`.
pub(super) fn parse(line: &str) -> Option<RoutingRule> {
    let (priority, rest) = line.split_once(':')?;
    let mut rule = RoutingRule { priority: priority.trim().parse().ok()?, ..RoutingRule::default() };
    let mut words = rest.split_whitespace();
    while let Some(word) = words.next() {
        match word {
            "not" => rule.inverted = true,
            "from" => rule.source = words.next().and_then(network),
            "iif" => rule.interface = words.next().map(str::to_owned),
            "to" => rule.has_destination = true,
            "oif" | "l3mdev" | "[l3mdev-table]" => rule.is_narrow = true,
            "fwmark" => rule.mark = words.next().and_then(mark),
            "lookup" => {
                rule.leads_on = true;
                // A VRF's table is shown in brackets.
                match words.next().map(str::parse) {
                    Some(Ok(table)) => rule.table = table,
                    Some(Err(_)) | None => rule.is_narrow = true,
                }
            }
            "goto" => rule.leads_on = true,
            "proto" => rule.protocol = words.next()?.parse().ok()?,
            _ => {}
        }
    }
    Some(rule)
}

/// `None` for `all`.
fn network(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

fn mark(text: &str) -> Option<(u32, u32)> {
    let number = |text: &str| u32::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    let (value, mask) = text.split_once('/').unwrap_or((text, "0xffffffff"));
    number(value).zip(number(mask))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rule_before_port_rules_is_found() {
        let steered = ["c0", "veth*"].map(|name| Interface::parse(name).unwrap());
        let sources: [IpNet; 2] = ["10.0.1.0/24", "fd00:1::/64"].map(|network| network.parse().unwrap());
        for (rule, overtakes) in [
            ("50:\tfrom all lookup 254", true),
            ("50:\tfrom 10.0.1.128/25 lookup 7", true),
            ("50:\tfrom 10.0.0.0/8 lookup 7", true),
            ("50:\tfrom fd00:1::7 lookup 7", true),
            ("50:\tfrom all iif veth3 lookup 7", true),
            ("50:\tfrom all fwmark 0x0/0x8 lookup 7", true),
            ("50:\tnot from all fwmark 0xca6c lookup 51820", true),
            ("50:\tnot from all to 10.0.0.0/8 lookup 7", true),
            ("50:\tnot from all oif x lookup 7", true),
            ("50:\tfrom all tos lowdelay lookup 7", true), // the client chooses it
            ("50:\tfrom all oif x lookup 7", false),
            ("50:\tnot from all dport 22 lookup 7", true),
            ("50:\tnot from all ipproto ipproto-17 lookup 7", true),
            ("50:\tfrom all goto 32000", true),
            ("50:\tfrom all to 0.0.0.0/1 lookup 254", true),
            ("101:\tfrom all lookup 254", true),
            ("0:\tfrom all lookup 255", false),
            ("50:\tfrom 198.51.100.1 lookup 7", false),
            ("50:\tfrom 10.0.1.9 to 198.51.100.7 lookup 254", false),
            ("50:\tfrom all iif ens5 lookup 7", false),
            ("50:\tfrom all fwmark 0x8/0x8 lookup 7", false),
            ("50:\tfrom all lookup [l3mdev-table]", false),
            ("50:\tfrom all 6 proto 7", false),
            ("1:\tnot from all iif lo 6 proto 231", false),
            ("99:\tfrom all fwmark 0x1/0x1 lookup 100 proto 230", false),
        ] {
            let lines = [rule, "101:\tfrom all iif c0 [detached] ipproto ipproto-6 6 proto 230"];
            let rules: Vec<_> = lines.iter().map(|line| parse(line).unwrap()).collect();
            let found = before_port_rules(&rules, &steered, &sources);
            assert_eq!(found, overtakes.then_some(0), "{rule}");
            let after: Vec<_> = rules.into_iter().rev().collect();
            assert_eq!(before_port_rules(&after, &steered, &sources), None, "{rule}");
        }
        assert_eq!(before_port_rules(&[parse("50: from all lookup 254").unwrap()], &steered, &sources), None);
    }

    #[test]
    fn rule_among_lost_port_rules_is_found() {
        let found = |lines: &[&str]| {
            let rules: Vec<_> = lines.iter().map(|line| parse(line).unwrap()).collect();
            (among_port_rules(&rules), before_port_rules(&rules, &[], &["10.0.1.0/24".parse().unwrap()]))
        };
        let (before, among) = ("50:\tfrom all lookup 254", "103:\tfrom 10.0.1.0/24 lookup 7 proto 3");
        let own = "106:\tfrom all ipproto ipproto-6 6 proto 230";
        assert_eq!(found(&[before, among]), (Some(1), None));
        assert_eq!(found(&[before, among, own]), (Some(1), Some(0)));
        assert_eq!(found(&[among, own]), (Some(0), None));
        assert_eq!(found(&["101:\tfrom all lookup 254", own, "107:\tfrom all lookup 7"]), (None, Some(0)));
    }
}
