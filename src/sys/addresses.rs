//! Addresses of this machine.

use super::routing::{self, RoutingRule};
use crate::family::Family;
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
    /// Networks that are or may be delivered locally too, but are not of the type `local` for packet rules: by local routes of other
    /// tables than `local`, in IPv4 (`inet_dev_addr_type()` reads no other) and where a rule goes by more than the destination.
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
    for family in Family::ALL {
        found.local.extend(specific_routes(family, routing::LOCAL_TABLE)?);
        let OtherRoutes { met, unclear } = OtherRoutes::list(family)?;
        match family {
            Family::V4 => found.delivered.extend(met),
            Family::V6 => found.local.extend(met),
        }
        found.delivered.extend(unclear);
    }
    Ok(found)
}

/// Most local routes of other tables that the kernel is asked about; more count without.
const ASKED: usize = 1000;

/// Local routes of the tables that rules of policy routing name beside `local`, as far as packets of this machine without a mark may
/// meet them: the one that delivers marked packets locally makes no address local.
struct OtherRoutes {
    /// They are met, whatever the source.
    met: Vec<IpNet>,
    /// They may be met from some source, or to some port.
    unclear: Vec<IpNet>,
}

impl OtherRoutes {
    fn list(family: Family) -> io::Result<Self> {
        let rules = routing::rules(family)?;
        let tables: BTreeSet<u32> =
            rules.iter().map(|rule| rule.table).chain([routing::MAIN_TABLE]).collect();
        let mut found = Self { met: Vec::new(), unclear: Vec::new() };
        for table in tables.into_iter().filter(|table| ![0, routing::LOCAL_TABLE].contains(table)) {
            let is_unclear = rules.iter().any(|rule| rule.table == table && is_for_some_packets(rule));
            let networks = if is_unclear { &mut found.unclear } else { &mut found.met };
            networks.extend(specific_routes(family, table)?);
        }
        let unasked = found.met.split_off(found.met.len().min(ASKED));
        found.met.retain(|network| may_be_met(network, routing::is_local));
        found.met.extend(unasked);
        Ok(found)
    }
}

/// True if a rule may be for packets of a pool by their source or port, which a lookup by the destination alone does not show.
fn is_for_some_packets(rule: &RoutingRule) -> bool {
    let by_source_or_port = rule.source.is_some() || rule.rest != format!("lookup {}", rule.table);
    by_source_or_port && rule.mark.is_none() && rule.interface.as_ref().is_none_or(|name| name == "lo")
}

/// True if the kernel delivers an address of a network here, of those at both ends of each half: narrower routes may lead elsewhere.
/// Also if it cannot be asked.
fn may_be_met(network: &IpNet, is_local: impl Fn(IpAddr) -> io::Result<bool>) -> bool {
    let halves = network.subnets(network.prefix_len() + 1);
    let parts = halves.map_or_else(|_| vec![*network], Iterator::collect);
    let mut some = parts.iter().flat_map(|part| [part.network(), part.broadcast()]);
    some.any(|address| is_local(address).unwrap_or(true))
}

/// Lists the local routes of a table. A default route means nothing here.
fn specific_routes(family: Family, table: u32) -> io::Result<impl Iterator<Item = IpNet>> {
    let routes = routing::local_routes(family, table)?;
    Ok(routes.into_iter().filter(|network| network.prefix_len() > 0))
}

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
    fn rules_of_sources_leave_their_table_unclear() {
        let rule = RoutingRule { table: 100, rest: "lookup 100".into(), ..RoutingRule::default() };
        let source = Some("203.0.113.0/28".parse().unwrap());
        let of_source = RoutingRule { source, ..rule.clone() };
        let of_port = RoutingRule { rest: "dport 443 lookup 100".into(), ..rule.clone() };
        assert!(!is_for_some_packets(&rule));
        for one in [of_source, of_port] {
            let by = |name: &str| RoutingRule { interface: Some(name.to_owned()), ..one.clone() };
            assert!(is_for_some_packets(&one) && is_for_some_packets(&by("lo")), "{one:?}");
            assert!(!is_for_some_packets(&by("eth0")), "{one:?}");
            assert!(!is_for_some_packets(&RoutingRule { mark: Some((1, 1)), ..one }));
        }
    }

    #[test]
    fn network_is_met_beside_narrower_routes() {
        let is_met = |network: &str, elsewhere: &[&str]| {
            let elsewhere: Vec<IpNet> = elsewhere.iter().map(|other| other.parse().unwrap()).collect();
            let leaves = |address| elsewhere.iter().any(|other| other.contains(&address));
            may_be_met(&network.parse().unwrap(), |address| Ok(!leaves(address)))
        };
        assert!(is_met("198.51.100.192/28", &["198.51.100.192/32", "198.51.100.200/29"]));
        assert!(is_met("2001:db8:51::/64", &["2001:db8:51::/128"]));
        assert!(!is_met("198.51.100.192/28", &["0.0.0.0/0"]) && !is_met("192.0.2.7/32", &["192.0.2.7/32"]));
        let unknown = |_| Err(io::ErrorKind::TimedOut.into());
        assert!(may_be_met(&"192.0.2.0/24".parse().unwrap(), unknown));
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
