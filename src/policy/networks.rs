//! Values by network, both families in one map, IPv4-mapped networks as IPv4.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;
use std::net::IpAddr;

/// Prefix tries over both families.
#[derive(Debug)]
pub(crate) struct NetworkMap<T> {
    v4: PrefixMap<Ipv4Net, T>,
    v6: PrefixMap<Ipv6Net, T>,
}

/// Every IPv4 address, every IPv6 address.
pub(super) const ANYWHERE: [IpNet; 2] = [IpNet::V4(ANY_V4), IpNet::V6(ANY_V6)];
const ANY_V4: Ipv4Net = Ipv4Net::new_assert(std::net::Ipv4Addr::UNSPECIFIED, 0);
const ANY_V6: Ipv6Net = Ipv6Net::new_assert(std::net::Ipv6Addr::UNSPECIFIED, 0);

impl<T> Default for NetworkMap<T> {
    fn default() -> Self {
        Self { v4: PrefixMap::new(), v6: PrefixMap::new() }
    }
}

impl<T> NetworkMap<T> {
    /// Sets the network's value; returns the one before, if any.
    pub(crate) fn insert(&mut self, network: IpNet, value: T) -> Option<T> {
        match canonical(network) {
            IpNet::V4(network) => self.v4.insert(network, value),
            IpNet::V6(network) => self.v6.insert(network, value),
        }
    }

    /// Returns the value of exactly this network, inserted first if it is absent.
    pub(crate) fn or_insert(&mut self, network: IpNet, value: T) -> &mut T {
        match canonical(network) {
            IpNet::V4(network) => self.v4.entry(network).or_insert(value),
            IpNet::V6(network) => self.v6.entry(network).or_insert(value),
        }
    }

    /// Returns the value of the longest network that contains the address.
    pub(crate) fn longest(&self, address: IpAddr) -> Option<&T> {
        match address {
            IpAddr::V4(address) => self.v4.get_lpm(&address.into()).map(|(_, value)| value),
            IpAddr::V6(address) => self.v6.get_lpm(&address.into()).map(|(_, value)| value),
        }
    }

    /// Calls `each` with every value whose network contains the address, shortest network first.
    pub(crate) fn each_covering<'a>(&'a self, address: IpAddr, each: impl FnMut(&'a T)) {
        match address {
            IpAddr::V4(address) => self.v4.cover_values(&address.into()).for_each(each),
            IpAddr::V6(address) => self.v6.cover_values(&address.into()).for_each(each),
        }
    }
}

/// A network of IPv4-mapped addresses is one of IPv4 addresses: flows have canonical addresses, so a deny rule for
/// `::ffff:10.0.0.0/104` would otherwise deny nothing.
pub(super) fn canonical(network: IpNet) -> IpNet {
    if let IpNet::V6(v6) = network
        && let IpAddr::V4(v4) = IpAddr::V6(v6.addr()).to_canonical()
        && let Some(prefix) = v6.prefix_len().checked_sub(96)
        && let Ok(v4) = Ipv4Net::new(v4, prefix)
    {
        return IpNet::V4(v4);
    }
    network
}
