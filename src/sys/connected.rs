//! Networks on this machine's own links, reached without a router, and the routers to others.

use super::netlink::{array_at, attributes, malformed};
use super::routing::{HEADER, MAIN_TABLE, header, list};
use crate::family::Family;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

/// `RTA_VIA` of linux/rtnetlink.h, a router of the other family: `struct rtvia`, a family and the address.
const VIA: u16 = 18;
/// `struct rtnexthop`, which the attributes of a next hop follow.
const NEXT_HOP: usize = 8;

/// Unicast routes of every origin.
#[derive(Debug, Default)]
pub struct ConnectedRoutes {
    /// Destinations of routes of every table that have no router, except default routes; sorted.
    pub networks: Vec<IpNet>,
    /// Routers of the default routes of `main`, those of the lowest metric in each family. The others may be for some packets alone,
    /// as with a table for each interface.
    pub routers: Vec<IpAddr>,
}

/// Lists the routes to this machine's own links, and the default routes.
pub fn routes() -> io::Result<ConnectedRoutes> {
    let ConnectedRoutes { mut networks, mut routers } = ConnectedRoutes::default();
    for family in Family::ALL {
        let mut best: Option<(u32, Vec<IpAddr>)> = None;
        list(libc::RTM_GETROUTE, &header(family, 0, 0), |body| {
            match route(body)? {
                Some(UnicastRoute::Link(network)) => networks.push(network),
                Some(UnicastRoute::Default { metric, routers }) => match &mut best {
                    // IPv6 lists each router of a route by itself.
                    Some((lowest, known)) if metric == *lowest => known.extend(routers),
                    Some((lowest, _)) if metric > *lowest => {}
                    _ => best = Some((metric, routers)),
                },
                None => {}
            }
            Ok(())
        })?;
        routers.extend(best.into_iter().flat_map(|(_, routers)| routers));
    }
    networks.sort_unstable();
    networks.dedup();
    Ok(ConnectedRoutes { networks, routers })
}

/// Lists the routers of every route of every table.
pub fn next_hops() -> io::Result<BTreeSet<IpAddr>> {
    let mut found = Vec::new();
    for family in Family::ALL {
        list(libc::RTM_GETROUTE, &header(family, 0, 0), |body| {
            by_router(body.get(HEADER..).ok_or_else(malformed)?, &mut found).map(drop)
        })?;
    }
    Ok(found.into_iter().collect())
}

#[derive(Debug, PartialEq, Eq)]
enum UnicastRoute {
    /// A network on a link.
    Link(IpNet),
    /// A default route of `main` by routers.
    Default { metric: u32, routers: Vec<IpAddr> },
}

fn route(body: &[u8]) -> io::Result<Option<UnicastRoute>> {
    let header: [u8; HEADER] = array_at(body, 0).ok_or_else(malformed)?;
    let (length, table, kind) = (header[1], header[4], header[7]);
    if kind != libc::RTN_UNICAST {
        return Ok(None);
    }
    let (mut to, mut metric, mut routers) = (None, 0, Vec::new());
    for (kind, value) in attributes(&body[HEADER..]) {
        match kind {
            libc::RTA_DST => to = address(value),
            libc::RTA_PRIORITY => metric = array_at(value, 0).map_or(0, u32::from_ne_bytes),
            _ => {}
        }
    }
    let by_router = by_router(&body[HEADER..], &mut routers)?;
    if length == 0 {
        let counts = u32::from(table) == MAIN_TABLE && !routers.is_empty();
        return Ok(counts.then_some(UnicastRoute::Default { metric, routers }));
    }
    if by_router {
        return Ok(None);
    }
    let network = IpNet::new(to.ok_or_else(malformed)?, length).map_err(io::Error::other)?;
    Ok(Some(UnicastRoute::Link(network)))
}

/// Adds the routers of a route's attributes. True if it has any.
fn by_router(route: &[u8], routers: &mut Vec<IpAddr>) -> io::Result<bool> {
    let mut found = false;
    for (kind, value) in attributes(route) {
        found |= match kind {
            libc::RTA_MULTIPATH => of_several(value, routers)?,
            _ => next_hop(kind, value, routers),
        };
    }
    Ok(found)
}

