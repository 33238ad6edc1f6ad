//! Source addresses and ports of flows: pools, the port ledger, leases, dialling.
//!
//! docs/ports.md explains how ports are counted, chosen and held. From the outside in: [`Pools`] are those of a
//! configuration, a [`Pool`] chooses the source address, the [`Ledger`] keeps one account per source address for the
//! life of the process, and a [`Lease`] is one port of it.

mod account;
mod addresses;
mod bitmap;
mod book;
mod busiest;
mod dial;
mod due;
mod forecast;
mod hot;
mod lease;
mod ledger;
mod lingering;
mod pool;
mod port_set;
mod port_space;
mod race;
mod reaper;
mod reconcile;
mod rest;
mod resting;
mod share;
mod share_table;
mod sources;
mod state;

pub use addresses::is_derived;
pub use book::PairUse;
pub use dial::{DialError, Dialler};
pub use forecast::{Event, Forecaster, HotRow, Level};
pub use lease::{Lease, LeaseError};
pub use ledger::Ledger;
pub use pool::{Pool, PoolUsage, Pools, SourceUsage};
pub use race::race;
pub use reaper::{Reaper, ReaperStop};
pub use reconcile::{Kernel, Reconciler, Report};
pub use rest::Rest;
pub use share::{Share, ShareSpec};
pub use state::SourceState;

use crate::addr::{PortRange, SourceAddr};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Checked configuration of a pool.
#[derive(Debug, Clone)]
pub struct PoolSpec {
    /// Unique; a metric label.
    pub name: Arc<str>,
    /// Source addresses. Every address of a network counts, the first and last too. No two pools overlap.
    pub addresses: Vec<IpNet>,
    /// Ports that it hands out, except those of the gateway's listeners.
    pub ports: PortRange,
    /// Selection of a flow's source address.
    pub select: Select,
    /// Minimum time that a connected port is held, for packets on the way to the server; at most ten minutes.
    pub rest: Duration,
    /// Addresses that give out no new ports. None of them is in a network whose addresses are derived per client.
    pub drain: Vec<SourceAddr>,
    /// Public address that a source address is mapped to, one to one, on the way out.
    pub public: BTreeMap<SourceAddr, IpAddr>,
    /// Shares of every tenant of the pool, if any has a floor or a ceiling; else empty.
    pub shares: Vec<ShareSpec>,
}

impl PoolSpec {
    /// True if a network of the pool has an address that is not drained.
    pub fn drain_leaves(&self, network: &IpNet) -> bool {
        let drained = self.drain.iter().filter(|address| network.contains(&address.ip())).count();
        let bits = network.max_prefix_len() - network.prefix_len();
        // Nobody lists as many addresses as a derived network has.
        is_derived(network) || drained < 1 << bits
    }
}

/// Selection of a flow's source address. Both spill to the next address when the first is full for a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Select {
    /// Rendezvous hash of the client address: one client keeps one address.
    #[default]
    Paired,
    /// The address with the fewest ports in use towards the destination.
    LeastUsed,
}
