//! Builds the verifiers of names from a configuration.

use super::build_error::BuildError;
use crate::config::Config;
use crate::egress::Pools;
use crate::family::Family;
use crate::gateway::{Snapshot, TenantRuntime, VerificationHandles};
use crate::hostname::{HostPattern, Hostname};
use crate::policy::{CertificateRule, DestinationRule, RuleSpec, TenantSpec};
use crate::telemetry::Metrics;
use crate::verify::{self, NameKey, TenantLookups, Verifier, VerifierCapacity, VerifierSettings};
use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

/// Most rule names resolved in advance, over both families. Each takes some 300 bytes.
const MOST_PINNED: usize = 100_000;

/// Returns a verifier if a rule needs one. Reuses that of `before` or of its candidate, with its caches, if the
/// settings are the same.
pub(crate) fn verifier(
    config: &Config,
    metrics: &Metrics,
    capacity: &VerifierCapacity,
    before: Option<&Snapshot>,
) -> Result<Option<Arc<Verifier>>, BuildError> {
    if !config.tenants.iter().any(asks) {
        return Ok(None);
    }
    let (asked, roots) = (asked_servers(config), config.roots.store());
    for missing in missing_of(config, asked.as_ref(), roots.as_ref().err()) {
        tracing::error!(
            "{missing}; flows whose rules need it are denied until it is there, which is watched"
        );
    }
    let candidate = before.and_then(|before| before.candidate.as_ref());
    let known = [
        before.and_then(|before| before.verifier.as_ref()),
        candidate.and_then(|candidate| candidate.verifier()),
    ];
    let known = || known.into_iter().flatten();
    let follows_system = asks_names(config) && config.resolver.servers.is_none();
    let servers = match asked {
        None => Vec::new(),
        Some(Ok(servers)) => servers,
        // Those that the file named last.
        Some(Err(_)) => {
            known().find(|known| known.follows_system()).map_or_else(Vec::new, |known| known.servers())
        }
    };
    let settings = VerifierSettings {
        servers,
        follows_system,
        dnssec: config.resolver.dnssec.clone(),
        grace: config.resolver.grace,
        roots: config.roots.clone(),
    };
    if let Some(verifier) = known().find(|known| known.is_of(&settings)) {
        return Ok(Some(Arc::clone(verifier)));
    }
    Ok(Some(Arc::new(Verifier::start(settings, roots.ok(), capacity, metrics.lookups(), metrics.probes())?)))
}

/// Lists the needs of rules that this machine does not meet, each with the remedy.
pub(crate) fn missing(config: &Config) -> Vec<String> {
    let roots = config.roots.store();
    missing_of(config, asked_servers(config).as_ref(), roots.as_ref().err())
}

/// `servers`: those that rules ask; `no_roots`: why there are no root certificates.
fn missing_of(
    config: &Config,
    servers: Option<&Result<Vec<SocketAddr>, String>>,
    no_roots: Option<&io::Error>,
) -> Vec<String> {
    let servers = servers.and_then(|servers| servers.as_ref().err());
    let servers = servers.map(|why| format!("cannot look names up: {why}"));
    let mut rules = config.tenants.iter().flat_map(|tenant| &tenant.rules);
    let roots = no_roots.filter(|_| rules.any(|rule| rule.certificate != CertificateRule::Unasked));
    let roots = roots.map(|why| format!("cannot verify certificates: {why}"));
    servers.into_iter().chain(roots).collect()
}

/// The DNS servers that rules ask, or why there are none; `None` if no rule asks.
pub(crate) fn asked_servers(config: &Config) -> Option<Result<Vec<SocketAddr>, String>> {
    asks_names(config).then(|| match &config.resolver.servers {
        Some(servers) => Ok(servers.clone()),
        None => verify::system_servers(),
    })
}

fn asks_names(config: &Config) -> bool {
    config.tenants.iter().flat_map(|tenant| &tenant.rules).any(asks_about_address)
}

/// A name that rules look up, if one of them is no wildcard.
pub(crate) fn looked_up(config: &Config) -> Option<&Hostname> {
    let rules = config.tenants.iter().flat_map(|tenant| &tenant.rules);
    rules.filter(|rule| asks_about_address(rule)).flat_map(|rule| &rule.hosts).find_map(exact)
}

/// Returns the tenant's verification if a rule of the tenant needs it. Keeps the asker of `known`, the tenant of the same name.
pub(crate) fn of_tenant(
    tenant: &TenantSpec,
    verifier: Option<&Arc<Verifier>>,
    metrics: &Metrics,
    known: Option<&TenantRuntime>,
) -> Option<Arc<VerificationHandles>> {
    let verifier = Arc::clone(verifier.filter(|_| asks(tenant))?);
    let known = known.and_then(|known| known.verification.as_ref());
    let asker = known.map_or_else(TenantLookups::default, |known| known.asker.clone());
    let address_checks = metrics.address_checks(&tenant.name);
    let certificate_checks = metrics.certificate_checks(&tenant.name);
    Some(Arc::new(VerificationHandles { verifier, asker, address_checks, certificate_checks }))
}

/// Sets the names that are resolved in advance: those of the policy in force, and those of an enforced candidate.
/// `None` stands for the names of a candidate that is not enforced.
pub(crate) fn pin(
    in_force: Option<&Verifier>,
    names: &HashSet<NameKey>,
    candidate: Option<(&Verifier, Option<&HashSet<NameKey>>)>,
) {
    let mut names = names.clone();
    if let Some((verifier, more)) = candidate {
        if in_force.is_some_and(|in_force| std::ptr::eq(in_force, verifier)) {
            let room = MOST_PINNED.saturating_sub(names.len());
            names.extend(more.into_iter().flatten().take(room).cloned());
        } else {
            verifier.pin(more.cloned().unwrap_or_default());
        }
    }
    if let Some(verifier) = in_force {
        verifier.pin(names);
    }
}

/// Names that rules look up, in the address families of the tenant's pool; in both if the pool does not exist yet.
pub(crate) fn names(config: &Config, pools: &Pools) -> HashSet<NameKey> {
    let mut pins = HashSet::new();
    for tenant in &config.tenants {
        let families = pools.pool(&tenant.pool).map(|pool| pool.families());
        let families = families.unwrap_or_else(|| Family::ALL.to_vec());
        for rule in tenant.rules.iter().filter(|rule| asks_about_address(rule)) {
            for name in rule.hosts.iter().filter_map(exact) {
                pins.extend(families.iter().map(|&family: &Family| NameKey { name: name.clone(), family }));
                if pins.len() > MOST_PINNED {
                    tracing::warn!(
                        "rules verify more names than are looked up in advance ({MOST_PINNED} in both families); \
                         the first flow to each of the others waits for a lookup"
                    );
                    return pins;
                }
            }
        }
    }
    pins
}

fn asks(tenant: &TenantSpec) -> bool {
    let asks = |rule: &RuleSpec| asks_about_address(rule) || rule.certificate != CertificateRule::Unasked;
    tenant.rules.iter().any(asks)
}

fn asks_about_address(rule: &RuleSpec) -> bool {
    rule.destination != DestinationRule::Original
}

fn exact(pattern: &HostPattern) -> Option<&Hostname> {
    match pattern {
        HostPattern::Exact(name) => Some(name),
        HostPattern::Subdomains(_) => None,
    }
}
