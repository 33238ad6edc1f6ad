//! Checks across all files: names that must be unique or known, networks that must not overlap.

use super::diagnostic::{Diagnostics, SourcePosition};
use super::nearest::nearest;
use super::repeats::overlaps;
use super::shares;
use super::tenants::{PoolDraft, TenantDraft};
use crate::addr::PortRange;
use crate::policy::NetworkMap;
use std::collections::{HashMap, HashSet};

/// First port that does not need `CAP_NET_BIND_SERVICE`, which the gateway lacks.
const FIRST_PORT: u16 = 1024;

/// Reports all errors.
pub(super) fn check(pools: &[PoolDraft], tenants: &[TenantDraft], reserved: &[u16], out: &mut Diagnostics) {
    unique("pool", pools.iter().map(|pool| (&*pool.spec.name, pool.name_at)), out);
    unique("tenant", tenants.iter().map(|tenant| (&*tenant.spec.name, tenant.name_at)), out);
    for tenant in tenants {
        unique_rules(tenant, out);
    }
    for pool in pools {
        if pool.spec.ports.first() < FIRST_PORT {
            let message =
                format!("`ports`: {} begins below {FIRST_PORT}, with privileged ports", pool.spec.ports);
            out.warning(
                pool.ports_at,
                message,
                format!("the gateway leaves them out; let it begin at {FIRST_PORT}"),
            );
        }
        if is_within(pool.spec.ports, reserved) {
            let message = format!("`ports`: {} are the gateway's own ports", pool.spec.ports);
            out.error(pool.ports_at, message, "none is left for flows; widen the range");
        }
    }
    shares::check(pools, tenants, reserved, out);
    pool_networks(pools, out);
    tenant_networks(tenants, out);
    clients_in_pools(pools, tenants, out);
}

/// Reports tenants' pools that there are not.
pub(super) fn known_pools(pools: &[PoolDraft], tenants: &[TenantDraft], out: &mut Diagnostics) {
    let known: HashSet<_> = pools.iter().map(|pool| &*pool.spec.name).collect();
    // The intended pool may be one whose name is invalid, which is reported there.
    let has_invalid = known.contains("");
    for tenant in tenants {
        let wanted = &*tenant.spec.pool;
        if wanted.is_empty() || has_invalid || known.contains(wanted) {
            continue;
        }
        // A search for the nearest name takes long, and there may be as many tenants as pools.
        let meant = if out.has_room() { nearest(wanted, known.iter().copied()) } else { None };
        let help = match meant {
            Some(meant) => format!("did you mean {meant:?}?"),
            None => "add a [[pool]] of this name".to_owned(),
        };
        out.error(tenant.pool_at, format!("`pool`: there is no pool {wanted:?}"), help);
    }
}

/// Warns of unused pools.
pub(super) fn unused_pools(pools: &[PoolDraft], tenants: &[TenantDraft], out: &mut Diagnostics) {
    let used: HashSet<_> = tenants.iter().map(|tenant| &tenant.spec.pool).collect();
    for pool in pools {
        let name = &pool.spec.name;
        if !used.contains(name) {
            out.warning(pool.name_at, format!("no tenant uses pool {name:?}"), "");
        }
    }
}

fn unique<'a>(what: &str, names: impl Iterator<Item = (&'a str, SourcePosition)>, out: &mut Diagnostics) {
    let mut first = HashMap::new();
    for (name, at) in names.filter(|(name, _)| !name.is_empty()) {
        if let Some(before) = first.insert(name, at) {
            let message = format!("{what} {name:?} is there already, at {}", out.show(before));
            out.error(at, message, "give each a name of its own");
        }
    }
}

fn unique_rules(tenant: &TenantDraft, out: &mut Diagnostics) {
    let rules = tenant.spec.rules.iter().zip(&tenant.rules_at);
    // A label `file:line` is unique, unless somebody names a rule like that: names have no colon.
    unique("rule", rules.map(|(rule, at)| (&*rule.label, at.name)), out);
}

fn is_within(ports: PortRange, reserved: &[u16]) -> bool {
    let taken: HashSet<_> = reserved.iter().filter(|port| ports.contains(**port)).collect();
    taken.len() == usize::try_from(ports.count()).unwrap_or(usize::MAX)
}

fn pool_networks(pools: &[PoolDraft], out: &mut Diagnostics) {
    let mut all = Vec::new();
    for pool in pools {
        all.extend(
            pool.spec.addresses.iter().zip(&pool.addresses_at).map(|(n, at)| (*n, *at, &pool.spec.name)),
        );
    }
    for ((outer, outer_at, outer_pool), (inner, inner_at, inner_pool)) in overlaps(all, |entry| entry.0) {
        let message = format!(
            "`addresses`: {inner} of pool {inner_pool:?} overlaps {outer} of pool {outer_pool:?} at {}",
            out.show(outer_at)
        );
        out.error(inner_at, message, "an address belongs to one pool, and is listed once");
    }
}

/// Reports clients inside pools: pool addresses are local to the gateway, so answers would never reach such a client.
fn clients_in_pools(pools: &[PoolDraft], tenants: &[TenantDraft], out: &mut Diagnostics) {
    let mut networks = NetworkMap::default();
    for pool in pools {
        for network in &pool.spec.addresses {
            networks.insert(*network, (*network, &pool.spec.name));
        }
    }
    for tenant in tenants {
        for (source, at) in tenant.spec.sources.iter().zip(&tenant.sources_at) {
            let mut holding = None;
            networks.each_covering(source.network(), |(network, pool)| {
                if network.contains(source) {
                    holding.get_or_insert((network, pool));
                }
            });
            if let Some((network, pool)) = holding {
                let message = format!("`sources`: {source} lies in {network} of pool {pool:?}");
                out.error(
                    *at,
                    message,
                    "pool addresses are the gateway's own, and no client's; take one of the two out",
                );
            }
        }
    }
}

fn tenant_networks(tenants: &[TenantDraft], out: &mut Diagnostics) {
    let mut all = Vec::new();
    for tenant in tenants {
        let name = &tenant.spec.name;
        all.extend(tenant.spec.sources.iter().zip(&tenant.sources_at).map(|(n, at)| (*n, *at, name)));
    }
    for ((outer, outer_at, outer_name), (inner, inner_at, inner_name)) in overlaps(all, |entry| entry.0) {
        let there = out.show(outer_at);
        match (outer == inner, outer_name == inner_name) {
            (true, false) => {
                let message =
                    format!("`sources`: {inner} is a source of tenant {outer_name:?} already, at {there}");
                out.error(inner_at, message, "a client belongs to one tenant; remove one of the two");
            }
            (false, false) => {
                let message =
                    format!("`sources`: {inner} lies in {outer} of tenant {outer_name:?} at {there}");
                let help = format!("its clients belong to {inner_name:?}, since the longest prefix wins");
                out.warning(inner_at, message, help);
            }
            (_, true) => {
                let message = format!("`sources`: {inner} is part of {outer} at {there} already");
                out.warning(inner_at, message, "");
            }
        }
    }
}
