//! One tenant's rules, compiled: the decision costs a few look-ups, however many names there are.

mod explain;

pub use explain::{Explanation, MatchFinding, RuleFinding};

use super::decision::{Denial, Permit};
use super::names::{CountOverflow, NameIndex, RuleChain, RuleChains};
use super::networks::{ANYWHERE, NetworkMap};
use super::reach::{AddressOwner, NameReach};
use super::{
    CertificateRule, CompileError, DestinationRule, EchPolicy, RuleEffect, RuleSpec, TenantMode, TenantSpec,
};
use crate::addr::{OriginalDestination, PortRange};
use crate::hostname::AskedName;
use crate::outcome::Outcome;
use hashbrown::HashMap;
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;

/// A tenant, and its compiled rules.
#[derive(Debug)]
pub struct TenantRules {
    /// Unique; a metric label.
    pub name: Arc<str>,
    /// Index in [`Policy::tenants`](super::Policy::tenants).
    pub index: usize,
    /// Name of the pool that its flows leave from.
    pub pool: Arc<str>,
    /// Enforce or monitor mode. Rules are evaluated without it: it only applies to a denial.
    pub mode: TenantMode,
    rules: RankedRules,
}

/// Rules by rank: all deny rules, then all allow rules, each in the order of the file. So the lowest rank among the
/// rules that cover a flow is the one that decides.
#[derive(Debug)]
struct RankedRules {
    ech: EchPolicy,
    ranked: Box<[CompiledRule]>,
    /// Ranks below are deny rules; `denies <= ranked.len()`.
    denies: u32,
    reach: Arc<NameReach>,
    chains: RuleChains,
    /// The rules with hosts.
    by_name: NameIndex,
    /// The rules without hosts; `None` if there are none.
    by_address: Option<NetworkMap<RuleChain>>,
    /// Networks and ports of rules with hosts, by effect; each once.
    named_allow: Box<[Arc<RuleScope>]>,
    named_deny: Box<[Arc<RuleScope>]>,
}

#[derive(Debug)]
struct CompiledRule {
    label: Arc<str>,
    place: Arc<RuleScope>,
    inspects: RequiredInspection,
    destination: DestinationRule,
    certificate: CertificateRule,
    first_request_only: bool,
    /// True if it has hosts.
    named: bool,
    /// Position in the file.
    order: u32,
}

/// Inspection that a rule needs before it lets a client out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequiredInspection {
    /// None.
    Nothing,
    /// To tell TLS or HTTP that a deny rule names; other protocols pass.
    Names,
    /// The same; other protocols pass where no deny rule matches by name.
    Protocols,
}

impl RequiredInspection {
    fn of(rule: &RuleSpec) -> Self {
        match (rule.uninspected, rule.other_protocols) {
            (true, _) => Self::Nothing,
            (false, true) => Self::Names,
            (false, false) => Self::Protocols,
        }
    }
}

impl CompiledRule {
    /// True if it has hosts and no networks, so that only the name vouches for the address.
    fn matches_by_name_alone(&self) -> bool {
        self.named && self.place.networks.is_none()
    }

    /// True if it also dials the address that the client dialled.
    fn trusts_client_address(&self) -> bool {
        self.matches_by_name_alone() && self.destination != DestinationRule::Resolve
    }
}

/// A rule's networks and ports, shared by all rules of all tenants that have the same.
#[derive(Debug)]
pub(super) struct RuleScope {
    /// `None`: any.
    networks: Option<NetworkMap<()>>,
    /// Ascending and disjoint. Empty: any.
    ports: Box<[PortRange]>,
}

