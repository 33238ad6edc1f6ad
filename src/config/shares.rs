//! Checks that a pool can keep its tenants' floors.

use super::diagnostic::Diagnostics;
use super::tenants::{PoolDraft, TenantDraft};
use crate::egress::{PoolSpec, ShareSpec, is_derived};
use crate::family::Family;
use std::collections::HashMap;
use std::net::IpAddr;

/// Minimum host bits of a network whose addresses are derived per client for clients not to share an address.
const NEVER_SHARED_BITS: u8 = 64;

/// Tenants by the name of their pool.
pub(super) struct TenantsOfPools<'t>(HashMap<&'t str, Vec<&'t TenantDraft>>);

impl<'t> TenantsOfPools<'t> {
    pub(super) fn new(tenants: &'t [TenantDraft]) -> Self {
        let mut of_pools: HashMap<_, Vec<_>> = HashMap::new();
        for tenant in tenants {
            of_pools.entry(&*tenant.spec.pool).or_default().push(tenant);
        }
        Self(of_pools)
    }

    fn of(&self, pool: &PoolSpec) -> &[&'t TenantDraft] {
        self.0.get(&*pool.name).map_or(&[], Vec::as_slice)
    }
}

/// Returns the shares of a pool's tenants: all of them, because each counts against the others; none if no tenant has a
/// floor or ceiling.
pub(super) fn of_pool(pool: &PoolSpec, tenants: &TenantsOfPools<'_>) -> Vec<ShareSpec> {
    let here = tenants.of(pool);
    let unlimited =
        |tenant: &&TenantDraft| tenant.limits.ports_floor.is_none() && tenant.limits.ports_ceiling.is_none();
    if here.iter().all(unlimited) {
        return Vec::new();
    }
    let share = here.iter().map(|tenant| ShareSpec {
        tenant: tenant.spec.name.clone(),
        floor: tenant.limits.ports_floor.unwrap_or(0),
        ceiling: tenant.limits.ports_ceiling,
    });
    share.collect()
}

/// Reports floors above ceilings, and floors that the pool's addresses cannot keep.
pub(super) fn check(pools: &[PoolDraft], tenants: &[TenantDraft], reserved: &[u16], out: &mut Diagnostics) {
    for tenant in tenants {
        if let (Some(floor), Some(ceiling)) = (tenant.limits.ports_floor, tenant.limits.ports_ceiling)
            && floor > ceiling
        {
            let message = format!("`ports_floor`: {floor} is more than `ports_ceiling`, {ceiling}");
            out.error(tenant.floor_at, message, "a tenant cannot be assured of ports that it may not use");
        }
    }
    let of_pools = TenantsOfPools::new(tenants);
    for pool in pools {
        let with_floor = || {
            of_pools
                .of(&pool.spec)
                .iter()
                .filter_map(|tenant| Some((tenant, u64::from(tenant.limits.ports_floor?))))
        };
        let Some((last, _)) = with_floor().next_back() else { continue };
        for (network, at) in pool.spec.addresses.iter().zip(&pool.addresses_at) {
            if is_derived(network) && network.max_prefix_len() - network.prefix_len() < NEVER_SHARED_BITS {
                let message = format!(
                    "`addresses`: {network} cannot keep the `ports_floor` of tenant {:?}",
                    last.spec.name
                );
                let help = "each client uses eight of its addresses, and shares them with clients of other tenants; \
                            list fewer addresses, or take an IPv6 network of /64 or wider";
                out.error(*at, message, help);
            }
        }
        let floors: u64 = with_floor().map(|(_, floor)| floor).sum();
        for family in Family::ALL {
            let offered = |draining: bool| offered(&pool.spec, family, reserved, draining);
            let Some(all) = offered(true) else { continue };
            let left = offered(false).unwrap_or(0);
            let name = &pool.spec.name;
            if floors > all {
                let message = format!(
                    "`ports_floor`: the floors of pool {name:?} come to {floors} ports, and its {family} addresses have {all} towards a destination"
                );
                out.error(last.floor_at, message, "lower them, or add addresses to the pool");
            } else if floors > left {
                let message = format!(
                    "`drain`: the floors of pool {name:?} come to {floors} ports, and {left} are left of its {family} addresses"
                );
                out.warning(pool.drain_at, message, "the floors do not hold until there are addresses again");
            }
        }
    }
}

/// Ports of all listed addresses of a family towards each destination, with the `draining` ones or without. `None` if
/// there are none, or if addresses are derived: those are practically unlimited.
fn offered(pool: &PoolSpec, family: Family, reserved: &[u16], draining: bool) -> Option<u64> {
    let of_family = |address: IpAddr| Family::of(address) == family;
    let mut networks = pool.addresses.iter().filter(|network| of_family(network.addr())).peekable();
    networks.peek()?;
    let mut addresses = 0_u64;
    for network in networks {
        if is_derived(network) {
            return None;
        }
        addresses += 1_u64 << (network.max_prefix_len() - network.prefix_len());
    }
    if !draining {
        // Some may be no addresses of the pool, which is reported elsewhere.
        let drained = pool.drain.iter().filter(|address| of_family(address.ip())).count();
        addresses = addresses.saturating_sub(drained as u64);
    }
    let mut kept: Vec<_> = reserved.iter().filter(|port| pool.ports.contains(**port)).collect();
    kept.sort_unstable();
    kept.dedup();
    Some(addresses * (u64::from(pool.ports.count()) - kept.len() as u64))
}
