//! Where flows leave from: pools, the port ledger, leases, dialling.

use crate::addr::PortRange;
use ipnet::IpNet;
use std::sync::Arc;

/// A pool as the configuration states it, checked.
#[derive(Debug, Clone)]
pub struct PoolSpec {
    /// Unique; a metric label.
    pub name: Arc<str>,
    /// Its source addresses. Every address of a network counts, the first and last too. No two pools overlap.
    pub addresses: Vec<IpNet>,
    /// The ports it hands out; never one that a listener of the gateway holds.
    pub ports: PortRange,
    /// How a flow's source address is chosen.
    pub select: Select,
}

/// How a flow's source address is chosen. Both spill to the next address when the first is full for a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Select {
    /// Rendezvous hash of the client address: one client keeps one address.
    #[default]
    Paired,
    /// The address with the fewest ports in use towards the destination.
    LeastUsed,
}