impl TenantRules {
    pub(super) fn compile<'s>(
        spec: &'s TenantSpec,
        index: usize,
        reach: &Arc<NameReach>,
        places: &mut RuleScopes<'s>,
    ) -> Result<Self, CompileError> {
        let rules = RankedRules::compile(spec, reach, places)
            .map_err(|CountOverflow| CompileError::TooLarge { tenant: spec.name.clone() })?;
        let TenantSpec { name, pool, mode, .. } = spec;
        let (name, pool) = (name.clone(), pool.clone());
        Ok(Self { name, index, pool, mode: *mode, rules })
    }

    /// Permits a flow without inspection. `Some` only if an uninspected allow rule covers the destination and no deny
    /// rule without hosts does. Deny rules with hosts do not stop it, because no name will ever be read: that is the
    /// meaning of `inspect = "none"`.
    ///
    /// Called first for every flow; `None` means that [`decide`](Self::decide) has to be called with a name.
    pub(super) fn decide_unseen(&self, to: OriginalDestination) -> Option<Permit> {
        let RankedRules { ranked, denies, .. } = &self.rules;
        let mut first = u32::MAX;
        self.rules.each_by_address(to.ip(), |rank| {
            let counts = rank < *denies || ranked[rank as usize].inspects == RequiredInspection::Nothing;
            if counts && rank < first && ranked[rank as usize].place.covers(to) {
                first = rank;
            }
        });
        (first != u32::MAX && first >= *denies).then(|| self.rules.permit(first, to))
    }

    /// Decides on a flow, by the name that the client asked for and whether it offered an encrypted ClientHello:
    ///
    /// - An encrypted ClientHello where the tenant's [`EchPolicy`] is to deny: `EchDenied`.
    /// - A deny rule covers it: `DeniedByRule`.
    /// - An invalid hostname, where a deny rule with hosts covers address and port: `InvalidHostname`, because the rule
    ///   might be meant for it. An absent name is not invalid: it is not denied by name.
    /// - An allow rule covers it: permitted. Without hosts, a rule covers any name.
    /// - A protocol in which no name is read, where a deny rule with hosts covers address and port, or the tenant's
    ///   [`EchPolicy`] is to deny: only a rule that allows other protocols covers it, as it may be TLS or HTTP to its
    ///   server. If only another would: `UnknownProtocol`.
    /// - An allow rule with hosts and without networks covers public addresses that are not the operator's own; private
    ///   ones too under [`PrivateDestinations::Allow`](super::PrivateDestinations::Allow); loopback, link-local,
    ///   metadata, multicast and the like never. If only such a rule would cover the flow: `DestinationPrivate`.
    /// - Nothing covers it: `InvalidHostname` if the name is invalid; `NoHostname` if there is none and a name could
    ///   have let it out to this address and port; else `NotAllowed`.
    pub(super) fn decide(
        &self,
        asked: &AskedName,
        ech: bool,
        to: OriginalDestination,
    ) -> Result<Permit, Denial> {
        if ech && self.rules.ech == EchPolicy::Deny {
            return Err(Denial { outcome: Outcome::EchDenied, rule: None });
        }
        let rules = &self.rules;
        let MatchedRules { first, private, unread, .. } = rules.find(asked, to);
        let deny = |outcome, rank: Option<u32>| {
            let rule = rank.map(|rank| rules.ranked[rank as usize].label.clone());
            Err(Denial { outcome, rule })
        };
        let invalid = matches!(asked, AskedName::Invalid(_));
        match first {
            Some(rank) if rank < rules.denies => deny(Outcome::DeniedByRule, first),
            _ if invalid && any_covers(&rules.named_deny, to) => deny(Outcome::InvalidHostname, None),
            Some(rank) => Ok(rules.permit(rank, to)),
            None if unread.is_some() => deny(Outcome::UnknownProtocol, unread),
            None if private.is_some() => deny(Outcome::DestinationPrivate, private),
            None if invalid => deny(Outcome::InvalidHostname, None),
            None if matches!(asked, AskedName::Absent | AskedName::Unread)
                && any_covers(&rules.named_allow, to) =>
            {
                deny(Outcome::NoHostname, None)
            }
            None => deny(Outcome::NotAllowed, None),
        }
    }
}

impl TenantRules {
    /// Owner of a public address, which rules by name then do not lead to; `None` if it is not known to be the
    /// operator's.
    pub fn owner_of(&self, ip: IpAddr) -> Option<AddressOwner> {
        self.rules.reach.owner(ip)
    }

