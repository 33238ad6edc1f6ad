//! Derives rules from observed flows, and tests them on a copy of the policy.

use super::by_address::{AddressRule, NamelessTargets};
use super::seen::{LogEvidence, SeenTarget, Tallies, TargetTally, TenantLog};
use super::trial::{compile, deny_reasons, permitted};
use super::unsuggested::UnsuggestedTarget;
use crate::addr::PortRange;
use crate::hostname::{HostPattern, Hostname};
use crate::outcome::Outcome;
use crate::policy::{CompileError, PrivateNetworks, RuleEffect, RuleSpec, TenantRules, TenantSpec};
use jiff::Timestamp;
use psl::{List, Psl as _};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

/// Least number of names below one parent for offering a wildcard.
const ENOUGH_FOR_A_WILDCARD: usize = 5;
/// Most examples of denied names that a wildcard would allow.
const EXAMPLES: usize = 5;
/// Most denied names that are looked at for one wildcard: there may be as many of either as names.
const LOOKED_AT: usize = 1000;

/// Suggested rules for a tenant, with evidence. Field names are the JSON keys.
#[derive(Debug, Serialize)]
pub(super) struct Proposal {
    pub(super) tenant: Arc<str>,
    pub(super) evidence: LogEvidence,
    /// Names with ports that the policy already allows, and that are left out.
    pub(super) allowed_already: usize,
    pub(super) rules: Vec<SuggestedRule>,
    /// Names that passed, but that a rule by name would not reach, because their address is private.
    pub(super) private: Vec<UnsuggestedTarget>,
    /// Targets that passed, and that a deny rule denies now.
    pub(super) denied_now: Vec<UnsuggestedTarget>,
    /// Targets that passed, but that no server answered.
    pub(super) unanswered: Vec<UnsuggestedTarget>,
    /// Flows without a name.
    pub(super) by_address: Vec<AddressRule>,
    /// Targets without a name that passed in monitor mode, and that no rule by address lets out.
    pub(super) beyond_rules: Vec<UnsuggestedTarget>,
    /// Denied targets, the most frequent first.
    pub(super) denied: Vec<UnsuggestedTarget>,
}

/// One allow rule: names of one registrable domain on the same ports.
#[derive(Debug, Serialize)]
pub(super) struct SuggestedRule {
    pub(super) domain: String,
    pub(super) ports: Vec<u16>,
    pub(super) flows: u64,
    pub(super) last: Timestamp,
    pub(super) hosts: Vec<SuggestedHost>,
    pub(super) wildcards: Vec<Wildcard>,
}

#[derive(Debug, Serialize)]
pub(super) struct SuggestedHost {
    pub(super) name: Hostname,
    pub(super) flows: u64,
    /// Flows that passed only in monitor mode.
    pub(super) would_deny: u64,
    pub(super) last: Timestamp,
}

/// A wildcard that could replace several names of a rule, and allows more than those.
#[derive(Debug, Serialize)]
pub(super) struct Wildcard {
    pub(super) pattern: String,
    /// Number of the rule's names that it covers.
    pub(super) covers: usize,
    /// Number of denied names on the rule's ports that it would allow; where there are more than [`LOOKED_AT`], at least so many.
    pub(super) opens_denied: usize,
    pub(super) opens_for_example: Vec<Hostname>,
}

