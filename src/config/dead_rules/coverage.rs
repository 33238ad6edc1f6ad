//! Finds rules that leave nothing for another to match.

use super::super::comparisons::Comparisons;
use super::host_index::{HostIndex, PatternHolder};
use super::reach_table::ReachTable;
use crate::hostname::HostPattern;
use crate::policy::{DestinationRule, RuleEffect, RuleSpec};

/// Finds the rules that leave nothing for another to match.
pub(super) struct Coverage<'a> {
    rules: &'a [RuleSpec],
    comparisons: &'a Comparisons,
    reaches: ReachTable,
    index: HostIndex<'a>,
}

impl<'a> Coverage<'a> {
    pub(super) fn new(rules: &'a [RuleSpec], comparisons: &'a Comparisons) -> Self {
        let reaches = ReachTable::new(rules, comparisons);
        let index = HostIndex::new(rules, |rule| (reaches.of_rule(rule), kind(&rules[rule])));
        Self { rules, comparisons, reaches, index }
    }

    /// Number of a rule's duplicate names, and one of them.
    pub(super) fn duplicates(&self, rule: usize) -> Option<&(usize, &'a HostPattern)> {
        self.index.duplicates(rule)
    }

    /// Returns a rule that decides every flow that the given one covers; the last, if it takes several.
    pub(super) fn winner(&self, rule: usize) -> Option<usize> {
        if let Some(winner) = self.decider(self.index.nameless(), rule) {
            return Some(winner);
        }
        let mut winner = None;
        for pattern in &self.rules[rule].hosts {
            let mut covering = self.index.covering(pattern);
            winner = Some(covering.find_map(|holders| self.decider(holders, rule))?);
        }
        winner
    }

    /// Returns one of the rules, which are in order of their reach, that decides before the given one whatever that covers of
    /// their names.
    fn decider(&self, holders: &[PatternHolder], rule: usize) -> Option<usize> {
        let covering = self.reaches.covering(rule);
        let decides = |holder: &&PatternHolder| self.decides_before(holder.rule(), rule);
        let found = if holders.len() <= covering.len() {
            let covers = |holder: &&PatternHolder| covering.binary_search(&holder.reach()).is_ok();
            holders.iter().take_while(|_| self.comparisons.take()).filter(covers).find(decides)
        } else {
            let with = |reach: usize| {
                let first = holders.partition_point(|holder| holder.reach() < reach);
                holders[first..].iter().take_while(move |holder| holder.reach() == reach)
            };
            let covering = covering.iter().take_while(|_| self.comparisons.take());
            covering.flat_map(|reach| with(*reach)).find(decides)
        };
        found.map(PatternHolder::rule)
    }

    /// True if `other`, where it covers a flow of `rule`, decides it before that does.
    fn decides_before(&self, other: usize, rule: usize) -> bool {
        if other == rule {
            return false;
        }
        let (winner, loser) = (&self.rules[other], &self.rules[rule]);
        match (winner.effect, loser.effect) {
            (RuleEffect::Deny, RuleEffect::Allow) => true,
            (RuleEffect::Deny, RuleEffect::Deny) => other < rule,
            // Uninspected flows are permitted before a rule with names could deny them.
            (RuleEffect::Allow, RuleEffect::Deny) => winner.uninspected && !loser.hosts.is_empty(),
            // CIDR rules and resolve-only rules may reach private dialled addresses, so a rule of another kind does not
            // replace one of them.
            (RuleEffect::Allow, RuleEffect::Allow) => {
                let by_address = reaches_private(winner) || !reaches_private(loser);
                let no_later = other < rule || (winner.uninspected && !loser.uninspected);
                by_address && no_later && (winner.uninspected || !loser.uninspected)
            }
        }
    }
}

/// Equal for rules of which the first decides whatever a later one would: [`Coverage::decides_before`] asks for no more.
fn kind(rule: &RuleSpec) -> u8 {
    let allows = rule.effect == RuleEffect::Allow;
    u8::from(allows) | u8::from(rule.uninspected) << 1 | u8::from(reaches_private(rule)) << 2
}

