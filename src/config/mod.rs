//! TOML to a checked configuration.
//!
//! Reading goes in three steps. `catalogue` states every table and key once: name, form, default, meaning; the reader
//! can only ask for keys that are stated there, and docs/config.md is printed from it. `sections` and `tenants` read
//! the tables by it. `whole`, `dead_rules` and `other_protocols` look at what only shows when all files are read. Findings are collected,
//! never thrown: one run shows all of them, with file, line and column.

mod catalogue;
mod dead_rules;
mod diagnostic;
mod ech_names;
mod footprint;
mod host_kind;
mod hosts_file;
mod kinds;
mod load;
mod modes;
mod nearest;
mod network_kinds;
mod other_protocols;
mod outline;
mod public_suffix;
mod reference;
mod sections;
mod shares;
mod source;
mod source_kinds;
mod tenants;
#[cfg(test)]
mod tests;
mod texts;
mod value;
mod version;
mod whole;

pub use diagnostic::{Diagnostic, ReadFile, Report, Severity};
pub use footprint::Footprint;
pub use load::{control_socket, load, load_as, load_texts, policy_files};
pub use outline::Outline;
pub use reference::reference;
pub use texts::Texts;
pub use version::digest_of;

use crate::addr::PortRange;
use crate::egress::PoolSpec;
use crate::interface::Interface;
use crate::policy::{ConnectedNetworks, PrivateDestinations, PrivateNetworks, TenantSpec};
use crate::verify::{Anchors, Roots};
use ipnet::IpNet;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Where the control socket is unless the configuration says otherwise.
pub const ADMIN_SOCKET: &str = "/run/egret/admin.sock";

/// A whole configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The daemon: listeners, workers, time-outs.
    pub gateway: Gateway,
    /// The packet rules that bring traffic to the listener.
    pub steering: Steering,
    /// Bounds on reading what a client wants.
    pub inspect: Inspect,
    /// What rules that go by name may reach.
    pub private_destinations: PrivateDestinations,
    /// Networks with public addresses that are the operator's own.
    pub private_networks: Vec<IpNet>,
    /// Who is asked for the addresses of names.
    pub resolver: Resolver,
    /// Whose word counts for certificates.
    pub roots: Roots,
    /// Whether live flows that it does not allow are reset when it comes into force.
    pub revoke: bool,
    /// Whether a change of the files is a reload.
    pub watch: bool,
    /// Where people who are denied find help; one line.
    pub help: Option<Arc<str>>,
    /// Where the flow log goes.
    pub flow_log: FlowLog,
    /// Where the audit log goes.
    pub audit: AuditTarget,
    /// No two overlap; names are unique.
    pub pools: Vec<PoolSpec>,
    /// Names and source networks are unique; each `pool` is one of `pools`.
    pub tenants: Vec<TenantSpec>,
}

/// `[gateway]`.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// The transparent listener; its address is unspecified: `[::]` for both families, `0.0.0.0` for IPv4 alone.
    pub listen: SocketAddr,
    /// `None`: one per core.
    pub workers: Option<NonZeroUsize>,
    /// `None`: no control socket.
    pub admin: Option<Admin>,
    /// `None`: no metrics listener.
    pub metrics: Option<SocketAddr>,
    /// How long flows may go on after the order to stop. May be zero.
    pub drain: Duration,
    /// From the SYN to the upstream's answer.
    pub connect_timeout: Duration,
    /// `None`: flows without traffic live as long as both ends do.
    pub idle_timeout: Option<Duration>,
    /// How long a flow may be silent after one side has finished.
    pub half_open_timeout: Duration,
    /// Probes on both legs.
    pub keepalive: Keepalive,
    /// `TCP_USER_TIMEOUT` on both legs: how long sent bytes may go unacknowledged. `None`: the kernel's own limits.
    pub user_timeout: Option<Duration>,
    /// Whether both legs keep the traffic class (DSCP) of the client's SYN.
    pub keeps_class: bool,
    /// `None`: as many as the file-descriptor limit allows.
    pub max_flows: Option<u32>,
}

/// `[gateway] admin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Where the socket is; absolute.
    pub path: PathBuf,
    /// The configuration says so; else it is the default, and the gateway does without where it cannot be opened.
    pub wanted: bool,
}

