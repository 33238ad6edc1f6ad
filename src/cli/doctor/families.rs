//! Checks that each address family that clients have has a way out.

use crate::cli::findings::CheckFinding;
use crate::config::Config;
use crate::sys::routing::{self, IpFamily, RouteDecision};
use std::net::IpAddr;
use std::sync::Arc;

/// A pool that a tenant leaves from.
#[derive(Debug, Clone)]
pub(super) struct UsedPool {
    pub(super) name: Arc<str>,
    /// The first address of each family.
    addresses: [Option<IpAddr>; 2],
    /// True if a client has an address of the family.
    pub(super) clients: [bool; 2],
}

/// Every pool that has a tenant.
pub(super) fn used_pools(config: &Config) -> Vec<UsedPool> {
    let pools = config.pools.iter().map(|pool| {
        let tenants = || config.tenants.iter().filter(|tenant| *tenant.pool == *pool.name);
        let of = |family| pool.addresses.iter().map(ipnet::IpNet::addr).find(|a| IpFamily::of(*a) == family);
        let clients = |family| {
            let mut sources = tenants().flat_map(|tenant| &tenant.sources);
            sources.any(|network| IpFamily::of(network.addr()) == family)
        };
        UsedPool {
            name: Arc::clone(&pool.name),
            addresses: IpFamily::ALL.map(of),
            clients: IpFamily::ALL.map(clients),
        }
    });
    pools.filter(|pool| pool.clients.contains(&true)).collect()
}

pub(super) fn families(pools: &[UsedPool]) -> Vec<CheckFinding> {
    const CHECK: &str = "families";
    let mut found = Vec::new();
    for (index, family) in IpFamily::ALL.into_iter().enumerate() {
        let (called, other) = (family.as_str(), IpFamily::ALL[1 - index].as_str());
        for pool in pools.iter().filter(|pool| pool.clients[index]) {
            let why =
                "its connections are refused at once; clients that have the other family too fall back to it";
            match pool.addresses[index] {
                None => found.push(CheckFinding::fail(
                    CHECK,
                    format!("pool {} has no {called} address", pool.name),
                    why,
                    format!("add one to [[pool]], or have DNS give these clients {other} alone"),
                )),
                Some(address) if !leads_out(family, address) => found.push(CheckFinding::fail(
                    CHECK,
                    format!("no {called} route leads out for pool {}", pool.name),
                    why,
                    format!("give this machine a default route for {called} (`ip {} route`)", flag(family)),
                )),
                Some(_) => {}
            }
        }
    }
    if found.is_empty() {
        found.push(CheckFinding::ok(CHECK, "every address family that clients have has a way out"));
    }
    found
}

/// An address that is not local yet says nothing of routes that go by it.
fn leads_out(family: IpFamily, address: IpAddr) -> bool {
    let is_local = routing::way(address, None, None).is_ok_and(|way| way == RouteDecision::Local);
    routing::way(family.far(), is_local.then_some(address), None)
        .map_or(true, |way| way != RouteDecision::Nowhere)
}

fn flag(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "-4",
        IpFamily::V6 => "-6",
    }
}
