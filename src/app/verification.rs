//! Configuration to what looks names up.

use super::StartError;
use crate::addr::Family;
use crate::config::Config;
use crate::egress::Pools;
use crate::gateway::{Snapshot, Verification};
use crate::hostname::{HostPattern, Hostname};
use crate::policy::{CertificateRule, Destination, RuleSpec, TenantSpec};
use crate::telemetry::Metrics;
use crate::verify::{self, Asker, Key, Settings, Verifier};
use std::collections::HashSet;
use std::sync::Arc;

/// Names of rules that are looked up before anybody asks, in each family. Each takes some 300 bytes.
const MOST_PINNED: usize = 100_000;

/// There if a rule asks for it: the one of `before` if that asks the same servers, with all that it knows.
pub(super) fn verifier(
    config: &Config,
    metrics: &Metrics,
    before: Option<&Snapshot>,
) -> Result<Option<Arc<Verifier>>, StartError> {
    if !config.tenants.iter().any(asks) {
        return Ok(None);
    }
    let rules = || config.tenants.iter().flat_map(|tenant| &tenant.rules);
    let servers = match &config.resolver.servers {
        _ if !rules().any(asks_about_address) => Vec::new(),
        Some(servers) => servers.clone(),
        None => verify::system_servers().map_err(StartError::Resolver)?,
    };
    let (dnssec, grace, roots) =
        (config.resolver.dnssec.clone(), config.resolver.grace, config.roots.clone());
    let settings = Settings { servers, dnssec, grace, roots };
    if let Some(verifier) = before.and_then(|before| before.verifier.as_ref())
        && *verifier.settings() == settings
    {
        return Ok(Some(Arc::clone(verifier)));
    }
    Ok(Some(Arc::new(Verifier::start(settings, metrics.lookups(), metrics.probes())?)))
}

/// A tenant's part of it, if a rule of the tenant asks for it.
pub(super) fn of_tenant(
    tenant: &TenantSpec,
    verifier: Option<&Arc<Verifier>>,
    metrics: &Metrics,
) -> Option<Verification> {
    let verifier = Arc::clone(verifier.filter(|_| asks(tenant))?);
    let address_checks = metrics.address_checks(&tenant.name);
    let certificate_checks = metrics.certificate_checks(&tenant.name);
    Some(Verification { verifier, asker: Asker::default(), address_checks, certificate_checks })
}

/// The names that rules ask about, in the families that the tenant's pool has.
pub(super) fn pins(config: &Config, pools: &Pools) -> HashSet<Key> {
    let mut pins = HashSet::new();
    for tenant in &config.tenants {
        let families = pools.pool(&tenant.pool).map(|pool| pool.families()).unwrap_or_default();
        for rule in tenant.rules.iter().filter(|rule| asks_about_address(rule)) {
            for name in rule.hosts.iter().filter_map(exact) {
                pins.extend(families.iter().map(|&family: &Family| Key { name: name.clone(), family }));
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
    rule.destination != Destination::Original
}

fn exact(pattern: &HostPattern) -> Option<&Hostname> {
    match pattern {
        HostPattern::Exact(name) => Some(name),
        HostPattern::Subdomains(_) => None,
    }
}
