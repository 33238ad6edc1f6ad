//! Warnings for rules that can never match, or match less than they seem to.

mod coverage;
mod host_index;
mod reach_table;

use super::comparisons::Comparisons;
use super::diagnostic::{Diagnostics, SourcePosition};
use super::tenants::{RulePlaces, TenantDraft};
use crate::addr::PortRange;
use crate::egress::PoolSpec;
use crate::hostname::HostPattern;
use crate::policy::{RuleEffect, RuleSpec, TenantMode};
use coverage::Coverage;
use std::collections::HashSet;
use std::net::SocketAddr;

/// The pool of a tenant.
pub(super) struct PoolFamilies<'p> {
    name: &'p str,
    has_v4: bool,
    has_v6: bool,
}

impl<'p> PoolFamilies<'p> {
    pub(super) fn of(pool: &'p PoolSpec) -> Self {
        let has = |v4: bool| pool.addresses.iter().any(|network| network.addr().is_ipv4() == v4);
        Self { name: &pool.name, has_v4: has(true), has_v6: has(false) }
    }
}

/// Checks the rules of one tenant. `pool` is `None` if the tenant's pool is unknown, which is reported elsewhere; the steered
/// ports are ascending and disjoint.
pub(super) fn check(
    tenant: &TenantDraft,
    pool: Option<&PoolFamilies<'_>>,
    steered: &[PortRange],
    comparisons: &Comparisons,
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
    let coverage = Coverage::new(rules, comparisons);
    for (number, (rule, at)) in rules.iter().zip(&tenant.rules_at).enumerate() {
        unsteered_ports(rule, *at, steered, out);
        if let Some(pool) = pool.filter(|_| rule.effect == RuleEffect::Allow) {
            missing_family(rule, *at, pool, out);
        }
        if let Some((count, example)) = coverage.duplicates(number) {
            let message = format!("names that are listed twice: {count}, such as {example}");
            out.warning(at.hosts, message, "remove the second ones");
        }
        if let Some((count, name, wildcard)) = names_under_wildcards(rule) {
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
fn missing_families(tenant: &TenantDraft, pool: &PoolFamilies<'_>, out: &mut Diagnostics) {
    for (family, other, v4, pool_has) in
        [("IPv4", "IPv6", true, pool.has_v4), ("IPv6", "IPv4", false, pool.has_v6)]
    {
        if !pool_has && tenant.spec.sources.iter().any(|network| network.addr().is_ipv4() == v4) {
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

/// Warns of IPv6 clients of a gateway that listens for IPv4 alone.
pub(super) fn unheard_clients(
    listen: SocketAddr,
    tenants: &[TenantDraft],
    whole_file: SourcePosition,
    out: &mut Diagnostics,
) {
    let has_ipv6 = |tenant: &&TenantDraft| tenant.spec.sources.iter().any(|network| network.addr().is_ipv6());
    if let Some(tenant) = tenants.iter().find(has_ipv6).filter(|_| listen.is_ipv4()) {
        let message = format!(
            "`listen` of [gateway] is for IPv4 alone, and tenant {:?} has IPv6 clients: their IPv6 connections do not \
             come about",
            tenant.spec.name
        );
        let help = format!("write \"[::]:{}\", or have DNS give these clients IPv4 alone", listen.port());
        out.warning(whole_file, message, help);
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

fn unsteered_ports(rule: &RuleSpec, at: RulePlaces, steered: &[PortRange], out: &mut Diagnostics) {
    let meets = |range: &PortRange| {
        let at = steered.partition_point(|other| other.last() < range.first());
        steered.get(at).is_some_and(|other| other.first() <= range.last())
    };
    let missed: Vec<_> = rule.ports.iter().filter(|range| !meets(range)).map(ToString::to_string).collect();
    if !missed.is_empty() {
        let message = format!("`ports`: flows to {} never come here", missed.join(", "));
        out.warning(at.ports, message, "add them to `ports` of [steering]");
    }
}

fn missing_family(rule: &RuleSpec, at: RulePlaces, pool: &PoolFamilies<'_>, out: &mut Diagnostics) {
    let all =
        |v4: bool| !rule.cidrs.is_empty() && rule.cidrs.iter().all(|network| network.addr().is_ipv4() == v4);
    for (family, lacking) in [("IPv4", !pool.has_v4 && all(true)), ("IPv6", !pool.has_v6 && all(false))] {
        if lacking {
            let message = format!("`cidrs`: pool {:?} has no {family} address to leave from", pool.name);
            out.warning(at.cidrs, message, "add one to `addresses` of the pool");
        }
    }
}

/// Number of a rule's names that its own wildcards cover, with one of them and the wildcard.
fn names_under_wildcards(rule: &RuleSpec) -> Option<(usize, &HostPattern, String)> {
    let own = rule.hosts.iter().filter_map(|pattern| match pattern {
        HostPattern::Subdomains(apex) => Some(apex.as_str()),
        HostPattern::Exact(_) => None,
    });
    let own: HashSet<&str> = own.collect();
    if own.is_empty() {
        return None;
    }
    let wildcard = |pattern: &HostPattern| {
        let (HostPattern::Exact(name) | HostPattern::Subdomains(name)) = pattern;
        name.parents().find(|parent| own.contains(parent)).map(ToOwned::to_owned)
    };
    let mut covered = rule.hosts.iter().filter_map(|pattern| Some((pattern, wildcard(pattern)?)));
    let (name, apex) = covered.next()?;
    Some((1 + covered.count(), name, format!("*.{apex}")))
}
