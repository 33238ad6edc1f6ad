//! Addresses between which no flow runs: packet rules do not steer such packets, and the gateway refuses what comes all the same.

use crate::sys::addresses::LocalAddresses;
use arc_swap::ArcSwap;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// The reason why packets between two addresses never become a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NeverSteered {
    /// The client's address is the gateway's own or a pool's.
    OwnSource,
    /// The destination is the gateway's own address or a pool's.
    OwnAddress,
    /// The destination is an anycast address of the gateway's links, for which TCP does not listen (`tcp_v6_conn_request()`).
    Anycast,
    /// The destination is a broadcast address.
    Broadcast,
    /// The destination is a multicast address.
    Multicast,
}

impl NeverSteered {
    /// A sentence on the packets, without full stop.
    pub fn text(self) -> &'static str {
        match self {
            Self::OwnSource => {
                "the client's address is the gateway's own or a pool's: what arrives with it is dropped (`own_source`), and the machine's \
                 own connections are not intercepted"
            }
            Self::OwnAddress => {
                "the address is the gateway's own or a pool's: packets to it are not intercepted, and the machine itself answers or refuses"
            }
            Self::Anycast => {
                "the address is an IPv6 anycast address of the gateway's own: the kernel drops TCP to it, and nothing answers there"
            }
            Self::Broadcast => {
                "the address is a broadcast address: packets to it are not intercepted, and nothing answers TCP there"
            }
            Self::Multicast => {
                "the address is a multicast address: packets to it are not intercepted, and nothing answers TCP there"
            }
        }
    }
}

/// Addresses that would loop a flow back into the gateway (its own, its pools', loopback), and those that take no TCP.
#[derive(Debug)]
pub struct UnsteeredAddresses {
    local: ArcSwap<LocalNetworks>,
    pools: Vec<IpNet>,
}

/// Local networks of the machine, and broadcast addresses of its links.
#[derive(Debug)]
struct LocalNetworks {
    local: NetworkSet,
    delivered: NetworkSet,
    anycast: NetworkSet,
    broadcast: NetworkSet,
}

#[derive(Debug, Default)]
struct NetworkSet {
    single: HashSet<IpAddr>,
    wide: Vec<IpNet>,
}

impl NetworkSet {
    fn new(networks: Vec<IpNet>) -> Self {
        let mut set = Self::default();
        for network in networks {
            if network.prefix_len() == network.max_prefix_len() {
                set.single.insert(network.addr());
            } else {
                set.wide.push(network);
            }
        }
        set
    }

    fn contain(&self, address: IpAddr) -> bool {
        self.single.contains(&address) || self.wide.iter().any(|network| network.contains(&address))
    }
}

impl LocalNetworks {
    fn new(LocalAddresses { local, delivered, anycast, broadcast }: LocalAddresses) -> Self {
        let sets = [local, delivered, anycast, broadcast].map(NetworkSet::new);
        let [local, delivered, anycast, broadcast] = sets;
        Self { local, delivered, anycast, broadcast }
    }
}

impl UnsteeredAddresses {
    /// Creates it from the pools' networks, and what is local to the machine now.
    pub fn new(pools: Vec<IpNet>, local: LocalAddresses) -> Self {
        Self { local: ArcSwap::from_pointee(LocalNetworks::new(local)), pools }
    }

    /// Replaces what is local after a change of interfaces or routes.
    pub fn reassign(&self, local: LocalAddresses) {
        self.local.store(Arc::new(LocalNetworks::new(local)));
    }

    /// True if a canonical address would loop a flow back.
    fn is_own(&self, address: IpAddr) -> bool {
        address.is_loopback()
            || address.is_unspecified()
            || self.pools.iter().any(|network| network.contains(&address))
            || self.local.load().local.contain(address)
    }

    /// The reason why no flow comes from a canonical address.
    pub fn never_from(&self, client: IpAddr) -> Option<NeverSteered> {
        (self.is_own(client) || self.leads_back(client)).then_some(NeverSteered::OwnSource)
    }

    /// True if packets to a canonical address are intercepted, though the kernel would deliver to the gateway itself what that sends
    /// there.
    pub fn leads_back(&self, address: IpAddr) -> bool {
        self.local.load().delivered.contain(address)
    }

