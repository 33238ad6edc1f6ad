//! Addresses that a rule by name alone may lead to.
//!
//! Ranges that are private everywhere are in `address_class`. An operator's own hosts may have global addresses, in IPv6 and in
//! IPv4: those networks are private because of the place where they are configured.

use super::address_class::{self, AddressClass};
use super::networks::NetworkMap;
use super::{PrivateDestinations, TenantSpec};
use arc_swap::ArcSwap;
use ipnet::IpNet;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Shortest prefix of a network that counts as somebody's own. `0.0.0.0/0` as a tenant's source or `2000::/3` as the
/// route of a tunnel is not.
const WIDEST_V4: u8 = 8;
const WIDEST_V6: u8 = 16;

/// Private networks beside the ranges that are private everywhere.
#[derive(Debug, Clone, Default)]
pub struct PrivateNetworks {
    /// The setting for rules by name that lead to private addresses.
    pub destinations: PrivateDestinations,
    /// `[policy] private_networks`.
    pub listed: Vec<IpNet>,
    /// Public addresses that pool addresses are mapped to.
    pub public: Vec<IpAddr>,
    /// Networks of the machine's own links, except that of the default route's router.
    pub connected: Arc<ConnectedNetworks>,
}

impl From<PrivateDestinations> for PrivateNetworks {
    fn from(destinations: PrivateDestinations) -> Self {
        Self { destinations, ..Self::default() }
    }
}

impl PrivateNetworks {
    /// With the source networks of these tenants, for a policy that is compiled without them.
    #[must_use]
    pub fn and_sources_of(mut self, tenants: &[TenantSpec]) -> Self {
        self.listed.extend(tenants.iter().flat_map(|tenant| &tenant.sources).copied().filter(is_specific));
        self
    }
}

/// The networks of the machine's own links at present; shared by every policy of the gateway.
#[derive(Debug, Default)]
pub struct ConnectedNetworks {
    networks: ArcSwap<NetworkMap<IpNet>>,
    /// Next hops of the default routes, the last ones of each family.
    routers: Mutex<Vec<IpAddr>>,
}

impl ConnectedNetworks {
    /// Replaces them after a change of routes. `routers`: next hops of default routes, whose networks belong to the provider
    /// and are left out. While a family has no default route, the last one counts: its network is not the operator's own
    /// because a route is lost.
    pub fn replace(&self, networks: impl IntoIterator<Item = IpNet>, routers: &[IpAddr]) {
        let mut known = self.routers.lock().unwrap_or_else(PoisonError::into_inner);
        let has = |family: IpAddr| routers.iter().any(|router| router.is_ipv4() == family.is_ipv4());
        known.retain(|router| !has(*router));
        known.extend(routers);
        let is_providers = |network: &IpNet| known.iter().any(|router| network.contains(router));
        let mut map = NetworkMap::default();
        for network in networks.into_iter().filter(is_specific).filter(|network| !is_providers(network)) {
            map.insert(network, network);
        }
        self.networks.store(Arc::new(map));
    }
}

/// The reason why a public address counts as private.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressOwner {
    /// It is in a source network of a tenant.
    Tenant(Arc<str>, IpNet),
    /// It is in `[policy] private_networks`.
    Listed(IpNet),
    /// It is the public address of a pool.
    PoolPublic(IpNet),
    /// It is on one of the gateway's links.
    Connected(IpNet),
}

impl fmt::Display for AddressOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant(name, network) => write!(f, "in {network}, a source network of tenant {name}"),
            Self::Listed(network) => write!(f, "in {network}, which `[policy] private_networks` lists"),
            Self::PoolPublic(network) => write!(f, "{}, the public address of a pool", network.addr()),
            Self::Connected(network) => {
                write!(f, "in {network}, a network of one of the gateway's own links")
            }
        }
    }
}

/// The addresses that rules by name may lead to.
#[derive(Debug)]
pub(super) struct NameReach {
    destinations: PrivateDestinations,
    owned: NetworkMap<AddressOwner>,
    connected: Arc<ConnectedNetworks>,
}

impl NameReach {
    pub(super) fn new(private: &PrivateNetworks, tenants: &[TenantSpec]) -> Self {
        let mut owned = NetworkMap::default();
        for &network in &private.listed {
            owned.insert(network, AddressOwner::Listed(network));
        }
        for &address in &private.public {
            owned.insert(address.into(), AddressOwner::PoolPublic(address.into()));
        }
        for tenant in tenants {
            for &network in tenant.sources.iter().filter(|network| is_specific(network)) {
                owned.insert(network, AddressOwner::Tenant(Arc::clone(&tenant.name), network));
            }
        }
        Self { destinations: private.destinations, owned, connected: Arc::clone(&private.connected) }
    }

