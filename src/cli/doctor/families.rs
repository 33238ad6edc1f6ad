//! Checks that each address family that clients have has a way out.

use crate::cli::findings::CheckFinding;
use crate::cli::mend::Mend;
use crate::config::Config;
use crate::family::Family;
use crate::sys::routing::{RoutingTables, SOURCES, WaysOut};
use ipnet::IpNet;
use std::iter;
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
    /// False if the gateway listens for IPv4 alone.
    takes_ipv6: bool,
}

impl UsedPool {
    /// True if the gateway listens for a family.
    fn takes(&self, family: Family) -> bool {
        self.takes_ipv6 || family == Family::V4
    }

    /// The families that clients have.
    fn families(&self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(|family| self.clients[*family as usize])
    }
}

/// Every pool that has a tenant.
pub(super) fn used_pools(config: &Config) -> Vec<UsedPool> {
    let pools = config.pools.iter().map(|pool| {
        let tenants = || config.tenants.iter().filter(|tenant| *tenant.pool == *pool.name);
        let of =
            |family| pool.addresses.iter().filter(|net| Family::of(net.addr()) == family).copied().collect();
        let clients = |family| {
            let mut sources = tenants().flat_map(|tenant| &tenant.sources);
            sources.any(|network| Family::of(network.addr()) == family)
        };
        UsedPool {
            name: Arc::clone(&pool.name),
            networks: Family::ALL.map(of),
            clients: Family::ALL.map(clients),
            takes_ipv6: config.gateway.listen.is_ipv6(),
        }
    });
    pools.filter(|pool| pool.clients.contains(&true)).collect()
}

const CHECK: &str = "families";

pub(super) fn families(pools: &[UsedPool]) -> Vec<CheckFinding> {
    let (mut found, tables) = (Vec::new(), RoutingTables::default());
    for pool in pools {
        let sources = Family::ALL.map(|family| spread(&pool.networks[family as usize]));
        let ways =
            Family::ALL.map(|family| tables.ways_out(family, sources[family as usize].iter().copied()));
        found.extend(of_pool(pool, ways));
        for family in pool.families().filter(|family| ways[*family as usize] == WaysOut::Default) {
            let way = |source| tables.ways_out(family, iter::once(source));
            found.extend(partly_ruled_out(&pool.name, family, &sources[family as usize], way));
        }
    }
    if found.is_empty() {
        found.push(CheckFinding::ok(CHECK, "every address family that clients have has a way out"));
    }
    found
}

/// The findings about the families that clients of a pool have, by the ways out from its addresses.
fn of_pool(pool: &UsedPool, ways: [WaysOut; 2]) -> Vec<CheckFinding> {
    let leaves = |family: Family| {
        let has_way = matches!(ways[family as usize], WaysOut::Default | WaysOut::SomeNetworks);
        pool.takes(family) && has_way && !pool.networks[family as usize].is_empty()
    };
    // Nobody is refused at once where no family could take over: see control/network/families.rs.
    let refused = Family::ALL.into_iter().any(leaves);
    pool.families().filter_map(|family| finding(pool, family, ways[family as usize], refused)).collect()
}