/// TCP keepalive, in the kernel's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe (`TCP_KEEPIDLE`); whole seconds, 1 to 32,767.
    pub idle: Duration,
    /// Between probes (`TCP_KEEPINTVL`); whole seconds, 1 to 32,767.
    pub interval: Duration,
    /// Unanswered probes until the peer counts as gone (`TCP_KEEPCNT`); 1 to 127.
    pub probes: u32,
}

/// `[steering]`.
#[derive(Debug, Clone)]
pub struct Steering {
    /// Where tenants' packets come in. At least one.
    pub interfaces: Vec<Interface>,
    /// Which TCP destination ports are intercepted.
    pub ports: Ports,
    /// What happens to UDP towards the same ports.
    pub udp: Udp,
    /// The firewall mark of intercepted packets; never 0.
    pub mark: u32,
    /// The routing table that delivers marked packets locally; never 0 or 253 to 255.
    pub table: u32,
    /// Whether the running gateway sees to it that all of this is in place.
    pub watch: bool,
    /// The file that it makes to have it put in place again; absolute. `None`: it asks nobody.
    pub repair: Option<PathBuf>,
}

/// Which TCP destination ports are intercepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ports {
    /// Every port.
    All,
    /// These; at least one.
    Listed(Vec<PortRange>),
}

impl Ports {
    /// Whether TCP to this port is intercepted.
    pub fn contain(&self, port: u16) -> bool {
        match self {
            Self::All => true,
            Self::Listed(ranges) => ranges.iter().any(|range| range.contains(port)),
        }
    }
}

/// What happens to UDP towards intercepted ports, above all QUIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Udp {
    /// An ICMP error, so that clients fall back to TCP at once.
    Reject,
    /// Silence.
    Drop,
}

/// `[inspect]`.
#[derive(Debug, Clone, Copy)]
pub struct Inspect {
    /// For the whole inspection of one flow.
    pub deadline: Duration,
    /// Bytes of one ClientHello or HTTP request head, 1 KiB to 256 KiB.
    pub max_hello: usize,
    /// Connections of one tenant in inspection at once.
    pub max_pending: u32,
}

/// `[resolver]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolver {
    /// At most eight. `None`: those of `/etc/resolv.conf`.
    pub servers: Option<Vec<SocketAddr>>,
    /// How long an address counts after its TTL.
    pub grace: Duration,
    /// From which keys on answers must be signed, or provably not; `None`: they need not.
    pub dnssec: Option<Anchors>,
}

/// `[flow_log]`.
#[derive(Debug, Clone)]
pub struct FlowLog {
    /// Where lines go.
    pub target: FlowLogTarget,
    /// Lines waiting to be written before further ones are dropped and counted.
    pub queue: usize,
}

/// Where the flow log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlowLogTarget {
    /// The process's standard output.
    Stdout,
    /// Appended to; the path is absolute.
    File(PathBuf),
    /// Nowhere.
    Off,
}

/// `[audit] path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditTarget {
    /// Beside the gateway's messages.
    Stderr,
    /// Appended to; the path is absolute.
    File(PathBuf),
}

/// A configuration that can be used.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What was read.
    pub config: Config,
    /// What is probably not as it was meant.
    pub warnings: Vec<Diagnostic>,
    /// Every file that it was read from.
    pub files: Vec<ReadFile>,
    /// The files as they were before they were read.
    pub read: Footprint,
    /// What they said.
    pub texts: Texts,
}

impl Config {
    /// Ports that the gateway itself listens on: never to be leased, since a wildcard listener blocks the bind.
    pub fn reserved_ports(&self) -> Vec<u16> {
        std::iter::once(self.gateway.listen.port()).chain(self.gateway.metrics.map(|m| m.port())).collect()
    }

    /// What rules that go by name do not lead to, beside the tenants' sources.
    pub fn private(&self, connected: Arc<ConnectedNetworks>) -> PrivateNetworks {
        PrivateNetworks {
            destinations: self.private_destinations,
            listed: self.private_networks.clone(),
            public: self.pools.iter().flat_map(|pool| pool.public.values().copied()).collect(),
            connected,
        }
    }
}
