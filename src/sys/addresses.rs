//! Addresses of this machine.

use super::routing::{self, IpFamily};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

/// Returns every address assigned to an interface of this network namespace. Addresses that are local by a route alone
/// (AnyIP) are not included.
pub fn assigned() -> io::Result<Vec<IpAddr>> {
    let mut all = Vec::new();
    for interface in nix::ifaddrs::getifaddrs()? {
        let Some(address) = interface.address else { continue };
        if let Some(v4) = address.as_sockaddr_in() {
            all.push(IpAddr::V4(v4.ip()));
        } else if let Some(v6) = address.as_sockaddr_in6() {
            all.push(IpAddr::V6(v6.ip()));
        }
    }
    Ok(all)
}

/// Returns the network of every address assigned to an interface, with the interface's name. An address alone on its network
/// (/32, /128) is left out: it has no neighbours.
pub fn networks() -> io::Result<Vec<(String, IpNet)>> {
    let mut all = Vec::new();
    for interface in nix::ifaddrs::getifaddrs()? {
        let (Some(address), Some(mask)) = (interface.address, interface.netmask) else { continue };
        let network = if let (Some(v4), Some(mask)) = (address.as_sockaddr_in(), mask.as_sockaddr_in()) {
            IpNet::with_netmask(v4.ip().into(), mask.ip().into())
        } else if let (Some(v6), Some(mask)) = (address.as_sockaddr_in6(), mask.as_sockaddr_in6()) {
            IpNet::with_netmask(v6.ip().into(), mask.ip().into())
        } else {
            continue;
        };
        let network = network.map_err(io::Error::other)?.trunc();
        if network.prefix_len() < network.max_prefix_len() {
            all.push((interface.interface_name, network));
        }
    }
    Ok(all)
}

/// Addresses that the kernel does not route to others.
#[derive(Debug, Default)]
pub struct LocalAddresses {
    /// Addresses assigned to interfaces, and networks that routes make local (AnyIP).
    pub local: Vec<IpNet>,
    /// IPv4 networks that are delivered locally too, but are not of the type `local` for packet rules: by local routes of other
    /// tables than `local` (`inet_dev_addr_type()` reads no other).
    pub delivered: Vec<IpNet>,
    /// IPv6 anycast addresses of links (RFC 4291 §2.6.1).
    pub anycast: Vec<IpNet>,
    /// Broadcast addresses of links, which the `local` table lists.
    pub broadcast: Vec<IpNet>,
}

/// Returns all local and broadcast addresses.
pub fn local() -> io::Result<LocalAddresses> {
    let mut found = LocalAddresses {
        local: assigned()?.into_iter().map(IpNet::from).collect(),
        delivered: Vec::new(),
        anycast: routing::anycast_routes()?,
        broadcast: routing::broadcast_routes()?,
    };
    for family in IpFamily::ALL {
        found.local.extend(specific_routes(family, routing::LOCAL_TABLE)?);
        let others = match family {
            IpFamily::V4 => &mut found.delivered,
            IpFamily::V6 => &mut found.local,
        };
        others.extend(other_local_routes(family)?);
    }
    Ok(found)
}

/// Most local routes of other tables that the kernel is asked about; more count without.
const ASKED: usize = 1000;

/// Lists local routes of the tables that rules of policy routing name beside `local`, as far as packets of this machine without a
/// mark meet them: the one that delivers marked packets locally makes no address local.
fn other_local_routes(family: IpFamily) -> io::Result<Vec<IpNet>> {
    // Without support for rules there is `main` alone.
    let rules = routing::rules(family).unwrap_or_default();
    let tables: BTreeSet<u32> = rules.iter().map(|rule| rule.table).chain([MAIN_TABLE]).collect();
    let mut found = Vec::new();
    for table in tables.into_iter().filter(|table| ![0, routing::LOCAL_TABLE].contains(table)) {
        found.extend(specific_routes(family, table)?);
    }
    let unasked = found.split_off(found.len().min(ASKED));
    found.retain(|network| routing::is_local(network.addr()).unwrap_or(true));
    found.extend(unasked);
    Ok(found)
}

/// Lists the local routes of a table. A default route means nothing here.
fn specific_routes(family: IpFamily, table: u32) -> io::Result<impl Iterator<Item = IpNet>> {
    let routes = routing::local_routes(family, table)?;
    Ok(routes.into_iter().filter(|network| network.prefix_len() > 0))
}

/// The kernel's `main` table.
const MAIN_TABLE: u32 = 254;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_assigned() {
        let all = assigned().unwrap();
        assert!(all.contains(&"127.0.0.1".parse().unwrap()), "{all:?}");
        assert!(!all.contains(&"192.0.2.77".parse().unwrap()), "{all:?}");
        let networks = networks().unwrap();
        assert!(networks.contains(&("lo".to_owned(), "127.0.0.0/8".parse().unwrap())), "{networks:?}");
    }

    #[test]
    fn loopback_is_local_as_a_network() {
        let LocalAddresses { local: all, broadcast, .. } = local().unwrap();
        for network in ["127.0.0.0/8", "127.0.0.1/32"] {
            assert!(all.contains(&network.parse().unwrap()), "{all:?}");
        }
        assert!(all.iter().all(|network| network.prefix_len() > 0), "{all:?}");
        assert!(broadcast.contains(&"127.255.255.255/32".parse().unwrap()), "{broadcast:?}");
    }
}