/// The finding about one family of a pool. `refused`: what cannot leave is refused at once.
fn finding(pool: &UsedPool, family: Family, ways: WaysOut, refused: bool) -> Option<CheckFinding> {
    let consequence = |accepted| {
        if refused {
            "its connections are refused at once; clients that have the other family too fall back to it"
        } else {
            accepted
        }
    };
    let (called, name) = (family.as_str(), &pool.name);
    if !pool.takes(family) {
        return Some(CheckFinding::fail(
            CHECK,
            format!(
                "the gateway does not listen for {called}, and clients of pool {name} have {called} addresses"
            ),
            consequence("its connections are not answered: no family has a way out"),
            "[gateway] listen at [::] takes both families; or have DNS give these clients IPv4 alone",
        ));
    }
    if pool.networks[family as usize].is_empty() {
        let other = Family::ALL[1 - family as usize].as_str();
        let remedy = format!("add one to [[pool]], or have DNS give these clients {other} alone");
        return Some(CheckFinding::fail(
            CHECK,
            format!("pool {name} has no {called} address"),
            consequence("its connections are accepted and end as no_source_address: no family has a way out"),
            remedy,
        ));
    }
    let unrouted =
        consequence("its connections are accepted and end as dial_failed: no family has a way out");
    let ruled = |found: String, why| CheckFinding::fail(CHECK, found, why, no_rule(family));
    match ways {
        WaysOut::Default => None,
        WaysOut::SomeNetworks => {
            let found = format!("a rule leads pool {name} to some {called} networks alone");
            Some(ruled(found, "flows to other networks than the table has routes for end as dial_failed"))
        }
        WaysOut::RuledOut => {
            Some(ruled(format!("a rule keeps pool {name} from the {called} default route"), unrouted))
        }
        WaysOut::NoDefault => Some(CheckFinding::fail(
            CHECK,
            format!("no {called} route leads out for pool {name}"),
            unrouted,
            format!("give this machine a default route for {called} (`ip {} route`)", flag(family)),
        )),
    }
}

fn no_rule(family: Family) -> Mend {
    Mend::run(format!("ip {} rule", flag(family))).and("delete the rule, or give its table a default route")
}

/// The finding about those of these addresses that a rule keeps from the default route, which others of the pool have.
fn partly_ruled_out(
    pool: &str,
    family: Family,
    sources: &[IpAddr],
    way: impl Fn(IpAddr) -> WaysOut,
) -> Option<CheckFinding> {
    let kept = |source: &&IpAddr| matches!(way(**source), WaysOut::RuledOut | WaysOut::SomeNetworks);
    let kept: Vec<_> = sources.iter().filter(kept).collect();
    let found = format!(
        "a rule keeps {} of {} addresses of pool {pool} that were looked at, such as {}, from the {} default route",
        kept.len(),
        sources.len(),
        kept.first()?,
        family.as_str()
    );
    Some(CheckFinding::fail(CHECK, found, "flows that leave from them end as dial_failed", no_rule(family)))
}

/// Some addresses of these networks, no more than are asked about: those of a network are evenly spread over it, and each network
/// has its turn before any has its second.
fn spread(networks: &[IpNet]) -> Vec<IpAddr> {
    let step = networks.len().div_ceil(SOURCES).max(1);
    let of_each = SOURCES.div_ceil(networks.len().max(1)) as u128;
    let turns = (0..of_each).flat_map(|turn| {
        networks.iter().step_by(step).filter_map(move |network| {
            let hosts = u32::from(network.max_prefix_len() - network.prefix_len());
            let size = 1_u128.checked_shl(hosts).unwrap_or(u128::MAX);
            let offset = (turn < size).then(|| size / size.min(of_each) * turn)?;
            Some(match network.network() {
                IpAddr::V4(first) => IpAddr::V4(
                    (u128::from(u32::from(first)) + offset).try_into().ok().map(|n: u32| n.into())?,
                ),
                IpAddr::V6(first) => IpAddr::V6((u128::from(first) + offset).into()),
            })
        })
    });
    turns.take(SOURCES).collect()
}

