//! Warnings for rules that can never match, or match less than they seem to.

use super::SteeringPorts;
use super::diagnostic::{Diagnostics, SourcePosition};
use super::tenants::{RulePlaces, TenantDraft};
use crate::addr::PortRange;
use crate::egress::PoolSpec;
use crate::hostname::HostPattern;
use crate::policy::{DestinationRule, RuleEffect, RuleSpec, TenantMode};
use hashbrown::HashMap;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Checks the rules of one tenant. `pool` is `None` if the tenant's pool is unknown, which is reported elsewhere.
pub(super) fn check(
    tenant: &TenantDraft,
    pool: Option<&PoolSpec>,
    steered: &SteeringPorts,
    out: &mut Diagnostics,
) {
    let rules = &tenant.spec.rules;
    let enforces = tenant.spec.mode == TenantMode::Enforce;
    if enforces && !rules.iter().any(|rule| rule.effect == RuleEffect::Allow) {
        let message = format!("tenant {:?} has no allow rule: everything is denied", tenant.spec.name);
        out.warning(tenant.name_at, message, "add [[tenant.allow]]");
    }
    if let Some(pool) = pool {
        missing_families(tenant, pool, out);
    }
    let coverage = Coverage::new(rules);
    for (number, (rule, at)) in rules.iter().zip(&tenant.rules_at).enumerate() {
        unsteered_ports(rule, *at, steered, out);
        if let Some(pool) = pool.filter(|_| rule.effect == RuleEffect::Allow) {
            missing_family(rule, *at, pool, out);
        }
        if let Some((count, example)) = coverage.index.duplicates.get(&number) {
            let message = format!("names that are listed twice: {count}, such as {example}");
            out.warning(at.hosts, message, "remove the second ones");
        }
        if let Some((count, name, wildcard)) = coverage.names_under_wildcards(number) {
            let message =
                format!("names that its own wildcards cover: {count}, such as {name} by {wildcard}");
            out.warning(at.hosts, message, "remove the names");
        }
        if let Some(winner) = coverage.winner(number) {
            never_matches(rule, *at, &rules[winner], tenant.rules_at[winner].rule, out);
        }
    }
}

/// Warns of clients of a family that the pool lacks: their connections are refused before the handshake; clients
/// with both families use the other one.
fn missing_families(tenant: &TenantDraft, pool: &PoolSpec, out: &mut Diagnostics) {
    for (family, other, v4) in [("IPv4", "IPv6", true), ("IPv6", "IPv4", false)] {
        let has = |networks: &[IpNet]| networks.iter().any(|network| network.addr().is_ipv4() == v4);
        if has(&tenant.spec.sources) && !has(&pool.addresses) {
            let message = format!(
                "tenant {:?} has {family} clients, and pool {:?} no {family} address: their {family} connections are \
                 refused at once, and those that have {other} too fall back to it",
                tenant.spec.name, pool.name
            );
            let help =
                format!("add an {family} address to the pool, or have DNS give these clients {other} alone");
            out.warning(tenant.name_at, message, help);
        }
    }
}

fn never_matches(
    rule: &RuleSpec,
    at: RulePlaces,
    winner: &RuleSpec,
    winner_at: SourcePosition,
    out: &mut Diagnostics,
) {
    let there = out.show(winner_at);
    let why = match (rule.effect, winner.effect, winner.uninspected) {
        (RuleEffect::Deny, RuleEffect::Allow, _) => "lets the same flows through before a name is known",
        (_, RuleEffect::Deny, _) => "denies whatever it covers",
        (_, RuleEffect::Allow, _) => "allows whatever it covers",
    };
    out.warning(
        at.rule,
        format!("this rule never matches: the rule at {there} {why}"),
        "remove one of the two",
    );
}

fn unsteered_ports(rule: &RuleSpec, at: RulePlaces, steered: &SteeringPorts, out: &mut Diagnostics) {
    let SteeringPorts::Listed(steered) = steered else { return };
    let meets = |range: &PortRange| {
        steered.iter().any(|other| range.first() <= other.last() && other.first() <= range.last())
    };
    let missed: Vec<_> = rule.ports.iter().filter(|range| !meets(range)).map(ToString::to_string).collect();
    if !missed.is_empty() {
        let message = format!("`ports`: flows to {} never come here", missed.join(", "));
        out.warning(at.ports, message, "add them to `ports` of [steering]");
    }
}

fn missing_family(rule: &RuleSpec, at: RulePlaces, pool: &PoolSpec, out: &mut Diagnostics) {
    let lacks = |is_family: fn(&IpNet) -> bool| {
        !rule.cidrs.is_empty() && rule.cidrs.iter().all(is_family) && !pool.addresses.iter().any(is_family)
    };
    let v4 = |network: &IpNet| matches!(network, IpNet::V4(_));
    let v6 = |network: &IpNet| matches!(network, IpNet::V6(_));
    for (family, lacking) in [("IPv4", lacks(v4)), ("IPv6", lacks(v6))] {
        if lacking {
            let message = format!("`cidrs`: pool {:?} has no {family} address to leave from", pool.name);
            out.warning(at.cidrs, message, "add one to `addresses` of the pool");
        }
    }
}

/// Addresses and ports of a rule, expanded: "any" as all of them, adjacent ranges merged.
struct RuleReach {
    networks: Vec<IpNet>,
    /// Sorted, neither overlapping nor adjacent.
    ports: Vec<PortRange>,
}

impl RuleReach {
    fn of(rule: &RuleSpec) -> Self {
        let networks = match &rule.cidrs[..] {
            [] => vec![Ipv4Net::default().into(), Ipv6Net::default().into()],
            cidrs => IpNet::aggregate(&cidrs.to_vec()),
        };
        let all = PortRange::new(1, u16::MAX);
        let ports = if rule.ports.is_empty() { Vec::from_iter(all) } else { PortRange::merged(&rule.ports) };
        Self { networks, ports }
    }