/// Adds the routers of a route with several next hops. True if it has any; links alone can be next hops, too.
fn of_several(mut hops: &[u8], routers: &mut Vec<IpAddr>) -> io::Result<bool> {
    let mut by_router = false;
    while let Some(size) = array_at(hops, 0).map(u16::from_ne_bytes).map(usize::from) {
        let hop = hops.get(NEXT_HOP..size).ok_or_else(malformed)?;
        for (kind, value) in attributes(hop) {
            by_router |= next_hop(kind, value, routers);
        }
        hops = hops.get(size.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(by_router)
}

/// Adds the router of an attribute. True if the attribute names one, of whichever family.
fn next_hop(kind: u16, value: &[u8], routers: &mut Vec<IpAddr>) -> bool {
    match kind {
        libc::RTA_GATEWAY => routers.extend(address(value)),
        VIA => routers.extend(value.get(2..).and_then(address)),
        _ => return false,
    }
    true
}

fn address(value: &[u8]) -> Option<IpAddr> {
    if value.len() == 4 {
        array_at::<4>(value, 0).map(IpAddr::from)
    } else {
        array_at::<16>(value, 0).map(IpAddr::from)
    }
}

#[cfg(test)]
mod tests {
    use super::super::netlink::attribute_of;
    use super::*;

    fn message(length: u8, kind: u8, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut route = vec![2, length, 0, 0, 254, 2, 0, kind, 0, 0, 0, 0];
        route.extend(attributes.iter().flat_map(|(kind, value)| attribute_of(*kind, value)));
        route
    }

    /// A next hop of a route with several.
    fn hop(router: Option<[u8; 4]>) -> Vec<u8> {
        let mut hop = vec![0; NEXT_HOP];
        if let Some(router) = router {
            hop.extend(attribute_of(libc::RTA_GATEWAY, &router));
        }
        let size = u16::try_from(hop.len()).unwrap();
        hop[..2].copy_from_slice(&size.to_ne_bytes());
        hop
    }

    #[test]
    fn link_routes_are_distinguished() {
        let (to, oif) = ((libc::RTA_DST, &[192, 0, 2, 0][..]), (libc::RTA_OIF, &[3, 0, 0, 0][..]));
        let (router, unicast) = (&[198, 51, 100, 1][..], libc::RTN_UNICAST);
        let told = |message: &[u8]| route(message).unwrap();
        let network = UnicastRoute::Link("192.0.2.0/24".parse().unwrap());
        assert_eq!(told(&message(24, unicast, &[to, oif])).as_ref(), Some(&network));
        for by_router in [libc::RTA_GATEWAY, VIA] {
            assert_eq!(told(&message(24, unicast, &[to, (by_router, router), oif])), None);
        }
        let by_routers = [hop(Some([198, 51, 100, 1])), hop(Some([198, 51, 100, 2]))].concat();
        assert_eq!(told(&message(24, unicast, &[to, (libc::RTA_MULTIPATH, &by_routers)])), None);
        let by_links = [hop(None), hop(None)].concat();
        assert_eq!(told(&message(24, unicast, &[to, (libc::RTA_MULTIPATH, &by_links)])), Some(network));
        assert_eq!(told(&message(24, libc::RTN_LOCAL, &[to, oif])), None);
        assert!(route(&message(24, unicast, &[oif])).is_err());
        let cut = message(24, unicast, &[to, oif, (libc::RTA_MULTIPATH, &by_routers)]);
        for length in 0..cut.len() {
            let _ = route(&cut[..length]); // and never reads past its end
        }
    }

    #[test]
    fn default_routes_have_all_their_routers() {
        let unicast = libc::RTN_UNICAST;
        let routers = |attributes: &[(u16, &[u8])]| match route(&message(0, unicast, attributes)).unwrap() {
            Some(UnicastRoute::Default { metric, routers }) => {
                (metric, routers.iter().map(ToString::to_string).collect::<Vec<_>>())
            }
            other => panic!("{other:?}"),
        };
        let one = (libc::RTA_GATEWAY, &[198, 51, 100, 1][..]);
        let metric = (libc::RTA_PRIORITY, &100_u32.to_ne_bytes()[..]);
        assert_eq!(routers(&[one, metric]), (100, vec!["198.51.100.1".to_owned()]));
        let several = [hop(Some([198, 51, 100, 1])), hop(Some([198, 51, 100, 2]))].concat();
        let found = routers(&[(libc::RTA_MULTIPATH, &several)]);
        assert_eq!(found, (0, vec!["198.51.100.1".to_owned(), "198.51.100.2".to_owned()]));
        let to_a_link = message(0, unicast, &[(libc::RTA_OIF, &[3, 0, 0, 0])]);
        assert_eq!(route(&to_a_link).unwrap(), None);
        let mut of_another_table = message(0, unicast, &[one]);
        of_another_table[4] = 200;
        assert_eq!(route(&of_another_table).unwrap(), None, "for some packets alone");
    }

    #[test]
    fn routers_of_other_family_are_next_hops() {
        let via: Vec<u8> =
            10_u16.to_ne_bytes().into_iter().chain([0xfe, 0x80]).chain([0; 13]).chain([1]).collect();
        let mut routers = Vec::new();
        assert!(by_router(&attribute_of(VIA, &via), &mut routers).unwrap());
        assert_eq!(routers, ["fe80::1".parse::<IpAddr>().unwrap()]);
        next_hops().unwrap();
    }

    #[test]
    fn kernel_lists_its_links() {
        let found = routes().unwrap();
        assert!(found.networks.iter().all(|network| network.prefix_len() > 0), "{found:?}");
    }
}
