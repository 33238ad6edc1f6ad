//! Which addresses and ports of a tenant's rules cover which.

use super::super::comparisons::Comparisons;
use super::super::rule_reach::RuleReach;
use crate::policy::{NetworkMap, RuleSpec};
use hashbrown::HashMap;
use ipnet::{IpNet, Ipv4Subnets};
use std::net::{IpAddr, Ipv4Addr};

/// The distinct reaches of a tenant's rules, by number, and which of them cover which. Most rules share one with others.
pub(super) struct ReachTable {
    of_rules: Vec<usize>,
    covering: Vec<Vec<usize>>,
}

impl ReachTable {
    pub(super) fn new(rules: &[RuleSpec], comparisons: &Comparisons) -> Self {
        let (mut reaches, mut numbers) = (Vec::new(), HashMap::new());
        let mut number = |rule: &RuleSpec| {
            *numbers.entry(RuleReach::of(rule)).or_insert_with_key(|reach: &RuleReach| {
                reaches.push(reach.clone());
                reaches.len() - 1
            })
        };
        let of_rules = rules.iter().map(&mut number).collect();
        let index = ReachIndex::new(&reaches);
        let covering = reaches.iter().map(|reach| {
            let covers = |other: &usize| reaches[*other].covers(reach, comparisons);
            let candidates = index.candidates(reach).take_while(|_| !comparisons.were_too_few());
            let mut covering: Vec<_> = candidates.filter(covers).collect();
            covering.sort_unstable();
            covering
        });
        Self { of_rules, covering: covering.collect() }
    }

    /// The number of a rule's reach.
    pub(super) fn of_rule(&self, rule: usize) -> usize {
        self.of_rules[rule]
    }

    /// The reaches that cover a rule's, its own among them; ascending.
    pub(super) fn covering(&self, rule: usize) -> &[usize] {
        &self.covering[self.of_rules[rule]]
    }
}

/// Reaches by each of their networks, and by each of their ports.
#[derive(Default)]
struct ReachIndex {
    by_network: NetworkMap<Vec<usize>>,
    /// Ports as the IPv4 addresses of the same number, so that ranges of them are networks.
    by_port: NetworkMap<Vec<usize>>,
}

impl ReachIndex {
    fn new(reaches: &[RuleReach]) -> Self {
        let mut index = Self::default();
        for (number, reach) in reaches.iter().enumerate() {
            for network in &reach.networks {
                index.by_network.or_insert(*network, Vec::new()).push(number);
            }
            for range in &reach.ports {
                let [first, last] = [range.first(), range.last()].map(|port| Ipv4Addr::from(u32::from(port)));
                for network in Ipv4Subnets::new(first, last, 0) {
                    index.by_port.or_insert(IpNet::V4(network), Vec::new()).push(number);
                }
            }
        }
        index
    }

    /// Reaches with the first address of this one, or those with its first port: whichever are fewer. All that cover it are
    /// among them.
    fn candidates(&self, reach: &RuleReach) -> impl Iterator<Item = usize> {
        let port = reach.ports.first().map(|range| Ipv4Addr::from(u32::from(range.first())).into());
        let by_network = lists_at(&self.by_network, reach.networks.first().map(IpNet::network));
        let by_port = lists_at(&self.by_port, port);
        let count = |lists: &[&Vec<usize>]| lists.iter().map(|list| list.len()).sum::<usize>();
        let fewer = if count(&by_network) <= count(&by_port) { by_network } else { by_port };
        fewer.into_iter().flatten().copied()
    }
}

fn lists_at(map: &NetworkMap<Vec<usize>>, address: Option<IpAddr>) -> Vec<&Vec<usize>> {
    let mut lists = Vec::new();
    if let Some(address) = address {
        map.each_covering(address, |list| lists.push(list));
    }
    lists
}
