//! Checks that each address family that clients have has a way out.

use crate::cli::findings::CheckFinding;
use crate::cli::mend::Mend;
use crate::config::Config;
use crate::sys::routing::{IpFamily, WaysOut, ways_out};
use ipnet::IpNet;
use std::net::IpAddr;
use std::sync::Arc;

/// A pool that a tenant leaves from.
#[derive(Debug, Clone)]
pub(super) struct UsedPool {
    pub(super) name: Arc<str>,
    /// Its networks of each family.
    networks: [Vec<IpNet>; 2],
    /// True if a client has an address of the family.
    pub(super) clients: [bool; 2],
}

/// Every pool that has a tenant.
pub(super) fn used_pools(config: &Config) -> Vec<UsedPool> {
    let pools = config.pools.iter().map(|pool| {
        let tenants = || config.tenants.iter().filter(|tenant| *tenant.pool == *pool.name);
        let of = |family| {
            pool.addresses.iter().filter(|net| IpFamily::of(net.addr()) == family).copied().collect()
        };
        let clients = |family| {
            let mut sources = tenants().flat_map(|tenant| &tenant.sources);
            sources.any(|network| IpFamily::of(network.addr()) == family)
        };
        UsedPool {
            name: Arc::clone(&pool.name),
            networks: IpFamily::ALL.map(of),
            clients: IpFamily::ALL.map(clients),
        }
    });
    pools.filter(|pool| pool.clients.contains(&true)).collect()
}

const CHECK: &str = "families";

pub(super) fn families(pools: &[UsedPool]) -> Vec<CheckFinding> {
    let mut found = Vec::new();
    for (index, family) in IpFamily::ALL.into_iter().enumerate() {
        for pool in pools.iter().filter(|pool| pool.clients[index]) {
            found.extend(finding(pool, family, ways_out(family, addresses(&pool.networks[index]))));
        }
    }
    if found.is_empty() {
        found.push(CheckFinding::ok(CHECK, "every address family that clients have has a way out"));
    }
    found
}

/// The finding about one family of a pool, by the ways out from its addresses.
fn finding(pool: &UsedPool, family: IpFamily, ways: WaysOut) -> Option<CheckFinding> {
    const REFUSED: &str =
        "its connections are refused at once; clients that have the other family too fall back to it";
    let (called, name) = (family.as_str(), &pool.name);
    if pool.networks[family as usize].is_empty() {
        let other = IpFamily::ALL[1 - family as usize].as_str();
        let remedy = format!("add one to [[pool]], or have DNS give these clients {other} alone");
        return Some(CheckFinding::fail(
            CHECK,
            format!("pool {name} has no {called} address"),
            REFUSED,
            remedy,
        ));
    }
    let ruled = |why| {
        let remedy = Mend::run(format!("ip {} rule", flag(family)))
            .and("delete the rule, or give its table a default route");
        let found = format!("a rule keeps pool {name} from the {called} default route");
        CheckFinding::fail(CHECK, found, why, remedy)
    };
    match ways {
        WaysOut::Default => None,
        WaysOut::SomeNetworks => {
            Some(ruled("flows to other networks than the table has routes for end as dial_failed"))
        }
        WaysOut::RuledOut => Some(ruled(REFUSED)),
        WaysOut::NoDefault => Some(CheckFinding::fail(
            CHECK,
            format!("no {called} route leads out for pool {name}"),
            REFUSED,
            format!("give this machine a default route for {called} (`ip {} route`)", flag(family)),
        )),
    }
}

/// The addresses of networks, from the first on.
fn addresses(networks: &[IpNet]) -> impl Iterator<Item = IpAddr> {
    networks
        .iter()
        .flat_map(|net| net.subnets(net.max_prefix_len()).into_iter().flatten())
        .map(|net| net.addr())
}

fn flag(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "-4",
        IpFamily::V6 => "-6",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remedy_fits_what_keeps_a_pool_in() {
        let pool = UsedPool {
            name: "a".into(),
            networks: [vec!["192.0.2.0/30".parse().unwrap()], Vec::new()],
            clients: [true; 2],
        };
        let told = |family, ways| {
            let told = finding(&pool, family, ways)?;
            Some((told.found, told.mend.unwrap_or_default().to_string()))
        };
        assert_eq!(told(IpFamily::V4, WaysOut::Default), None);
        for ways in [WaysOut::RuledOut, WaysOut::SomeNetworks] {
            let (found, remedy) = told(IpFamily::V4, ways).unwrap();
            assert_eq!(found, "a rule keeps pool a from the IPv4 default route");
            assert!(remedy.contains("ip -4 rule") && remedy.contains("delete the rule"), "{remedy}");
        }
        let (_, remedy) = told(IpFamily::V4, WaysOut::NoDefault).unwrap();
        assert!(remedy.contains("give this machine a default route for IPv4"), "{remedy}");
        let (found, _) = told(IpFamily::V6, WaysOut::Default).unwrap();
        assert_eq!(found, "pool a has no IPv6 address");
        let all: Vec<_> = addresses(&pool.networks[0]).map(|address| address.to_string()).collect();
        assert_eq!(all, ["192.0.2.0", "192.0.2.1", "192.0.2.2", "192.0.2.3"]);
    }
}
