//! Checked configuration of pools.

use super::addresses::is_derived;
use crate::addr::{PortRange, SourceAddr};
use ipnet::IpNet;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Checked configuration of a pool.
#[derive(Debug, Clone, Serialize)]
pub struct PoolSpec {
    /// Unique; a metric label.
    pub name: Arc<str>,
    /// Source addresses. Every address of a network counts, the first and last too. No two pools overlap.
    pub addresses: Vec<IpNet>,
    /// Ports that it hands out, except those of the gateway's listeners.
    pub ports: PortRange,
    /// Selection of a flow's source address.
    pub select: SourceSelection,
    /// Minimum time that a connected port is held, for packets on the way to the server; at most ten minutes.
    pub rest: Duration,
    /// Addresses that give out no new ports, ascending. None of them is in a network whose addresses are derived per client.
    pub drain: Vec<SourceAddr>,
    /// Public address that a source address is mapped to, one to one, on the way out.
    pub public: BTreeMap<SourceAddr, IpAddr>,
    /// Shares of every tenant of the pool, if any has a floor or a ceiling; else empty.
    pub shares: Vec<ShareSpec>,
}

impl PoolSpec {
    /// True if a network of the pool has an address that is not drained.
    pub fn drain_leaves(&self, network: &IpNet) -> bool {
        let first = self.drain.partition_point(|address| address.ip() < network.network());
        let behind = self.drain.partition_point(|address| address.ip() <= network.broadcast());
        let drained = behind - first;
        let bits = network.max_prefix_len() - network.prefix_len();
        // Nobody lists as many addresses as a derived network has.
        is_derived(network) || drained < 1 << bits
    }
}

/// Selection of a flow's source address. Both spill to the next address when the first is full for a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub enum SourceSelection {
    /// Rendezvous hash of the client address: one client keeps one address.
    #[default]
    Paired,
    /// The address with the fewest ports in use towards the destination.
    LeastUsed,
}

/// Guaranteed and maximum ports of a tenant in its pool, towards each destination, over all source addresses.
#[derive(Debug, Clone, Serialize)]
pub struct ShareSpec {
    /// The tenant's name.
    pub tenant: Arc<str>,
    /// Ports guaranteed to it. 0: none.
    pub floor: u32,
    /// Maximum number of ports, live and held; at least the floor. `None`: no limit.
    pub ceiling: Option<u32>,
}