    /// True if a rule by name alone may lead to a canonical address.
    pub(super) fn by_name(&self, address: IpAddr) -> bool {
        match address_class::of(address) {
            AddressClass::Never => false,
            AddressClass::Private => self.destinations == PrivateDestinations::Allow,
            AddressClass::Public => {
                self.destinations == PrivateDestinations::Allow || self.owner(address).is_none()
            }
        }
    }

    /// The owner of a public address, or of an IPv4 address embedded in it; `None` if it is not known to be the
    /// operator's.
    pub(super) fn owner(&self, address: IpAddr) -> Option<AddressOwner> {
        let carried = address_class::carried(address).into_iter().flatten().map(IpAddr::V4);
        std::iter::once(address).chain(carried).find_map(|address| {
            let connected =
                || self.connected.networks.load().longest(address).copied().map(AddressOwner::Connected);
            self.owned.longest(address).cloned().or_else(connected)
        })
    }
}

/// True if the network is small enough to be somebody's own, rather than a part of the internet.
pub fn is_specific(network: &IpNet) -> bool {
    network.prefix_len() >= if matches!(network, IpNet::V4(_)) { WIDEST_V4 } else { WIDEST_V6 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(destinations: PrivateDestinations) -> (NameReach, Arc<ConnectedNetworks>) {
        let mut tenant = TenantSpec::new("beta", "pool");
        tenant.sources = ["2001:db8:b::/64", "198.51.100.0/24", "0.0.0.0/0", "2000::/3"]
            .map(|network| network.parse().unwrap())
            .to_vec();
        let private = PrivateNetworks {
            listed: vec!["2001:db8:aaaa::/48".parse().unwrap()],
            public: vec!["192.0.2.7".parse().unwrap()],
            ..destinations.into()
        };
        (NameReach::new(&private, &[tenant]), private.connected)
    }

    #[test]
    fn listed_networks_are_private() {
        let (reach, connected) = reach(PrivateDestinations::ByCidr);
        connected.replace(["2001:db8:c::/64", "2000::/3", "0.0.0.0/1"].map(|n| n.parse().unwrap()), &[]);
        for (address, why) in [
            ("2001:db8:b::5", Some("a source network of tenant beta")),
            ("198.51.100.5", Some("a source network of tenant beta")),
            ("2001:db8:aaaa:1::5", Some("private_networks")),
            ("192.0.2.7", Some("the public address of a pool")),
            ("2001:db8:c::5", Some("own links")),
            // such IPv4 addresses behind a translator or a tunnel
            ("64:ff9b::198.51.100.5", Some("tenant beta")),
            ("2002:c000:207::1", Some("the public address of a pool")),
            ("192.0.2.8", None),
            ("2001:db8:d::5", None),
            ("203.0.113.9", None),
        ] {
            let ip: IpAddr = address.parse().unwrap();
            let owner = reach.owner(ip).map(|owner| owner.to_string());
            assert_eq!(owner.is_some(), why.is_some(), "{address}: {owner:?}");
            assert!(owner.unwrap_or_default().contains(why.unwrap_or_default()), "{address}");
            assert_eq!(reach.by_name(ip), why.is_none(), "{address}");
        }
        connected.replace([], &[]);
        assert!(reach.by_name("2001:db8:c::5".parse().unwrap()), "the link is gone");
    }

    #[test]
    fn lost_default_route_makes_nothing_private() {
        let (reach, connected) = reach(PrivateDestinations::ByCidr);
        let replaced = |routers: &[&str]| {
            connected.replace(
                ["203.0.113.0/24", "192.0.2.128/25", "2001:db8:c::/64"]
                    .map(|network| network.parse().unwrap()),
                &routers.iter().map(|router| router.parse().unwrap()).collect::<Vec<_>>(),
            );
            ["203.0.113.9", "192.0.2.200", "2001:db8:c::9"]
                .map(|address| reach.by_name(address.parse().unwrap()))
        };
        assert_eq!(replaced(&[]), [false, false, false]);
        assert_eq!(replaced(&["203.0.113.1", "2001:db8:c::1"]), [true, false, true]);
        assert_eq!(replaced(&["2001:db8:c::1"]), [true, false, true]);
        assert_eq!(replaced(&[]), [true, false, true]);
        assert_eq!(replaced(&["192.0.2.129"]), [false, true, true]);
    }

    #[test]
    fn allow_excludes_unreachable_scopes() {
        let (reach, _) = reach(PrivateDestinations::Allow);
        assert!(reach.by_name("2001:db8:b::5".parse().unwrap()));
        assert!(reach.by_name("10.0.0.1".parse().unwrap()));
        assert!(!reach.by_name("169.254.169.254".parse().unwrap()));
    }
}