impl Proposal {
    /// With `all`, includes targets that the policy already allows.
    pub(super) fn new(
        spec: &TenantSpec,
        private: &PrivateNetworks,
        seen: TenantLog,
        all: bool,
    ) -> Result<Self, CompileError> {
        let TenantLog { evidence, passed, denied, .. } = seen;
        let today = compile(spec.clone(), private)?;
        let passed: BTreeMap<_, _> = passed.into_iter().collect();
        let (mut names, mut addresses, mut unanswered) = (BTreeMap::new(), Vec::new(), Vec::new());
        let mut allowed_already = 0;
        for ((what, port), tally) in passed {
            if permitted(&today, &what, &tally) && !all {
                allowed_already += 1;
                continue;
            }
            match what {
                _ if tally.answered == 0 => unanswered.push(UnsuggestedTarget::new(what, port, &tally)),
                SeenTarget::Name(name) => _ = names.insert((name, port), tally),
                SeenTarget::Address(address) => addresses.push((address, port, tally)),
            }
        }
        // Tests each name with a rule of its own, to find those that a rule allows at all.
        let trial = compile(with_rules(spec, &grouped(&names)), private)?;
        let (mut out_of_reach, mut denied_now) = (Vec::new(), Vec::new());
        names.retain(|(name, port), tally| {
            let what = SeenTarget::Name(name.clone());
            let reason = deny_reasons(&trial, &what, tally).next();
            match reason {
                None => return true,
                Some(Outcome::DestinationPrivate) => {
                    out_of_reach.push(UnsuggestedTarget::new(what, *port, tally));
                }
                Some(_) => denied_now.push(UnsuggestedTarget::new(what, *port, tally)),
            }
            false
        });
        let mut rules = grouped(&names);
        let around = Surroundings::new(&names, &denied);
        for rule in &mut rules {
            rule.wildcards = around.wildcards(rule);
        }
        let trial = compile(with_rules(spec, &rules), private)?;
        let nameless = NamelessTargets::new(addresses, spec, private)?;
        denied_now.extend(nameless.denied_now);
        Ok(Self {
            tenant: spec.name.clone(),
            evidence,
            allowed_already,
            rules,
            private: out_of_reach,
            denied_now,
            unanswered,
            by_address: nameless.rules,
            beyond_rules: nameless.beyond_rules,
            denied: still_denied(&trial, denied),
        })
    }
}

/// Returns the tenant with the rules added.
fn with_rules(spec: &TenantSpec, rules: &[SuggestedRule]) -> TenantSpec {
    let mut spec = spec.clone();
    spec.rules.extend(rules.iter().map(|rule| RuleSpec {
        hosts: rule.hosts.iter().map(|host| HostPattern::Exact(host.name.clone())).collect(),
        ports: rule.ports.iter().filter_map(|&port| PortRange::new(port, port)).collect(),
        ..RuleSpec::new("suggested", RuleEffect::Allow)
    }));
    spec
}

/// Registrable domain of a name; the name itself if it has none.
fn domain_of(name: &Hostname) -> &str {
    let domain = List.domain(name.as_str().as_bytes());
    domain.and_then(|domain| std::str::from_utf8(domain.as_bytes()).ok()).unwrap_or(name.as_str())
}

/// Groups names of one domain and the same ports into rules, sorted by domain.
fn grouped(names: &BTreeMap<(Hostname, u16), TargetTally>) -> Vec<SuggestedRule> {
    let mut hosts: BTreeMap<&Hostname, (Vec<u16>, SuggestedHost)> = BTreeMap::new();
    for ((name, port), tally) in names {
        let new = || SuggestedHost { name: name.clone(), flows: 0, would_deny: 0, last: tally.last };
        let (ports, host) = hosts.entry(name).or_insert_with(|| (Vec::new(), new()));
        ports.push(*port);
        host.flows += tally.flows;
        host.would_deny += tally.would_deny;
        host.last = host.last.max(tally.last);
    }
    let mut rules: BTreeMap<(&str, Vec<u16>), Vec<SuggestedHost>> = BTreeMap::new();
    for (name, (ports, host)) in hosts {
        rules.entry((domain_of(name), ports)).or_default().push(host);
    }
    let rule = |((domain, ports), hosts): ((&str, Vec<u16>), Vec<SuggestedHost>)| SuggestedRule {
        domain: domain.to_owned(),
        ports,
        flows: hosts.iter().map(|host| host.flows).sum(),
        last: hosts.iter().map(|host| host.last).max().unwrap_or(Timestamp::UNIX_EPOCH),
        hosts,
        wildcards: Vec::new(),
    };
    rules.into_iter().map(rule).collect()
}

