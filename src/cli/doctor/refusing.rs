//! Routes of this machine that refuse packets to servers.

use super::TenantClients;
use crate::cli::findings::CheckFinding;
use crate::cli::mend::Mend;
use crate::family::Family;
use crate::sys::routing;
use ipnet::IpNet;
use std::io;
use std::net::IpAddr;

/// Routes that are named.
const NAMED: usize = 3;

/// Warns of routes that discard, prohibit or refuse what goes to tenants' clients, or to public networks. Other private ones are
/// mostly meant.
pub(super) fn refusing_routes(tenants: &[TenantClients]) -> Vec<CheckFinding> {
    let listed = Family::ALL.map(|family| routing::leading_away(family, routing::MAIN_TABLE));
    let unread = listed.iter().find_map(|listed| listed.as_ref().err()).map(unread);
    let all: Vec<String> = listed.into_iter().flatten().flatten().collect();
    let to_clients =
        |route: &&String| tenants.iter().any(|tenant| refuses_some(route, &all, &tenant.sources));
    let (to_clients, others): (Vec<&String>, Vec<_>) =
        all.iter().filter(|route| refused_network(route).is_some()).partition(to_clients);
    let public: Vec<_> = others.into_iter().filter(|route| refuses(route)).collect();
    let back = warning(&to_clients, "packets to clients", "connections of clients there do not come about");
    let out = warning(&public, "packets", "flows to servers there end as dial_failed");
    back.into_iter().chain(out).chain(unread).collect()
}

fn unread(error: &io::Error) -> CheckFinding {
    CheckFinding::warn(
        "routes",
        format!("the kernel does not list the routes of this machine: {error}"),
        "routes that refuse packets are not told",
        "run egret doctor again",
    )
}

fn warning(routes: &[&String], what: &str, why: &'static str) -> Option<CheckFinding> {
    let named: Vec<_> = routes.iter().take(NAMED).map(|route| route.as_str()).collect();
    let more = routes.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let first = named.first()?;
    Some(CheckFinding::warn(
        "routes",
        format!("routes of this machine refuse {what}: {}{more}", named.join(", ")),
        why,
        Mend::run(format!("ip route del {first}")).and("if it is not meant"),
    ))
}

/// True if a route refuses packets to some of these networks, and no narrower one has a way there: beside a route for a node's whole
/// range Calico has one for each pod.
fn refuses_some(route: &str, all: &[String], networks: &[IpNet]) -> bool {
    let Some(refused) = refused_network(route).filter(|network| network.prefix_len() > 0) else {
        return false;
    };
    let overlap = |one: &IpNet, other: &IpNet| one.contains(other) || other.contains(one);
    networks.iter().filter(|network| overlap(network, &refused)).any(|network| {
        let narrower = if refused.contains(network) { network } else { &refused };
        let leads_there = |way: IpNet| way.prefix_len() > refused.prefix_len() && overlap(&way, narrower);
        !all.iter().filter_map(|route| route.parse().ok()).any(leads_there)
    })
}

/// The route of the main table that refuses packets to an address, as `ip route` names it.
pub(super) fn route_to(address: IpAddr) -> Option<String> {
    let routes = routing::leading_away(Family::of(address), routing::MAIN_TABLE).ok()?;
    narrowest(routes, address)
}

/// The longest match for an address among the routes of one table, if that route refuses packets.
fn narrowest(routes: Vec<String>, address: IpAddr) -> Option<String> {
    let network = |route: &String| route.rsplit(' ').next()?.parse::<IpNet>().ok();
    let covering = routes.into_iter().filter_map(|route| Some((network(&route)?, route)));
    let covering = covering.filter(|(network, _)| network.contains(&address));
    let (_, route) = covering.max_by_key(|(network, _)| network.prefix_len())?;
    refused_network(&route).is_some().then_some(route)
}

/// `route` is as `ip route` names it.
fn refuses(route: &str) -> bool {
    refused_network(route).is_some_and(|network| is_public(&network))
}

/// The network whose packets such a route refuses.
fn refused_network(route: &str) -> Option<IpNet> {
    let (kind, network) = route.split_once(' ')?;
    ["blackhole", "unreachable", "prohibit"].contains(&kind).then(|| network.parse().ok())?
}

/// False for a default route, too, which other findings tell of.
fn is_public(network: &IpNet) -> bool {
    network.prefix_len() > 0
        && match network.addr() {
            IpAddr::V4(address) => {
                let [first, second, ..] = address.octets();
                let is_shared = first == 100 && second & 0xc0 == 64;
                let is_local = address.is_private() || address.is_link_local() || address.is_loopback();
                !(first == 0 || first >= 224 || is_shared || is_local)
            }
            // Of what is global, distributions refuse 6to4's and the 6bone's.
            IpAddr::V6(address) => {
                let first = address.segments()[0];
                first & 0xe000 == 0x2000 && first != 0x2002 && first != 0x3ffe
            }
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrowest_route_decides() {
        let refusing = |routes: &[&str]| {
            let routes = routes.iter().map(|route| (*route).to_owned()).collect();
            narrowest(routes, "192.0.2.7".parse().unwrap())
        };
        let blackhole = "blackhole 192.0.2.0/24";
        assert_eq!(refusing(&["0.0.0.0/0", blackhole, "prohibit 192.0.3.0/24"]).as_deref(), Some(blackhole));
        assert_eq!(refusing(&[blackhole, "192.0.2.7/32"]), None);
        assert_eq!(refusing(&[]), None);
    }

    #[test]
    fn refusing_part_of_a_tenant_counts() {
        let refuses = |route: &str, ways: &[&str]| {
            let all: Vec<_> = ways.iter().chain([&route]).map(|way| (*way).to_owned()).collect();
            refuses_some(route, &all, &["10.0.1.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()])
        };
        let own = &["0.0.0.0/0", "10.0.1.0/24", "fd00:1::/64"][..];
        for (route, ways, counts) in [
            ("blackhole 10.0.1.192/26", own, true),
            ("unreachable fd00:1:0:0:8000::/65", own, true),
            ("prohibit 10.0.1.7/32", own, true),
            ("blackhole 10.0.0.0/8", &["0.0.0.0/0"], true),
            ("blackhole 10.0.0.0/8", own, false),
            ("blackhole 10.0.1.192/26", &["10.0.1.0/24", "10.0.1.200/32"], false),
            ("blackhole 10.0.2.0/24", own, false),
            ("throw 10.0.1.192/26", own, false),
            ("unreachable 0.0.0.0/0", &[], false),
        ] {
            assert_eq!(refuses(route, ways), counts, "{route} {ways:?}");
        }
    }

    #[test]
    fn refusing_routes_to_public_networks_count() {
        for (route, counts) in [
            ("blackhole 93.184.216.0/24", true),
            ("prohibit 2001:db8:51::/48", true),
            ("unreachable 198.51.100.40/32", true),
            ("198.51.100.0/24", false),
            ("throw 198.51.100.0/24", false),
            ("blackhole 10.244.1.0/26", false),
            ("blackhole 100.64.0.0/10", false),
            ("unreachable 0.0.0.0/0", false),
            ("unreachable ::/0", false),
            ("unreachable 2002:a00::/24", false),
            ("blackhole fd00::/8", false),
        ] {
            assert_eq!(refuses(route), counts, "{route}");
        }
    }
}