    /// Returns the same permit for a resolved address; or the reason why there is none: a deny rule covers the address,
    /// the rule's networks do not contain it, or it is not public and the rule matches by name alone.
    pub(super) fn redirect(
        &self,
        permit: &Permit,
        name: &AskedName,
        to: OriginalDestination,
    ) -> Result<Permit, Outcome> {
        let rules = &self.rules;
        // A permit of another policy does not count here.
        let own = |rule: &&CompiledRule| permit.rule().is_some_and(|label| Arc::ptr_eq(label, &rule.label));
        let Some(rule) = rules.ranked.get(permit.rank as usize).filter(own) else {
            return Err(Outcome::NotAllowed);
        };
        if rules.find(name, to).first.is_some_and(|rank| rank < rules.denies) {
            return Err(Outcome::DeniedByRule);
        }
        if !rule.place.covers(to) {
            return Err(Outcome::NotAllowed);
        }
        if rule.matches_by_name_alone() && !rules.reach.by_name(to.ip()) {
            return Err(Outcome::DestinationPrivate);
        }
        Ok(rules.permit(permit.rank, to))
    }
}

/// Lowest-ranked rules that cover a flow.
#[derive(Default)]
struct MatchedRules {
    /// Covers it.
    first: Option<u32>,
    /// Would cover it if its address were not private.
    private: Option<u32>,
    /// Would cover it if its protocol were not unknown.
    unread: Option<u32>,
    /// True if its protocol is unknown, and a deny rule or [`EchPolicy::Deny`] could be meant for it.
    needs_name: bool,
}

fn keep_least(least: &mut Option<u32>, rank: u32) {
    *least = Some(least.map_or(rank, |least| least.min(rank)));
}

impl RankedRules {
    fn compile<'s>(
        tenant: &'s TenantSpec,
        reach: &Arc<NameReach>,
        places: &mut RuleScopes<'s>,
    ) -> Result<Self, CountOverflow> {
        let specs = &tenant.rules;
        let of = |effect| specs.iter().filter(move |rule| rule.effect == effect);
        let denies = u32::try_from(of(RuleEffect::Deny).count()).map_err(|_| CountOverflow)?;
        let mut ranked = Vec::with_capacity(specs.len());
        let mut named = [Vec::new(), Vec::new()];
        let in_order = || (0..).zip(specs);
        let denies_first = in_order()
            .filter(|(_, rule)| rule.effect == RuleEffect::Deny)
            .chain(in_order().filter(|(_, rule)| rule.effect == RuleEffect::Allow));
        for (order, rule) in denies_first {
            let place = places.of(rule);
            if !rule.hosts.is_empty() {
                named[usize::from(rule.effect == RuleEffect::Deny)].push(Arc::clone(&place));
            }
            let RuleSpec { destination, certificate, first_request_only, .. } = *rule;
            let inspects = RequiredInspection::of(rule);
            let (label, named) = (rule.label.clone(), !rule.hosts.is_empty());
            ranked.push(CompiledRule {
                label,
                place,
                inspects,
                destination,
                certificate,
                first_request_only,
                named,
                order,
            });
        }
        let mut chains = RuleChains::default();
        let mut by_name = NameIndex::with_capacity(specs.iter().map(|rule| rule.hosts.len()).sum());
        let mut by_address: Option<NetworkMap<RuleChain>> = None;
        let last_first = of(RuleEffect::Allow).rev().chain(of(RuleEffect::Deny).rev());
        for (rule, rank) in last_first.zip((0..u32::try_from(specs.len()).map_err(|_| CountOverflow)?).rev())
        {
            for pattern in &rule.hosts {
                by_name.insert(pattern, rank, &mut chains)?;
            }
            if rule.hosts.is_empty() {
                let networks = if rule.cidrs.is_empty() { &ANYWHERE[..] } else { &rule.cidrs };
                let by_address = by_address.get_or_insert_default();
                for &network in networks {
                    chains.prepend(by_address.or_insert(network, RuleChain::EMPTY), rank)?;
                }
            }
        }
        by_name.shrink();
        chains.shrink();
        let [named_allow, named_deny] = named.map(|mut places| {
            places.sort_unstable_by_key(Arc::as_ptr);
            places.dedup_by(|a, b| Arc::ptr_eq(a, b));
            places.into_boxed_slice()
        });
        let ranked = ranked.into();
        let reach = Arc::clone(reach);
        let ech = tenant.ech;
        Ok(Self { ech, ranked, denies, reach, chains, by_name, by_address, named_allow, named_deny })
    }

    fn find(&self, asked: &AskedName, to: OriginalDestination) -> MatchedRules {
        let mut found = MatchedRules { needs_name: self.needs_name(asked, to), ..MatchedRules::default() };
        self.each_by_address(to.ip(), |rank| self.consider(rank, to, &mut found));
        if let AskedName::Valid(name) = asked {
            self.by_name.each_covering(name, |chain| {
                self.chains.iter(chain).for_each(|rank| self.consider(rank, to, &mut found));
            });
        }
        found
    }

    /// True if a deny rule needs a name that cannot be read, or the tenant denies encrypted hellos and this may be one.
    fn needs_name(&self, asked: &AskedName, to: OriginalDestination) -> bool {
        *asked == AskedName::Unread && (self.ech == EchPolicy::Deny || any_covers(&self.named_deny, to))
    }

    /// Considers a rule that covers the flow except perhaps for its address and port.
    fn consider(&self, rank: u32, to: OriginalDestination, found: &mut MatchedRules) {
        let rule = &self.ranked[rank as usize];
        if found.first.is_some_and(|first| first <= rank) || !rule.place.covers(to) {
            return;
        }
        if rank >= self.denies && found.needs_name && rule.inspects == RequiredInspection::Protocols {
            keep_least(&mut found.unread, rank);
        } else if rank >= self.denies && rule.trusts_client_address() && !self.reach.by_name(to.ip()) {
            keep_least(&mut found.private, rank);
        } else {
            keep_least(&mut found.first, rank);
        }
    }

    fn each_by_address(&self, address: IpAddr, mut each: impl FnMut(u32)) {
        if let Some(by_address) = &self.by_address {
            by_address.each_covering(address, |&chain| self.chains.iter(chain).for_each(&mut each));
        }
    }

    fn permit(&self, rank: u32, to: OriginalDestination) -> Permit {
        let rule = &self.ranked[rank as usize];
        // Where no rule matches by name, every later request would be permitted too.
        let by_name = || rule.named || any_covers(&self.named_deny, to);
        let every_request =
            rule.inspects != RequiredInspection::Nothing && !rule.first_request_only && by_name();
        Permit::new(&rule.label, rank, (rule.destination, rule.certificate), every_request, to)
    }
}

