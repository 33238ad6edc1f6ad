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
mod destination_key;
mod dial;
mod due;
mod forecast;
mod held_queue;
mod hold;
mod hot;
mod hot_pair;
mod lease;
mod lease_error;
mod ledger;
mod lingering;
mod pair_use;
mod pool;
mod port_set;
mod port_space;
mod race;
mod reaper;
mod reconcile;
mod share;
mod share_table;
mod sources;
mod spec;
mod state;
mod visits;

pub use addresses::is_derived;
pub use dial::{DialError, Dialler, FailedDial};
pub use forecast::{Forecaster, HotRow, LevelEvent, UsageLevel};
pub use hold::PortHold;
pub use lease::Lease;
pub use lease_error::LeaseError;
pub use ledger::Ledger;
pub use pair_use::PairUse;
pub use pool::{Pool, PoolUsage, Pools, SourceUsage};
pub use race::race;
pub use reaper::{Reaper, ReaperStop};
pub use reconcile::{Discrepancies, KernelSockets, Reconciler};
pub use share::Share;
pub use spec::{PoolSpec, ShareSpec, SourceSelection};
pub use state::SourceState;