    fn covers(&self, other: &Self) -> bool {
        let port = |inner: &PortRange| {
            self.ports.iter().any(|outer| outer.contains(inner.first()) && outer.contains(inner.last()))
        };
        let network = |inner: &IpNet| self.networks.iter().any(|outer| outer.contains(inner));
        other.ports.iter().all(port) && other.networks.iter().all(network)
    }
}

/// Finds the rules that leave nothing for another to match.
struct Coverage<'a> {
    rules: &'a [RuleSpec],
    /// One per rule.
    reaches: Vec<RuleReach>,
    /// Rules without names, which cover any name.
    nameless: Vec<usize>,
    index: HostIndex<'a>,
}

impl<'a> Coverage<'a> {
    fn new(rules: &'a [RuleSpec]) -> Self {
        Self {
            rules,
            reaches: rules.iter().map(RuleReach::of).collect(),
            nameless: (0..rules.len()).filter(|rule| rules[*rule].hosts.is_empty()).collect(),
            index: HostIndex::new(rules),
        }
    }

    /// Returns a rule that decides every flow that the given one covers; the last, if it takes several.
    fn winner(&self, rule: usize) -> Option<usize> {
        let decides = |other: usize| self.decides_before(other, rule);
        if let Some(winner) = self.nameless.iter().find(|other| decides(**other)) {
            return Some(*winner);
        }
        let mut winner = None;
        for pattern in &self.rules[rule].hosts {
            winner = Some(self.index.covering(pattern, decides)?);
        }
        winner
    }

    /// Number of a rule's names that its own wildcards cover, with one of them and the wildcard.
    fn names_under_wildcards(&self, rule: usize) -> Option<(usize, &'a HostPattern, String)> {
        if !self.rules[rule].hosts.iter().any(|pattern| matches!(pattern, HostPattern::Subdomains(_))) {
            return None;
        }
        let wildcard = |pattern| self.index.wildcard_above(pattern, |other| other == rule);
        let mut covered =
            self.rules[rule].hosts.iter().filter_map(|pattern| Some((pattern, wildcard(pattern)?)));
        let (name, (_, apex)) = covered.next()?;
        Some((1 + covered.count(), name, format!("*.{apex}")))
    }

    /// True if `other`, by addresses and ports, decides every flow of `rule` before it does.
    fn decides_before(&self, other: usize, rule: usize) -> bool {
        if other == rule || !self.reaches[other].covers(&self.reaches[rule]) {
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
                let any_address =
                    |rule: &RuleSpec| !rule.cidrs.is_empty() || rule.destination == DestinationRule::Resolve;
                let by_address = any_address(winner) || !any_address(loser);
                let no_later = other < rule || (winner.uninspected && !loser.uninspected);
                by_address && no_later && (winner.uninspected || !loser.uninspected)
            }
        }
    }
}

/// Index from host patterns to the rules of a tenant that contain them.
struct HostIndex<'a> {
    /// Maps a name, and true if its subdomains are meant, to the last of its links.
    heads: HashMap<(&'a str, bool), usize>,
    /// A rule, and the previous link.
    links: Vec<(usize, Option<usize>)>,
    /// By rule: number of its duplicate names, and one of them.
    duplicates: HashMap<usize, (usize, &'a HostPattern)>,
}

impl<'a> HostIndex<'a> {
    fn new(rules: &'a [RuleSpec]) -> Self {
        let total = rules.iter().map(|rule| rule.hosts.len()).sum();
        let mut index = Self {
            heads: HashMap::with_capacity(total),
            links: Vec::with_capacity(total),
            duplicates: HashMap::new(),
        };
        for (number, rule) in rules.iter().enumerate() {
            for pattern in &rule.hosts {
                index.add(number, pattern);
            }
        }
        index
    }

    fn add(&mut self, rule: usize, pattern: &'a HostPattern) {
        let link = self.links.len();
        let before = self.heads.insert(key(pattern), link);
        if before.is_some_and(|before| self.links[before].0 == rule) {
            self.duplicates.entry(rule).or_insert((0, pattern)).0 += 1;
        }
        self.links.push((rule, before));
    }

    /// Returns an accepted rule with a pattern that covers the whole given one.
    fn covering(&self, pattern: &HostPattern, accepts: impl Fn(usize) -> bool) -> Option<usize> {
        self.rule_with(key(pattern), &accepts).or_else(|| Some(self.wildcard_above(pattern, accepts)?.0))
    }

    /// Returns an accepted rule with a wildcard over the pattern, and the domain below which that covers every name.
    fn wildcard_above<'p>(
        &self,
        pattern: &'p HostPattern,
        accepts: impl Fn(usize) -> bool,
    ) -> Option<(usize, &'p str)> {
        let (HostPattern::Exact(name) | HostPattern::Subdomains(name)) = pattern;
        name.parents().find_map(|parent| Some((self.rule_with((parent, true), &accepts)?, parent)))
    }

    /// Returns the last accepted rule with exactly this pattern.
    fn rule_with(&self, key: (&str, bool), accepts: &impl Fn(usize) -> bool) -> Option<usize> {
        let mut link = self.heads.get(&key).copied();
        while let Some(at) = link {
            let (rule, before) = self.links[at];
            if accepts(rule) {
                return Some(rule);
            }
            link = before;
        }
        None
    }
}

fn key(pattern: &HostPattern) -> (&str, bool) {
    match pattern {
        HostPattern::Exact(name) => (name.as_str(), false),
        HostPattern::Subdomains(apex) => (apex.as_str(), true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
            let coverage = Coverage::new(&rules);
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
}
