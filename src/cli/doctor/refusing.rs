//! Routes of this machine that refuse packets to servers.

use crate::cli::findings::CheckFinding;
use crate::cli::mend::Mend;
use crate::sys::routing::{self, IpFamily};
use ipnet::IpNet;
use std::net::IpAddr;

/// The kernel's `main` table, by which packets of the gateway's own go unless somebody's rule says otherwise.
const MAIN_TABLE: u32 = 254;
/// Routes that are named.
const NAMED: usize = 3;

/// Warns of routes that discard, prohibit or refuse what goes to public networks. Private ones are mostly meant.
pub(super) fn refusing_routes() -> Option<CheckFinding> {
    let routes = IpFamily::ALL.into_iter().flat_map(|family| {
        routing::leading_away(family, MAIN_TABLE)
            .unwrap_or_default()
            .into_iter()
            .filter(|route| refuses(route))
    });
    let routes: Vec<_> = routes.collect();
    let named: Vec<_> = routes.iter().take(NAMED).map(String::as_str).collect();
    let more = routes.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let first = named.first()?;
    Some(CheckFinding::warn(
        "routes",
        format!("routes of this machine refuse packets: {}{more}", named.join(", ")),
        "flows to servers there end as dial_failed",
        Mend::run(format!("ip route del {first}")).and("if it is not meant"),
    ))
}

/// The route of the main table that refuses packets to an address, as `ip route` names it.
pub(super) fn route_to(address: IpAddr) -> Option<String> {
    let routes = routing::leading_away(IpFamily::of(address), MAIN_TABLE).ok()?;
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
