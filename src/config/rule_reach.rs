//! Addresses and ports of rules, in a form that is quick to compare.

use super::SteeringPorts;
use super::comparisons::Comparisons;
use crate::addr::PortRange;
use crate::policy::RuleSpec;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Addresses and ports of a rule, expanded: "any" as all of them, adjacent ranges merged.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct RuleReach {
    /// Ascending and disjoint; at least one.
    pub(super) networks: Vec<IpNet>,
    /// Ascending, neither overlapping nor adjacent.
    pub(super) ports: Vec<PortRange>,
}

impl RuleReach {
    pub(super) fn of(rule: &RuleSpec) -> Self {
        let mut networks = match &rule.cidrs[..] {
            [] => vec![Ipv4Net::default().into(), Ipv6Net::default().into()],
            cidrs => IpNet::aggregate(&cidrs.to_vec()),
        };
        networks.sort_unstable();
        let ports = if rule.ports.is_empty() { every_port() } else { PortRange::merged(&rule.ports) };
        Self { networks, ports }
    }

    /// The same on these ports alone, of which it may have none.
    pub(super) fn on_ports(mut self, ports: &[PortRange]) -> Self {
        self.ports = common_ports(&self.ports, ports);
        self
    }

    /// True if it holds every address and port of the other; false also if no comparison is left.
    pub(super) fn covers(&self, other: &Self, comparisons: &Comparisons) -> bool {
        let port = |inner: &PortRange| {
            let at = self.ports.partition_point(|outer| outer.last() < inner.last());
            comparisons.take() && self.ports.get(at).is_some_and(|outer| outer.contains(inner.first()))
        };
        let network = |inner: &IpNet| comparisons.take() && lies_in(inner, &self.networks);
        other.ports.iter().all(port) && other.networks.iter().all(network)
    }

    /// True if they have an address in common; false also if no comparison is left.
    pub(super) fn meets(&self, other: &Self, comparisons: &Comparisons) -> bool {
        let within = |inner: &Self, outer: &Self| {
            inner.networks.iter().any(|network| comparisons.take() && lies_in(network, &outer.networks))
        };
        within(self, other) || within(other, self)
    }
}

/// True if one of ascending, disjoint networks contains the given one.
fn lies_in(inner: &IpNet, networks: &[IpNet]) -> bool {
    let after = networks.partition_point(|outer| outer.network() <= inner.network());
    after.checked_sub(1).and_then(|at| networks.get(at)).is_some_and(|outer| outer.contains(inner))
}

/// The steered ports, ascending and disjoint.
pub(super) fn steered_ports(steered: &SteeringPorts) -> Vec<PortRange> {
    match steered {
        SteeringPorts::All => every_port(),
        SteeringPorts::Listed(ranges) => PortRange::merged(ranges),
    }
}

/// The ports that two ascending lists of disjoint ranges have in common, as another such list.
pub(super) fn common_ports(one: &[PortRange], other: &[PortRange]) -> Vec<PortRange> {
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    let mut common = Vec::new();
    while let (Some(a), Some(b)) = (one.peek(), other.peek()) {
        common.extend(PortRange::new(a.first().max(b.first()), a.last().min(b.last())));
        if a.last() <= b.last() {
            one.next()
        } else {
            other.next()
        };
    }
    common
}

fn every_port() -> Vec<PortRange> {
    Vec::from_iter(PortRange::new(1, u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(list: &[(u16, u16)]) -> Vec<PortRange> {
        list.iter().map(|(first, last)| PortRange::new(*first, *last).unwrap()).collect()
    }

    #[test]
    fn ports_in_common_are_found() {
        for (one, other, common) in [
            (&[(80, 80), (443, 500)][..], &[(1, 443)][..], &[(80, 80), (443, 443)][..]),
            (&[(1, 10), (20, 30)], &[(5, 25), (30, 40)], &[(5, 10), (20, 25), (30, 30)]),
            (&[(1, 10)], &[(11, 20)], &[]),
            (&[], &[(11, 20)], &[]),
        ] {
            assert_eq!(common_ports(&ranges(one), &ranges(other)), ranges(common));
            assert_eq!(common_ports(&ranges(other), &ranges(one)), ranges(common));
        }
    }
}
