//! Key of a destination in the tables of ports.

use crate::addr::DialAddr;
use crate::transport::Transport;
use std::net::{IpAddr, Ipv6Addr};

/// A destination as an 18-byte key that hashes in one go; a [`DialAddr`] has 20 bytes and two forms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct DestinationKey {
    ip: [u8; 16],
    port: u16,
    transport: Transport,
}

impl From<DialAddr> for DestinationKey {
    fn from(to: DialAddr) -> Self {
        let ip = match to.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Self { ip: ip.octets(), port: to.port(), transport: to.transport() }
    }
}

impl From<DestinationKey> for DialAddr {
    fn from(to: DestinationKey) -> Self {
        Self::new(to.transport, (Ipv6Addr::from(to.ip), to.port).into())
    }
}