fn flag(family: Family) -> &'static str {
    match family {
        Family::V4 => "-4",
        Family::V6 => "-6",
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
            takes_ipv6: true,
        };
        let told = |family, ways| {
            let told = finding(&pool, family, ways, true)?;
            Some((told.found, told.mend.unwrap_or_default().to_string()))
        };
        assert_eq!(told(Family::V4, WaysOut::Default), None);
        for (ways, said) in [
            (WaysOut::RuledOut, "a rule keeps pool a from the IPv4 default route"),
            (WaysOut::SomeNetworks, "a rule leads pool a to some IPv4 networks alone"),
        ] {
            let (found, remedy) = told(Family::V4, ways).unwrap();
            assert_eq!(found, said);
            assert!(remedy.contains("ip -4 rule") && remedy.contains("delete the rule"), "{remedy}");
        }
        let (_, remedy) = told(Family::V4, WaysOut::NoDefault).unwrap();
        assert!(remedy.contains("give this machine a default route for IPv4"), "{remedy}");
        let (found, _) = told(Family::V6, WaysOut::Default).unwrap();
        assert_eq!(found, "pool a has no IPv6 address");
    }

    #[test]
    fn unheard_family_is_told() {
        let networks = [vec!["192.0.2.0/30".parse().unwrap()], vec!["2001:db8::/64".parse().unwrap()]];
        let pool = UsedPool { name: "a".into(), networks, clients: [true; 2], takes_ipv6: false };
        let told = |ways| of_pool(&pool, ways);
        let found = told([WaysOut::Default; 2]);
        assert!(found.len() == 1 && found[0].found.contains("does not listen for IPv6"), "{found:?}");
        assert!(found[0].why.contains("refused at once"), "{found:?}");
        let found = told([WaysOut::NoDefault, WaysOut::Default]);
        assert!(found.iter().all(|found| !found.why.contains("refused at once")), "{found:?}");
    }

    #[test]
    fn refusal_needs_a_family_to_fall_back_to() {
        let whys = |v6: &[&str], ways| {
            let v6 = v6.iter().map(|network| network.parse().unwrap()).collect();
            let networks = [vec!["192.0.2.0/30".parse().unwrap()], v6];
            let pool = UsedPool { name: "a".into(), networks, clients: [true; 2], takes_ipv6: true };
            of_pool(&pool, ways).iter().map(|finding| finding.why).collect::<Vec<_>>()
        };
        let (both, none) = (["2001:db8::/64"], WaysOut::NoDefault);
        assert!(whys(&both, [WaysOut::Default, none])[0].contains("refused at once"));
        assert!(whys(&[], [WaysOut::Default, none])[0].contains("refused at once"));
        for found in [whys(&both, [none, WaysOut::RuledOut]), whys(&[], [none, none])] {
            assert!(found.len() == 2 && found.iter().all(|why| why.contains("are accepted")), "{found:?}");
        }
    }

    #[test]
    fn some_addresses_without_way_are_told() {
        let sources = [1, 2, 3].map(|host| IpAddr::from([192, 0, 2, host]));
        let told = |ruled: IpAddr| {
            let way = |source| if source == ruled { WaysOut::RuledOut } else { WaysOut::Default };
            partly_ruled_out("a", Family::V4, &sources, way).map(|finding| finding.found)
        };
        let found = told(sources[1]).unwrap();
        assert!(found.contains("1 of 3 addresses of pool a") && found.contains("192.0.2.2"), "{found}");
        assert_eq!(told([192, 0, 2, 9].into()), None);
    }

    #[test]
    fn addresses_are_spread_over_networks() {
        let shown = |networks: &[&str]| -> Vec<String> {
            let networks: Vec<_> = networks.iter().map(|network| network.parse().unwrap()).collect();
            spread(&networks).iter().map(ToString::to_string).collect()
        };
        assert_eq!(shown(&["192.0.2.0/31", "203.0.113.7/32"]), ["192.0.2.0", "203.0.113.7", "192.0.2.1"]);
        let wide = shown(&["10.0.0.0/8"]);
        assert_eq!((wide.len(), &*wide[1], &*wide[15]), (SOURCES, "10.16.0.0", "10.240.0.0"));
        assert_eq!(shown(&["2001:db8::/64"])[15], "2001:db8:0:0:f000::");
        let many: Vec<_> = (0..40).map(|n| format!("10.{n}.0.0/16")).collect();
        let some = shown(&many.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!((some.len(), &*some[13]), (14, "10.39.0.0"));
        assert_eq!(shown(&[]), Vec::<String>::new());
    }
}
