//! Networks on this machine's own links, reached without a router.

use super::netlink::{array_at, malformed};
use super::routing::list;
use ipnet::IpNet;
use std::io;
use std::net::IpAddr;

/// `struct rtmsg`
const HEADER: usize = 12;
/// Bound on the networks that are kept. A full internet routing table has a million routes, but few to links.
const MOST: usize = 10_000;
/// Attributes of routes with a next hop; 18 is `RTA_VIA` of linux/rtnetlink.h.
const BY_ROUTER: [u16; 3] = [libc::RTA_GATEWAY, libc::RTA_MULTIPATH, 18];

/// Unicast routes of every table and origin.
#[derive(Debug, Default)]
pub struct ConnectedRoutes {
    /// Destinations of routes without a next hop, except default routes; sorted.
    pub networks: Vec<IpNet>,
    /// Next hops of default routes.
    pub routers: Vec<IpAddr>,
}

/// Lists the routes to this machine's own links, and the default routes.
pub fn routes() -> io::Result<ConnectedRoutes> {
    let ConnectedRoutes { mut networks, mut routers } = ConnectedRoutes::default();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut request = vec![u8::try_from(family).map_err(io::Error::other)?];
        request.resize(HEADER, 0);
        list(libc::RTM_GETROUTE, &request, |body| {
            match route(body)? {
                Some(UnicastRoute::Link(network)) if networks.len() < MOST => networks.push(network),
                Some(UnicastRoute::Default(router)) if routers.len() < MOST => routers.push(router),
                Some(UnicastRoute::Link(_) | UnicastRoute::Default(_)) | None => {}
            }
            Ok(())
        })?;
    }
    networks.sort_unstable();
    networks.dedup();
    Ok(ConnectedRoutes { networks, routers })
}

#[derive(Debug, PartialEq, Eq)]
enum UnicastRoute {
    /// A network on a link.
    Link(IpNet),
    /// The default route, by this router.
    Default(IpAddr),
}

fn route(body: &[u8]) -> io::Result<Option<UnicastRoute>> {
    let header: [u8; HEADER] = array_at(body, 0).ok_or_else(malformed)?;
    let (length, kind) = (header[1], header[7]);
    if kind != libc::RTN_UNICAST {
        return Ok(None);
    }
    let (mut rest, mut to, mut router, mut by_router) = (&body[HEADER..], None, None, false);
    while let (Some(size), Some(kind)) = (array_at(rest, 0), array_at(rest, 2)) {
        let (size, kind) = (usize::from(u16::from_ne_bytes(size)), u16::from_ne_bytes(kind));
        let value = rest.get(4..size).ok_or_else(malformed)?;
        by_router |= BY_ROUTER.contains(&kind);
        match kind {
            libc::RTA_DST => to = address(value),
            libc::RTA_GATEWAY => router = address(value),
            _ => {}
        }
        rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
    }
    if length == 0 {
        return Ok(router.map(UnicastRoute::Default));
    }
    if by_router {
        return Ok(None);
    }
    let network = IpNet::new(to.ok_or_else(malformed)?, length).map_err(io::Error::other)?;
    Ok(Some(UnicastRoute::Link(network)))
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
    use super::*;

    fn message(length: u8, kind: u8, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut route = vec![2, length, 0, 0, 254, 2, 0, kind, 0, 0, 0, 0];
        for (kind, value) in attributes {
            route.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
            route.extend(kind.to_ne_bytes());
            route.extend(*value);
            route.resize(route.len().next_multiple_of(4), 0);
        }
        route
    }

    #[test]
    fn link_routes_are_distinguished() {
        let (to, oif) = ((libc::RTA_DST, &[192, 0, 2, 0][..]), (libc::RTA_OIF, &[3, 0, 0, 0][..]));
        let (router, unicast) = (&[198, 51, 100, 1][..], libc::RTN_UNICAST);
        let told = |message: &[u8]| route(message).unwrap();
        let network = UnicastRoute::Link("192.0.2.0/24".parse().unwrap());
        assert_eq!(told(&message(24, unicast, &[to, oif])), Some(network));
        for by_router in BY_ROUTER {
            assert_eq!(told(&message(24, unicast, &[to, (by_router, router), oif])), None);
        }
        assert_eq!(told(&message(24, libc::RTN_LOCAL, &[to, oif])), None);
        assert_eq!(told(&message(0, unicast, &[oif])), None, "a default route to a link");
        let default = UnicastRoute::Default("198.51.100.1".parse().unwrap());
        assert_eq!(told(&message(0, unicast, &[(libc::RTA_GATEWAY, router), oif])), Some(default));
        assert!(route(&message(24, unicast, &[oif])).is_err());
        let cut = message(24, unicast, &[to, oif]);
        for length in 0..cut.len() {
            let _ = route(&cut[..length]); // and never reads past its end
        }
    }

    #[test]
    fn kernel_lists_its_links() {
        let found = routes().unwrap();
        assert!(found.networks.iter().all(|network| network.prefix_len() > 0), "{found:?}");
    }
}