fn any_covers(places: &[Arc<RuleScope>], to: OriginalDestination) -> bool {
    places.iter().any(|place| place.covers(to))
}

/// Collects each distinct place once: the rules on port 443 of all tenants share one, which stays in the caches.
#[derive(Default)]
pub(super) struct RuleScopes<'s>(HashMap<(&'s [IpNet], &'s [PortRange]), Arc<RuleScope>>);

impl<'s> RuleScopes<'s> {
    fn of(&mut self, rule: &'s RuleSpec) -> Arc<RuleScope> {
        let key = (rule.cidrs.as_slice(), rule.ports.as_slice());
        let new = || Arc::new(RuleScope::new(&rule.cidrs, &rule.ports));
        Arc::clone(self.0.entry(key).or_insert_with(new))
    }
}

impl RuleScope {
    fn new(cidrs: &[IpNet], ports: &[PortRange]) -> Self {
        let networks = (!cidrs.is_empty()).then(|| {
            let mut networks = NetworkMap::default();
            for &network in cidrs {
                networks.insert(network, ());
            }
            networks
        });
        Self { networks, ports: PortRange::merged(ports).into() }
    }

    fn covers(&self, to: OriginalDestination) -> bool {
        self.has_port(to.port()) && self.has_address(to.ip())
    }

    fn has_port(&self, port: u16) -> bool {
        let at = self.ports.partition_point(|range| range.last() < port);
        self.ports.is_empty() || self.ports.get(at).is_some_and(|range| range.contains(port))
    }

    fn has_address(&self, address: IpAddr) -> bool {
        self.networks.as_ref().is_none_or(|networks| networks.longest(address).is_some())
    }
}
