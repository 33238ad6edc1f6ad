//! A newtype for every role of an address, so that two of them cannot be swapped by mistake.
//!
//! One dual-stack listener serves both families, so the kernel returns IPv4 peers as `::ffff:a.b.c.d`. Every
//! constructor here canonicalises such an address to IPv4; nothing above this floor ever sees a mapped one.

use crate::transport::Transport;
use ipnet::IpNet;
use serde::{Serialize, Serializer};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

macro_rules! socket_role {
    ($(#[$doc:meta])* $name:ident, $new:ident $(, $transport:ident)?) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name {
            // As two fields they take 20 bytes; a SocketAddr takes 32. A flow has several.
            ip: IpAddr,
            port: u16,
            $($transport: Transport,)?
        }

        impl $name {
            /// Creates it; an IPv4-mapped IPv6 address becomes IPv4.
            pub fn $new(address: SocketAddr) -> Self {
                Self {
                    ip: address.ip().to_canonical(),
                    port: address.port(),
                    $($transport: Transport::Tcp,)?
                }
            }
            $(
            /// The transport protocol of the port.
            pub fn $transport(self) -> Transport {
                self.$transport
            }
            )?
            /// The plain address and port.
            pub fn socket(self) -> SocketAddr {
                SocketAddr::new(self.ip, self.port)
            }
            /// The address alone.
            pub fn ip(self) -> IpAddr {
                self.ip
            }
            /// The port alone.
            pub fn port(self) -> u16 {
                self.port
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.socket().fmt(f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                self.socket().serialize(serializer)
            }
        }
    };
}

socket_role! {
    /// Client's address: the peer of the accepted socket.
    ClientAddr, new
}
socket_role! {
    /// Address that the client dialled: the local address of the accepted socket under TPROXY.
    OriginalDestination, tcp, transport
}
socket_role! {
    /// Address that Egret dials for the flow.
    DialAddr, tcp, transport
}

impl DialAddr {
    /// Creates it; an IPv4-mapped IPv6 address becomes IPv4.
    pub fn new(transport: Transport, address: SocketAddr) -> Self {
        Self { transport, ..Self::tcp(address) }
    }
    /// The same port at another address.
    #[must_use]
    pub fn at(self, ip: IpAddr) -> Self {
        Self { ip: ip.to_canonical(), ..self }
    }
}

impl From<OriginalDestination> for DialAddr {
    fn from(OriginalDestination { ip, port, transport }: OriginalDestination) -> Self {
        Self { ip, port, transport }
    }
}

impl From<DialAddr> for OriginalDestination {
    fn from(DialAddr { ip, port, transport }: DialAddr) -> Self {
        Self { ip, port, transport }
    }
}
socket_role! {
    /// A leased source address and port, bound before dialling.
    LeasedSource, new
}

/// An address of a pool, without a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct SourceAddr(IpAddr);

impl SourceAddr {
    /// Creates it; an IPv4-mapped IPv6 address becomes IPv4.
    pub fn new(address: IpAddr) -> Self {
        Self(address.to_canonical())
    }
    /// The plain address.
    pub fn ip(self) -> IpAddr {
        self.0
    }
}

impl fmt::Display for SourceAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The spelling of `ip` and `nft`: a single address has no prefix length.
pub fn listed(network: IpNet) -> String {
    if network.prefix_len() == network.max_prefix_len() {
        network.addr().to_string()
    } else {
        network.to_string()
    }
}

/// An inclusive range of TCP ports; `first <= last`, and never port 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// Creates a range; `None` if it is empty or contains port 0.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first != 0 && first <= last).then_some(Self { first, last })
    }
    /// Merges ranges: the same ports in ascending ranges that do not touch.
    pub fn merged(ranges: &[Self]) -> Vec<Self> {
        let mut sorted = ranges.to_vec();
        sorted.sort_unstable_by_key(|range| range.first);
        sorted.dedup_by(|range, before| {
            let touches = range.first <= before.last.saturating_add(1);
            if touches {
                before.last = before.last.max(range.last);
            }
            touches
        });
        sorted
    }
    /// The lowest port.
    pub fn first(self) -> u16 {
        self.first
    }
    /// The highest port.
    pub fn last(self) -> u16 {
        self.last
    }
    /// True if the range contains the port.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
    /// Number of ports in the range, 1 to 65,535.
    pub fn count(self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }
}

/// Serialises as it displays.
impl Serialize for PortRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            return self.first.fmt(f);
        }
        write!(f, "{}-{}", self.first, self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_address_becomes_ipv4() {
        let a = ClientAddr::new("[::ffff:10.0.0.1]:99".parse().unwrap());
        assert_eq!(a.to_string(), "10.0.0.1:99");
        assert_eq!(SourceAddr::new("::ffff:10.0.0.1".parse().unwrap()).to_string(), "10.0.0.1");
    }

    #[test]
    fn port_range_excludes_empty_and_zero() {
        assert_eq!(PortRange::new(0, 5), None);
        assert_eq!(PortRange::new(6, 5), None);
        let all = PortRange::new(1, 65535).unwrap();
        assert_eq!(all.count(), 65535);
        assert!(all.contains(1) && all.contains(65535) && !all.contains(0));
    }

    #[test]
    fn ranges_merge_when_they_touch() {
        let range = |first, last| PortRange::new(first, last).unwrap();
        let ranges = [range(8000, 8010), range(80, 80), range(81, 90), range(8005, 8020), range(1, 65535)];
        assert_eq!(PortRange::merged(&ranges[..4]), [range(80, 90), range(8000, 8020)]);
        assert_eq!(PortRange::merged(&ranges), [range(1, 65535)]);
        assert_eq!(PortRange::merged(&[]), []);
    }
}
