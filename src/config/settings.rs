//! A complete, checked configuration.

use crate::addr::PortRange;
use crate::egress::PoolSpec;
use crate::interface::Interface;
use crate::policy::{ConnectedNetworks, PrivateDestinations, PrivateNetworks, TenantSpec};
use crate::verify::{DnssecAnchors, TrustedRoots};
use ipnet::IpNet;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A complete, checked configuration.
#[derive(Debug, Clone, Serialize)]
pub struct Config {
    /// Settings of the daemon: listeners, workers, timeouts.
    pub gateway: GatewaySection,
    /// Packet rules that redirect traffic to the listener.
    pub steering: SteeringSection,
    /// Limits of inspection.
    pub inspect: Inspect,
    /// Private destinations that rules by name may reach.
    pub private_destinations: PrivateDestinations,
    /// Networks with public addresses that belong to the operator.
    pub private_networks: Vec<IpNet>,
    /// DNS servers and their settings.
    pub resolver: Resolver,
    /// Trusted roots of server certificates.
    pub roots: TrustedRoots,
    /// True if a reload resets live flows that the new policy denies.
    pub revoke: bool,
    /// True if a change of the files triggers a reload.
    pub watch: bool,
    /// Help text for denied users; one line.
    pub help: Option<Arc<str>>,
    /// Destination of the flow log.
    pub flow_log: FlowLogSection,
    /// Destination of the audit log.
    pub audit: AuditTarget,
    /// Pools. They do not overlap, and names are unique.
    pub pools: Vec<PoolSpec>,
    /// Tenants. Names and source networks are unique; each `pool` is one of `pools`.
    pub tenants: Vec<TenantSpec>,
    /// Limits of tenants, by name.
    pub limits: BTreeMap<Arc<str>, TenantLimits>,
}

/// Bounds on what a tenant may use. Policy does not know them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct TenantLimits {
    /// Most flows at once.
    pub flows: Option<u32>,
    /// Ports towards each destination that are reserved for it in the pool.
    pub ports_floor: Option<u32>,
    /// Most ports towards each destination; at least the floor.
    pub ports_ceiling: Option<u32>,
}

impl Config {
    /// Ports that the gateway itself listens on. They are never leased, because a wildcard listener blocks the bind.
    pub fn reserved_ports(&self) -> Vec<u16> {
        std::iter::once(self.gateway.listen.port()).chain(self.gateway.metrics.map(|m| m.port())).collect()
    }

    /// Networks that rules by name do not reach, in addition to the tenants' sources.
    pub fn private(&self, connected: Arc<ConnectedNetworks>) -> PrivateNetworks {
        PrivateNetworks {
            destinations: self.private_destinations,
            listed: self.private_networks.clone(),
            public: self.pools.iter().flat_map(|pool| pool.public.values().copied()).collect(),
            connected,
        }
    }
}

/// Section `[gateway]`.
#[derive(Debug, Clone, Serialize)]
pub struct GatewaySection {
    /// Address of the transparent listener, always unspecified: `[::]` for both families, `0.0.0.0` for IPv4 alone.
    pub listen: SocketAddr,
    /// Number of workers. `None`: one per core.
    pub workers: Option<NonZeroUsize>,
    /// Path of the control socket, absolute. `None`: off.
    pub admin: Option<PathBuf>,
    /// Address of the metrics listener. `None`: off.
    pub metrics: Option<SocketAddr>,
    /// Time that flows may go on after a stop is ordered. May be zero.
    pub drain: Duration,
    /// Timeout from the SYN to the upstream's answer.
    pub connect_timeout: Duration,
    /// Timeout of flows without traffic. `None`: none.
    pub idle_timeout: Option<Duration>,
    /// Timeout of a silent flow that is half-closed.
    pub half_open_timeout: Duration,
    /// Probes on both legs.
    pub keepalive: Keepalive,
    /// `TCP_USER_TIMEOUT` on both legs: the time that sent bytes may stay unacknowledged. `None`: the kernel's limits.
    pub user_timeout: Option<Duration>,
    /// True if both legs keep the traffic class (DSCP) of the client's SYN.
    pub keeps_class: bool,
    /// Maximum number of flows. `None`: as many as the file-descriptor limit allows.
    pub max_flows: Option<u32>,
}

/// TCP keepalive, with the kernel's parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Keepalive {
    /// Silence before the first probe (`TCP_KEEPIDLE`); whole seconds, 1 to 32,767.
    pub idle: Duration,
    /// Time between probes (`TCP_KEEPINTVL`); whole seconds, 1 to 32,767.
    pub interval: Duration,
    /// Number of unanswered probes before the peer counts as gone (`TCP_KEEPCNT`); 1 to 127.
    pub probes: u32,
}

/// Section `[steering]`.
#[derive(Debug, Clone, Serialize)]
pub struct SteeringSection {
    /// Interfaces on which tenants' packets arrive. At least one.
    pub interfaces: Vec<Interface>,
    /// Intercepted TCP destination ports.
    pub ports: SteeringPorts,
    /// Treatment of UDP to the same ports.
    pub udp: UdpSetting,
    /// Firewall mark of intercepted packets; never 0.
    pub mark: u32,
    /// Routing table that delivers marked packets locally; never 0 or 253 to 255.
    pub table: u32,
    /// True if the running gateway checks that all of this is in place.
    pub watch: bool,
    /// File that it creates to request a repair; absolute. `None`: no repair.
    pub repair: Option<PathBuf>,
}

/// Intercepted TCP destination ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum SteeringPorts {
    /// Every port.
    All,
    /// The listed ports; at least one.
    Listed(Vec<PortRange>),
}

impl SteeringPorts {
    /// True if TCP to this port is intercepted.
    pub fn contain(&self, port: u16) -> bool {
        match self {
            Self::All => true,
            Self::Listed(ranges) => ranges.iter().any(|range| range.contains(port)),
        }
    }
}

/// Treatment of UDP to intercepted ports, mainly QUIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum UdpSetting {
    /// Rejected with an ICMP error, so that clients fall back to TCP at once.
    Reject,
    /// Dropped silently.
    Drop,
}

/// Section `[inspect]`.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Inspect {
    /// Deadline of the whole inspection of one flow.
    pub deadline: Duration,
    /// Maximum bytes of a ClientHello or HTTP request head, 1 KiB to 256 KiB.
    pub max_hello: usize,
    /// Maximum connections of one tenant in inspection at once.
    pub max_pending: u32,
}

/// Section `[resolver]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Resolver {
    /// DNS servers, at most eight. `None`: those of `/etc/resolv.conf`.
    pub servers: Option<Vec<SocketAddr>>,
    /// Time that an address stays valid after its TTL.
    pub grace: Duration,
    /// DNSSEC trust anchors, from which answers must be signed or provably unsigned; `None`: not required.
    pub dnssec: Option<DnssecAnchors>,
}

/// Section `[flow_log]`.
#[derive(Debug, Clone, Serialize)]
pub struct FlowLogSection {
    /// Destination of the lines.
    pub target: FlowLogTarget,
    /// Maximum queued lines; further ones are dropped and counted.
    pub queue: usize,
}

/// Destination of the flow log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum FlowLogTarget {
    /// The process's standard output.
    Stdout,
    /// A file to append to; the path is absolute.
    File(PathBuf),
    /// Disabled.
    Off,
}

/// Key `path` of `[audit]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum AuditTarget {
    /// Standard error, with the gateway's messages.
    Stderr,
    /// A file to append to; the path is absolute.
    File(PathBuf),
}