    /// True if the gateway refuses flows to a canonical address. Where packet rules do not intercept packets to it, none arrive.
    pub fn refuses(&self, address: IpAddr) -> bool {
        self.never_to(address).is_some() || self.leads_back(address)
    }

    /// The reason why packets to a canonical address are not intercepted, by its type as the packet rules have it; the pools'
    /// networks count as well.
    pub fn never_to(&self, address: IpAddr) -> Option<NeverSteered> {
        if self.is_own(address) {
            Some(NeverSteered::OwnAddress)
        } else if address.is_multicast() {
            Some(NeverSteered::Multicast)
        } else if self.local.load().anycast.contain(address) {
            Some(NeverSteered::Anycast)
        } else if is_always_broadcast(address) || self.local.load().broadcast.contain(address) {
            Some(NeverSteered::Broadcast)
        } else {
            None
        }
    }
}

/// True for 255.255.255.255 and 0.0.0.0/8, as in `__inet_dev_addr_type()`.
fn is_always_broadcast(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if address == Ipv4Addr::BROADCAST || address.octets()[0] == 0)
}

#[cfg(test)]
mod tests {
    use super::NeverSteered::{Anycast, Broadcast, Multicast, OwnAddress};
    use super::*;

    fn networks(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|network| network.parse().unwrap()).collect()
    }

    fn local(local: &[&str], broadcast: &[&str]) -> LocalAddresses {
        let (local, broadcast) = (networks(local), networks(broadcast));
        LocalAddresses { local, broadcast, ..LocalAddresses::default() }
    }

    #[test]
    fn own_pool_and_loopback_addresses_are_own() {
        let unsteered = UnsteeredAddresses::new(
            networks(&["203.0.113.16/30"]),
            local(&["10.0.0.1/32", "192.0.2.0/24"], &[]),
        );
        let is_own = |address: &str| unsteered.is_own(address.parse().unwrap());
        assert!(is_own("203.0.113.19") && is_own("10.0.0.1") && is_own("127.9.9.9") && is_own("::1"));
        assert!(is_own("192.0.2.77") && !is_own("203.0.113.20") && !is_own("10.0.0.2"));
        unsteered.reassign(local(&["10.0.0.2/32"], &[]));
        assert!(is_own("10.0.0.2") && !is_own("10.0.0.1") && !is_own("192.0.2.77"));
    }

    #[test]
    fn flows_go_neither_to_broadcast_nor_multicast() {
        let unsteered = UnsteeredAddresses::new(
            networks(&["203.0.113.16/30"]),
            local(&["10.0.0.1/32"], &["10.0.0.255/32"]),
        );
        for (address, never) in [
            ("10.0.0.1", Some(OwnAddress)),
            ("203.0.113.19", Some(OwnAddress)),
            ("0.0.0.0", Some(OwnAddress)),
            ("::", Some(OwnAddress)),
            ("0.1.2.3", Some(Broadcast)),
            ("10.0.0.255", Some(Broadcast)),
            ("255.255.255.255", Some(Broadcast)),
            ("224.0.0.1", Some(Multicast)),
            ("ff02::1", Some(Multicast)),
            ("10.0.1.255", None),
            ("240.0.0.1", None),
            ("2001:db8::1", None),
        ] {
            assert_eq!(unsteered.never_to(address.parse().unwrap()), never, "{address}");
        }
        assert_eq!(unsteered.never_from("10.0.0.1".parse().unwrap()), Some(NeverSteered::OwnSource));
        assert_eq!(unsteered.never_from("10.0.0.255".parse().unwrap()), None);
    }

    #[test]
    fn delivered_networks_are_intercepted_and_refused() {
        let (delivered, anycast) = (networks(&["198.51.100.192/28"]), networks(&["2001:db8:51::/128"]));
        let local = LocalAddresses { delivered, anycast, ..LocalAddresses::default() };
        let unsteered = UnsteeredAddresses::new(Vec::new(), local);
        for (address, never, leads_back) in [
            ("2001:db8:51::", Some(Anycast), false),
            ("2001:db8:51::1", None, false),
            ("198.51.100.200", None, true),
            ("198.51.100.1", None, false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!((unsteered.never_to(address), unsteered.leads_back(address)), (never, leads_back));
            assert_eq!(unsteered.refuses(address), never.is_some() || leads_back, "{address}");
        }
    }
}