fn reaches_private(rule: &RuleSpec) -> bool {
    !rule.cidrs.is_empty() || rule.destination == DestinationRule::Resolve
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PortRange;
    use crate::hostname::Hostname;
    use proptest::prelude::*;
    use proptest::sample::{select, subsequence};
    use std::net::IpAddr;

    const NAMES: [&str; 4] = ["example.com", "a.example.com", "b.a.example.com", "example.net"];
    const ADDRESSES: [&str; 4] = ["192.0.2.1", "192.0.2.200", "10.0.0.1", "2001:db8::1"];
    const PORTS: [u16; 3] = [80, 443, 5432];

    fn rule() -> impl Strategy<Value = RuleSpec> {
        let hosts = ["example.com", "a.example.com", "*.example.com", "*.a.example.com", "example.net"];
        let cidrs = ["192.0.2.0/24", "192.0.2.0/25", "192.0.2.128/25", "10.0.0.0/8", "0.0.0.0/0", "::/0"];
        let ports = [(80, 80), (443, 443), (80, 443), (444, 65535)];
        let fields = (
            select(vec![RuleEffect::Allow, RuleEffect::Deny]),
            subsequence(hosts.to_vec(), 0..=2),
            subsequence(cidrs.to_vec(), 0..=2),
            subsequence(ports.to_vec(), 0..=2),
            any::<bool>(),
            select(vec![DestinationRule::Original, DestinationRule::Resolve]),
        );
        fields.prop_map(|(effect, hosts, cidrs, ports, uninspected, destination)| RuleSpec {
            uninspected: uninspected && effect == RuleEffect::Allow && hosts.is_empty() && !cidrs.is_empty(),
            hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
            cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
            ports: ports.iter().map(|(first, last)| PortRange::new(*first, *last).unwrap()).collect(),
            destination,
            ..RuleSpec::new("r", effect)
        })
    }

    /// Returns the rule that decides a flow, directly by the rules' definition.
    fn decider(rules: &[RuleSpec], name: Option<&Hostname>, address: IpAddr, port: u16) -> Option<usize> {
        let private = address.to_string().starts_with("10.");
        let reaches = |rule: &RuleSpec| {
            (rule.cidrs.is_empty() || rule.cidrs.iter().any(|cidr| cidr.contains(&address)))
                && (rule.ports.is_empty() || rule.ports.iter().any(|range| range.contains(port)))
        };
        let named = |rule: &RuleSpec| {
            rule.hosts.is_empty()
                || name.is_some_and(|name| rule.hosts.iter().any(|pattern| pattern.matches(name)))
        };
        let first = |accepts: &dyn Fn(&RuleSpec) -> bool| {
            rules.iter().position(|rule| reaches(rule) && accepts(rule))
        };
        first(&|rule| rule.effect == RuleEffect::Deny && rule.hosts.is_empty())
            .or_else(|| first(&|rule| rule.uninspected))
            .or_else(|| first(&|rule| rule.effect == RuleEffect::Deny && named(rule)))
            .or_else(|| {
                let by_name_only = |rule: &RuleSpec| {
                    private && rule.cidrs.is_empty() && rule.destination != DestinationRule::Resolve
                };
                first(&|rule| rule.effect == RuleEffect::Allow && named(rule) && !by_name_only(rule))
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn dead_rules_decide_no_flow(rules in proptest::collection::vec(rule(), 1..5)) {
            let comparisons = Comparisons::default();
            let coverage = Coverage::new(&rules, &comparisons);
            let never: Vec<_> = (0..rules.len()).filter(|rule| coverage.winner(*rule).is_some()).collect();
            let names = NAMES.map(|name| Some(name.parse().unwrap()));
            for name in names.iter().chain([&None]) {
                for address in ADDRESSES {
                    for port in PORTS {
                        let decider = decider(&rules, name.as_ref(), address.parse().unwrap(), port);
                        prop_assert!(
                            decider.is_none_or(|rule| !never.contains(&rule)),
                            "{name:?} {address} {port}: rule {decider:?} of {rules:#?}"
                        );
                    }
                }
            }
        }
    }

    const MANY: usize = 20_000;

    /// Compares [`MANY`] rules. Returns the number of those that never match, that of the comparisons made, and true if more
    /// were wanted.
    fn compared(rule: impl Fn(usize) -> RuleSpec, most: u64) -> (usize, u64, bool) {
        let rules: Vec<_> = (0..MANY).map(rule).collect();
        let comparisons = Comparisons::new(most);
        let coverage = Coverage::new(&rules, &comparisons);
        let dead = (0..MANY).filter(|rule| coverage.winner(*rule).is_some()).count();
        (dead, most - comparisons.left(), comparisons.were_too_few())
    }

    fn allow(host: Option<&str>, cidr: Option<&str>, ports: (usize, usize)) -> RuleSpec {
        let port = |port: usize| u16::try_from(port).unwrap();
        RuleSpec {
            hosts: host.iter().map(|host| host.parse().unwrap()).collect(),
            cidrs: cidr.iter().map(|cidr| cidr.parse().unwrap()).collect(),
            ports: vec![PortRange::new(port(ports.0), port(ports.1)).unwrap()],
            ..RuleSpec::new("r", RuleEffect::Allow)
        }
    }

    #[test]
    fn many_alike_rules_take_few_comparisons() {
        let most = 20 * MANY as u64;
        let name = Some("example.com");
        let cidr = |n: usize| format!("10.{}.{}.0/24", n / 256, n % 256);
        for (rule, dead) in [
            (&(|_| allow(name, None, (443, 443))) as &dyn Fn(usize) -> RuleSpec, MANY - 1),
            (&|n| allow(name, None, (n + 1, n + 1)), 0),
            (&|n| allow(name, None, (n % 100 + 1, n % 100 + 1)), MANY - 100),
            (&|n| allow(None, Some(&cidr(n)), (443, 443)), 0),
            (&|n| allow(None, Some(&cidr(n / 2)), (443, 443)), MANY / 2),
        ] {
            let (found, used, too_few) = compared(rule, most);
            assert_eq!((found, too_few), (dead, false), "{used} comparisons");
        }
    }

    #[test]
    fn nested_rules_are_compared_within_bound() {
        let (_, used, too_few) = compared(|n| allow(None, None, (1, MANY - n)), 100_000);
        assert_eq!((used, too_few), (100_000, true));
    }
}
