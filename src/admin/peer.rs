//! Peers of the listeners, as their places are shared among them.

use std::net::{IpAddr, Ipv6Addr};

/// Bits of an IPv6 address that tell networks apart; a host chooses the rest as it likes.
const NETWORK: u128 = !0 << 64;

/// A peer: all its connections count together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// An IPv4 address, or the network of an IPv6 address.
    Network(IpAddr),
    /// A local user, if the kernel names it.
    User {
        /// Its number.
        uid: Option<u32>,
        /// True if it may change what the gateway does.
        may_give_orders: bool,
    },
}

impl Peer {
    /// The peer at an address.
    pub(super) fn address(address: IpAddr) -> Self {
        Self::Network(match address.to_canonical() {
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & NETWORK).into(),
            v4 @ IpAddr::V4(_) => v4,
        })
    }

    /// True if its connections come before those of others.
    pub(super) fn may_give_orders(self) -> bool {
        match self {
            Self::Network(_) => false,
            Self::User { may_give_orders, .. } => may_give_orders,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_network_are_one_peer() {
        let peer = |address: &str| Peer::address(address.parse().unwrap());
        assert_eq!(peer("2001:db8:0:1::1"), peer("2001:db8:0:1:ffff::2"));
        assert_ne!(peer("2001:db8:0:1::1"), peer("2001:db8:0:2::1"));
        assert_eq!(peer("::ffff:192.0.2.1"), peer("192.0.2.1"));
        assert_ne!(peer("192.0.2.1"), peer("192.0.2.2"));
    }
}
