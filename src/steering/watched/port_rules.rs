//! The rules that keep intercepted ports from being routed on, as far as they are there.

use crate::steering::{PortRule, Routing, RulePackets, origin, stamp};
use crate::sys::routing::RoutingRule;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// After this time, rules that a new interface does not have are missing: repairs come within seconds.
const SETTLING: Duration = Duration::from_secs(60);

/// A rule's priority, input interface and source, and the rest of it.
type RuleKey = (u32, Option<String>, Option<IpNet>, String);

/// The interfaces that patterns cover, by whether they have had their rules since they appeared.
#[derive(Debug, Default)]
pub(super) struct Newcomers {
    /// Interfaces that have had them.
    settled: BTreeSet<String>,
    /// Interfaces that have not, since when.
    since: BTreeMap<String, Instant>,
}

/// Rules that are not there.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct MissingRules {
    /// Number of those that are for no interface of a pattern.
    pub(super) fixed: usize,
    /// Interfaces that Egret's rules are for although the plan names none of them.
    pub(super) others: BTreeSet<String>,
    /// Interfaces of patterns that have lost theirs or never got them.
    pub(super) lost: Vec<String>,
    /// Interfaces of patterns that have just appeared. Packet rules intercept there already.
    pub(super) new: Vec<String>,
}

impl Newcomers {
    /// Finds the rules that are missing, and remembers the interfaces that are new.
    pub(super) fn look(
        &mut self,
        routing: &Routing,
        rules: &[RoutingRule],
        present: &[String],
        now: Instant,
    ) -> MissingRules {
        self.settled.retain(|name| present.contains(name));
        self.since.retain(|name, _| present.contains(name));
        let mut there: BTreeMap<RuleKey, usize> = BTreeMap::new();
        for rule in rules.iter().filter(|rule| rule.protocol == origin::UP && rule.mark.is_none()) {
            let key = (rule.priority, rule.interface.clone(), rule.source, rule.rest.clone());
            *there.entry(key).or_default() += 1;
        }
        let mut missing = MissingRules::default();
        // One of other parameters is another fault.
        let is_stamped = there.keys().any(|(_, _, _, rest)| stamp::is_stamp(rest));
        let mut fixed: BTreeMap<RuleKey, usize> = BTreeMap::new();
        let wanted = routing.port_rules.iter().filter(|rule| !is_stamped || !stamp::is_stamp(&rule.rest));
        for PortRule { priority, packets, rest } in wanted {
            let (interface, source) = match packets {
                RulePackets::Any => (None, None),
                RulePackets::Own => (Some("lo".to_owned()), None),
                RulePackets::Source(network) => (None, Some(*network)),
                RulePackets::Interface(interface) if !interface.is_pattern() => {
                    (Some(interface.to_string()), None)
                }
                RulePackets::Interface(pattern) => {
                    for name in present.iter().filter(|name| pattern.covers(name)) {
                        let is_there =
                            there.contains_key(&(*priority, Some(name.clone()), None, rest.clone()));
                        self.judge(name, is_there, now, &mut missing);
                    }
                    continue;
                }
            };
            *fixed.entry((*priority, interface, source, rest.clone())).or_default() += 1;
        }
        let short = |(key, wanted): (RuleKey, usize)| {
            wanted.saturating_sub(there.get(&key).copied().unwrap_or_default())
        };
        missing.fixed = fixed.into_iter().map(short).sum();
        let is_planned = |name: &str| {
            routing.port_rules.iter().any(|rule| match &rule.packets {
                RulePackets::Interface(interface) => interface.covers(name),
                RulePackets::Own => name == "lo",
                RulePackets::Any | RulePackets::Source(_) => false,
            })
        };
        let names = there.into_keys().filter_map(|(_, interface, _, _)| interface);
        missing.others = names.filter(|name| !is_planned(name)).collect();
        missing
    }

    fn judge(&mut self, name: &str, is_there: bool, now: Instant, missing: &mut MissingRules) {
        if is_there {
            self.settled.insert(name.to_owned());
            self.since.remove(name);
        } else if self.is_new(name, now) {
            missing.new.push(name.to_owned());
        } else {
            missing.lost.push(name.to_owned());
        }
    }

    fn is_new(&mut self, name: &str, now: Instant) -> bool {
        if self.settled.contains(name) {
            return false;
        }
        let since = *self.since.entry(name.to_owned()).or_insert(now);
        now.saturating_duration_since(since) < SETTLING
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steering::tests::params;

    /// The rules of a plan as the kernel lists them, with these interfaces of its pattern.
    fn rules(routing: &Routing, covered: &[&str]) -> Vec<RoutingRule> {
        let rule = |of: &PortRule, interface: Option<&str>, source| RoutingRule {
            interface: interface.map(str::to_owned),
            protocol: origin::UP,
            priority: of.priority,
            rest: of.rest.clone(),
            source,
            ..RoutingRule::default()
        };
        let each = routing.port_rules.iter().flat_map(|of| match &of.packets {
            RulePackets::Any => vec![rule(of, None, None)],
            RulePackets::Own => vec![rule(of, Some("lo"), None)],
            RulePackets::Source(source) => vec![rule(of, None, Some(*source))],
            RulePackets::Interface(name) if name.is_pattern() => {
                covered.iter().map(|name| rule(of, Some(name), None)).collect()
            }
            RulePackets::Interface(name) => vec![rule(of, Some(&name.to_string()), None)],
        });
        each.collect()
    }

    #[test]
    fn new_interface_of_a_pattern_may_settle() {
        let [routing, _] = crate::steering::iptables(&params()).routing;
        let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let (start, mut newcomers) = (crate::clock::now(), Newcomers::default());
        let mut look = |present: &[&str], covered: &[&str], seconds| {
            let now = start + Duration::from_secs(seconds);
            let found = newcomers.look(&routing, &rules(&routing, covered), &named(present), now);
            assert_eq!(found.fixed, 0);
            (found.lost, found.new)
        };
        let none = Vec::new();
        assert_eq!(look(&["ens6", "veth1", "lo"], &["veth1"], 0), (none.clone(), none.clone()));
        assert_eq!(look(&["ens6", "veth1", "veth7"], &["veth1"], 1), (none.clone(), named(&["veth7"])));
        assert_eq!(look(&["ens6", "veth1", "veth7"], &["veth1"], 62), (named(&["veth7"]), none.clone()));
        assert_eq!(look(&["ens6", "veth7"], &["veth7"], 63), (none.clone(), none.clone()));
        // What had its rule has lost it, unless it has been away.
        assert_eq!(look(&["ens6", "veth1", "veth7"], &[], 64), (named(&["veth7"]), named(&["veth1"])));
    }

    #[test]
    fn each_rule_lost_is_counted() {
        let [routing, _] = crate::steering::iptables(&params()).routing;
        let all = rules(&routing, &[]);
        let missing = |rules: &[RoutingRule]| {
            Newcomers::default().look(&routing, rules, &[], crate::clock::now()).fixed
        };
        assert_eq!(missing(&all), 0);
        assert_eq!(missing(&[]), all.len());
        for at in 0..all.len() {
            let mut rules = all.clone();
            rules.remove(at);
            assert_eq!(missing(&rules), 1, "{:?}", all[at]);
            rules.insert(at, RoutingRule { protocol: 2, ..all[at].clone() });
            assert_eq!(missing(&rules), 1, "another program's {:?}", all[at]);
            rules[at] = RoutingRule { rest: "ipproto 6 dport 1 blackhole".to_owned(), ..all[at].clone() };
            assert_eq!(missing(&rules), 1, "for other ports: {:?}", all[at]);
        }
    }
}
