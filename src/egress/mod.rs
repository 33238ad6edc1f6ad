//! Where flows leave from: pools, the port ledger, leases, dialling.
//!
//! docs/ports.md explains how ports are counted, chosen and rested. From the outside in: [`Pools`] are what a
//! configuration names, a [`Pool`] chooses the source address, the [`Ledger`] keeps one account per source address
//! for as long as the process lives, and a [`Lease`] is one port out of it.

mod account;
mod addresses;
mod bitmap;
mod book;
mod busiest;
mod dial;
mod forecast;
mod hot;
mod lease;
mod ledger;
mod pool;
mod port_set;
mod port_space;
mod rest;
mod resting;
mod sources;

pub use addresses::Family;
pub use book::PairUse;
pub use dial::{DialError, Dialler};
pub use forecast::{Event, Forecaster, HotRow, Level};
pub use lease::{Lease, LeaseError};
pub use ledger::Ledger;
pub use pool::{Pool, PoolUsage, Pools, SourceUsage};
pub use rest::{Rest, UpstreamEnd};

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
