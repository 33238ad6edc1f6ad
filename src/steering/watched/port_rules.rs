//! The rules that keep intercepted ports from being routed on, for each interface that is there.

use crate::interface::Interface;
use crate::steering::Routing;
use crate::sys::routing::RoutingRule;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// The protocol number that Egret's own rules have (prelude.sh).
pub(super) const PROTOCOL: u8 = 230;
/// After this time, rules that a new interface does not have are missing: repairs come within seconds.
const SETTLING: Duration = Duration::from_secs(60);

/// The interfaces that patterns cover, by whether they have had their rules since they appeared.
#[derive(Debug, Default)]
pub(super) struct Newcomers {
    /// Interfaces that have had them.
    settled: BTreeSet<String>,
    /// Interfaces that have not, since when.
    since: BTreeMap<String, Instant>,
}

/// Interfaces without some of their rules.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Unguarded {
    /// Those that lost them or never got them, with the numbers of rules that are there and that should be.
    pub(super) lost: Vec<(String, usize, usize)>,
    /// Those that have just appeared. Packet rules intercept there already.
    pub(super) new: Vec<String>,
}

impl Newcomers {
    /// Finds the interfaces without some of their rules, and remembers those that are new.
    pub(super) fn look(
        &mut self,
        routing: &Routing,
        rules: &[RoutingRule],
        present: &[String],
        now: Instant,
    ) -> Unguarded {
        self.settled.retain(|name| present.contains(name));
        self.since.retain(|name, _| present.contains(name));
        let mut found = Unguarded::default();
        for (interface, wanted) in wanted(routing) {
            for name in present.iter().filter(|name| interface.covers(name)) {
                let ours =
                    |rule: &&RoutingRule| rule.protocol == PROTOCOL && rule.interface.as_ref() == Some(name);
                let there = rules.iter().filter(ours).count();
                if there >= wanted {
                    self.settled.insert(name.clone());
                    self.since.remove(name);
                } else if interface.is_pattern() && self.is_new(name, now) {
                    found.new.push(name.clone());
                } else {
                    found.lost.push((name.clone(), there, wanted));
                }
            }
        }
        found
    }

    fn is_new(&mut self, name: &str, now: Instant) -> bool {
        if self.settled.contains(name) {
            return false;
        }
        let since = *self.since.entry(name.to_owned()).or_insert(now);
        now.saturating_duration_since(since) < SETTLING
    }
}

/// Number of rules for each interface, or pattern of them.
fn wanted(routing: &Routing) -> BTreeMap<&Interface, usize> {
    let mut counts = BTreeMap::new();
    for (interface, _) in &routing.refused {
        *counts.entry(interface).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steering::tests::params;

    fn rules(names: &[&str]) -> Vec<RoutingRule> {
        let rule = |name: &&str| RoutingRule {
            interface: Some((*name).to_owned()),
            protocol: PROTOCOL,
            priority: 101,
            ..RoutingRule::default()
        };
        // As many as the plan has for each interface: three ranges of ports by TCP and UDP.
        names.iter().flat_map(|name| std::iter::repeat_n(rule(name), 6)).collect()
    }

    #[test]
    fn new_interface_of_a_pattern_may_settle() {
        let [routing, _] = crate::steering::iptables(&params()).routing;
        let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let (start, mut newcomers) = (crate::clock::now(), Newcomers::default());
        let mut look = |present: &[&str], guarded: &[&str], seconds| {
            let now = start + Duration::from_secs(seconds);
            let found = newcomers.look(&routing, &rules(guarded), &named(present), now);
            (found.lost.into_iter().map(|(name, ..)| name).collect::<Vec<_>>(), found.new)
        };
        let none = Vec::new();
        assert_eq!(look(&["ens6", "veth1", "lo"], &["ens6", "veth1"], 0), (none.clone(), none.clone()));
        assert_eq!(
            look(&["ens6", "veth1", "veth7"], &["ens6", "veth1"], 1),
            (none.clone(), named(&["veth7"]))
        );
        assert_eq!(
            look(&["ens6", "veth1", "veth7"], &["ens6", "veth1"], 62),
            (named(&["veth7"]), none.clone())
        );
        assert_eq!(look(&["ens6", "veth7"], &["ens6", "veth7"], 63), (none.clone(), none.clone()));
        // What had its rules has lost them, unless it has been away; a name that is configured is never new.
        assert_eq!(
            look(&["ens6", "veth1", "veth7"], &[], 64),
            (named(&["ens6", "veth7"]), named(&["veth1"]))
        );
    }
}
