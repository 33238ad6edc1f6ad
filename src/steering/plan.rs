//! Everything that steering puts into the kernel.

use super::PortRule;
use crate::addr::PortRange;
use crate::interface::Interface;
use ipnet::IpNet;

/// Everything that steering puts into the kernel.
#[derive(Debug, Clone)]
pub struct SteeringPlan {
    /// The steered interfaces.
    pub interfaces: Vec<Interface>,
    /// The intercepted ports; `None` for every port.
    pub ports: Option<Vec<PortRange>>,
    /// The networks of tenants.
    pub sources: Vec<IpNet>,
    /// The rules that intercept and refuse.
    pub packet_rules: PacketRules,
    /// IPv4 and IPv6.
    pub routing: [Routing; 2],
    /// Ports that the kernel must not choose by itself, merged into `net.ipv4.ip_local_reserved_ports`.
    pub reserved_ports: Vec<PortRange>,
}

/// Packet rules in the input language of the tool that loads them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PacketRules {
    /// For `iptables-restore --noflush` and `ip6tables-restore --noflush`, line for line as `-save` prints them.
    Iptables {
        /// IPv4.
        v4: String,
        /// IPv6.
        v6: String,
    },
    /// For `nft -f`.
    Nftables(String),
}

/// The policy routing of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routing {
    /// `-4` or `-6`, for `ip`.
    pub family: &'static str,
    /// The mark bits of packets that are looked up in `table`.
    pub mark: u32,
    /// The table whose only route delivers everything locally.
    pub table: u32,
    /// The prefix of length 0, in the family's notation.
    pub everything: &'static str,
    /// Networks of the pools, made local so that answers to them are received.
    pub pools: Vec<IpNet>,
    /// Rules that keep intercepted ports from being routed on if packet rules are flushed, in the order to add them in.
    pub port_rules: Vec<PortRule>,
}
