//! Builds a snapshot from a configuration: joins each tenant's rules with its pool, meters and limits.

use super::build_error::BuildError;
use super::verification;
use crate::clock;
use crate::config::Config;
use crate::egress::{Pools, is_derived};
use crate::gateway::{Limit, UnsteeredAddresses};
use crate::gateway::{ResolveMeters, Snapshot, TenantRuntime, VerificationHandles};
use crate::policy::{self, Policy};
use crate::steering::REMEDY;
use crate::sys::connected::{self, ConnectedRoutes};
use crate::sys::{addresses, routing};
use crate::telemetry::Metrics;
use crate::verify::VerifierCapacity;
use std::sync::{Arc, LazyLock};

pub(crate) fn build(
    config: &Config,
    pools: &Pools,
    metrics: &Arc<Metrics>,
    capacity: &VerifierCapacity,
    before: Option<&Snapshot>,
) -> Result<Snapshot, BuildError> {
    let connected = before.map_or_else(Arc::default, |before| Arc::clone(&before.connected));
    let ConnectedRoutes { networks, routers } = connected::routes()?;
    connected.replace(networks, &routers);
    let policy = Policy::compile(&config.tenants, config.private(Arc::clone(&connected)))
        .map_err(|error| BuildError::Bug(error.to_string()))?;
    let verifier = verification::verifier(config, metrics, capacity, before)?;
    let known = before.map(Snapshot::tenants_by_name).unwrap_or_default();
    let tenants: Result<_, _> = policy
        .tenants()
        .iter()
        .zip(&config.tenants)
        .map(|(rules, spec)| {
            let known = known.get(&*spec.name).copied();
            let verification = verification::of_tenant(spec, verifier.as_ref(), metrics, known);
            tenant(config, pools, metrics, rules, verification, known).map(Arc::new)
        })
        .collect();
    let networks = config.pools.iter().flat_map(|pool| pool.addresses.iter().copied()).collect();
    let unsteered = UnsteeredAddresses::new(networks, addresses::local()?).into();
    let candidate = before.and_then(|before| before.candidate.clone());
    Ok(Snapshot {
        policy: policy.into(),
        tenants: tenants?,
        unsteered,
        connected,
        candidate,
        verifier,
        revokes: config.revoke,
        help: config.help.clone(),
    })
}

/// Applies the limits of a snapshot, once it is in force.
pub(crate) fn put_limits_in_force(snapshot: &Snapshot) {
    for tenant in &snapshot.tenants {
        tenant.flows.resize(tenant.most_flows.unwrap_or(u32::MAX));
    }
}

/// Warns of networks of derived addresses that are not local, so that answers would be lost; listed addresses are
/// watched individually. Not an error, because steering may come up later.
pub(crate) fn warn_of_foreign_networks(config: &Config) {
    for pool in &config.pools {
        for network in pool.addresses.iter().filter(|network| is_derived(network)) {
            // The first address may be a link's anycast one, the last a broadcast one.
            let is_foreign = |address| matches!(routing::is_local(address), Ok(false));
            if [network.network(), network.broadcast()].into_iter().all(is_foreign) {
                tracing::warn!(
                    pool = %pool.name,
                    %network,
                    "the pool's addresses are not local to this machine, so nothing can leave from them; \
                     run {REMEDY}, or `ip route add local {network} dev lo`"
                );
            }
        }
    }
}

fn tenant(
    config: &Config,
    pools: &Pools,
    metrics: &Arc<Metrics>,
    rules: &Arc<policy::TenantRules>,
    verification: Option<Arc<VerificationHandles>>,
    known: Option<&TenantRuntime>,
) -> Result<TenantRuntime, BuildError> {
    let pool = pools.pool(&rules.pool).ok_or_else(|| {
        BuildError::Bug(format!("tenant {} has a pool that does not exist: {}", rules.name, rules.pool))
    })?;
    let (metrics, name, pool_name) = (Arc::clone(metrics), Arc::clone(&rules.name), Arc::clone(&rules.pool));
    let monitored = rules.mode.monitors(clock::policy_time());
    let resolve: ResolveMeters = Box::new(move || metrics.tenant(&name, Some(&pool_name), monitored));
    // Live and pending flows stay counted: limits are kept for a tenant of the same name.
    let kept = |limit: fn(&TenantRuntime) -> &Arc<Limit>, most| {
        known.map_or_else(|| Limit::new(most), |known| Arc::clone(limit(known)))
    };
    let most_flows = config.limits.get(&rules.name).and_then(|limits| limits.flows);
    Ok(TenantRuntime {
        policy: Arc::clone(rules),
        pool: Arc::clone(pool),
        share: pool.share(&rules.name),
        meters: LazyLock::new(resolve),
        most_flows,
        flows: kept(|known| &known.flows, most_flows.unwrap_or(u32::MAX)),
        attempts: kept(|known| &known.attempts, u32::MAX),
        inspections: kept(|known| &known.inspections, config.inspect.max_pending),
        verification,
    })
}