/// Names that a wildcard would allow besides those of its rule.
struct Surroundings<'n> {
    /// Parents above the registrable domain of an observed name: `amazonaws.com`, for `bucket.s3.amazonaws.com`.
    above_others: HashSet<&'n str>,
    /// Denied names by each of their parents and by port, ascending.
    denied: HashMap<(&'n str, u16), Vec<&'n Hostname>>,
}

impl<'n> Surroundings<'n> {
    fn new(names: &'n BTreeMap<(Hostname, u16), TargetTally>, denied: &'n Tallies) -> Self {
        let denied = || denied.keys().filter_map(|(what, port)| Some((what.name()?, *port)));
        let mut around = Self { above_others: HashSet::new(), denied: HashMap::new() };
        for (name, _) in names.keys().map(|(name, port)| (name, *port)).chain(denied()) {
            let domain = domain_of(name).len();
            around.above_others.extend(name.parents().filter(|parent| parent.len() < domain));
        }
        for (name, port) in denied() {
            for parent in name.parents() {
                around.denied.entry((parent, port)).or_default().push(name);
            }
        }
        around.denied.values_mut().for_each(|names| names.sort());
        around
    }

    /// Returns wildcards for the nearest parents with enough names of the rule, then for the domain if enough names are
    /// left.
    ///
    /// None reaches beyond one registrable domain: neither a public suffix, nor a domain below which an observed name
    /// belongs to another owner.
    fn wildcards(&self, rule: &SuggestedRule) -> Vec<Wildcard> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for host in rule.hosts.iter().filter(|host| host.name.as_str() != rule.domain) {
            if let Some(parent) = host.name.parents().next() {
                *counts.entry(parent).or_default() += 1;
            }
        }
        counts.retain(|_, count| *count >= ENOUGH_FOR_A_WILDCARD);
        let covered = |host: &SuggestedHost| {
            host.name.parents().next().is_some_and(|parent| counts.contains_key(parent))
        };
        let in_domain = |host: &SuggestedHost| host.name.parents().any(|parent| parent == rule.domain);
        let left = rule.hosts.iter().filter(|host| !covered(host) && in_domain(host)).count();
        if left >= ENOUGH_FOR_A_WILDCARD {
            counts.insert(&rule.domain, left);
        }
        let parents = counts.into_keys().filter(|parent| !self.above_others.contains(parent));
        // Counted at once for all parents: a rule may have as many parents as names.
        let mut below: HashMap<&str, usize> = HashMap::new();
        for parent in rule.hosts.iter().flat_map(|host| host.name.parents()) {
            *below.entry(parent).or_default() += 1;
        }
        let wildcard = |parent: &str| {
            let (opens_denied, opened) = self.opened(parent, &rule.ports);
            Wildcard {
                pattern: format!("*.{parent}"),
                covers: below.get(parent).copied().unwrap_or_default(),
                opens_denied,
                opens_for_example: opened.into_iter().take(EXAMPLES).cloned().collect(),
            }
        };
        parents.map(wildcard).collect()
    }

    /// Number of denied names below a parent on any of these ports, and [`LOOKED_AT`] of them.
    fn opened(&self, parent: &str, ports: &[u16]) -> (usize, BTreeSet<&'n Hostname>) {
        let denied = || ports.iter().filter_map(|port| self.denied.get(&(parent, *port)));
        let some: BTreeSet<_> = denied().flatten().copied().take(LOOKED_AT).collect();
        let on_one_port = denied().map(Vec::len).max().unwrap_or_default();
        (some.len().max(on_one_port), some)
    }
}

/// Targets that stay denied with the suggested rules, the most frequent first.
fn still_denied(trial: &TenantRules, denied: Tallies) -> Vec<UnsuggestedTarget> {
    let kept = denied.into_iter().filter(|((what, _), tally)| !permitted(trial, what, tally));
    let mut rows: Vec<UnsuggestedTarget> =
        kept.map(|((what, port), tally)| UnsuggestedTarget::new(what, port, &tally)).collect();
    rows.sort_by(|a, b| (b.flows, &a.name, a.address, a.port).cmp(&(a.flows, &b.name, b.address, b.port)));
    rows
}

#[cfg(test)]
mod tests;
