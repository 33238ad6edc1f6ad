//! Parameters of steering.

use crate::addr::PortRange;
use crate::interface::Interface;
use crate::transport::Transport;
use ipnet::IpNet;
use std::net::IpAddr;

/// The parameters of steering, checked.
#[derive(Debug, Clone)]
pub struct SteeringParams {
    /// The interfaces that tenants' packets arrive on; not empty. Traffic of others is not intercepted.
    pub interfaces: Vec<Interface>,
    /// The networks of tenants. Their packets to intercepted ports are not forwarded, whichever interface they arrive on.
    pub sources: Vec<IpNet>,
    /// The transport protocol that is intercepted.
    pub transport: Transport,
    /// Its destination ports that are intercepted.
    pub ports: InterceptedPorts,
    /// The treatment of UDP to the same ports.
    pub udp: UdpTreatment,
    /// The transparent listener's port.
    pub listen_port: u16,
    /// The firewall mark bits of intercepted packets; not 0. Other bits are preserved.
    pub mark: u32,
    /// The routing table that delivers marked packets locally; 1 to 252, or above 255.
    pub table: u32,
    /// The source addresses of every pool, which become local.
    pub pools: Vec<SteeredPool>,
    /// The DNS servers of the configuration, which must stay reachable.
    pub resolvers: Vec<IpAddr>,
    /// The kernel's range of automatically chosen ports (`net.ipv4.ip_local_port_range`) on the gateway.
    pub ephemeral: PortRange,
}

/// Destination ports that are intercepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InterceptedPorts {
    /// Every port.
    All,
    /// The ports in these ranges; not empty.
    List(Vec<PortRange>),
}

impl InterceptedPorts {
    /// The ranges in order, with overlapping and adjacent ones merged, as nft lists them; `None` for every port.
    pub(super) fn ranges(&self) -> Option<Vec<PortRange>> {
        match self {
            Self::All => None,
            Self::List(ranges) => Some(PortRange::merged(ranges)),
        }
    }
}

/// The treatment of UDP to the intercepted ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UdpTreatment {
    /// ICMP port unreachable: QUIC clients fall back to TCP at once.
    #[default]
    Reject,
    /// Silently dropped: QUIC clients fall back after their time-out.
    Drop,
}

/// Source addresses and the ports handed out on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SteeredPool {
    /// The addresses.
    pub network: IpNet,
    /// The ports.
    pub ports: PortRange,
}

/// The prefix of the kernel's log messages about packets that are not intercepted.
pub(super) const LOG_PREFIX: &str = "egret: not intercepted: ";
