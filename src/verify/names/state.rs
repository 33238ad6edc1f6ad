//! State that the clones of a cache share with its lookups.

use super::super::generation_cache::EntryOwner;
use super::super::known::NameAnswer;
use super::super::lookup_limiter::LookupLimiter;
use super::super::shards::{NameKey, NameShards};
use super::super::single_flight::SingleFlight;
use crate::family::Family;
use crate::hostname::Hostname;
use metrics::{Counter, Histogram};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

/// Queries every server for a name's addresses. Answers arrive one by one; a failed server sends none.
pub type QueryServers = Box<dyn Fn(&Hostname, Family) -> mpsc::Receiver<NameAnswer> + Send + Sync>;

/// Metrics of lookups.
pub struct LookupMeters {
    /// Lookups that found addresses.
    pub answered: Counter,
    /// Lookups that found that there are none.
    pub absent: Counter,
    /// Lookups that no server answered.
    pub failed: Counter,
    /// Lookups refused because too many were in progress.
    pub refused: Counter,
    /// Duration of lookups, whatever their result.
    pub duration: Histogram,
}

/// A name, and the tenant that requests it. Tenants do not wait for each other's lookups, and have separate cache
/// entries; names of rules are shared.
pub(super) type LookupKey = (EntryOwner, NameKey);

/// The cache itself, its lookups in progress, and what lookups need.
pub(super) struct NameCacheState {
    pub(super) shards: NameShards,
    pub(super) flights: SingleFlight<LookupKey>,
    pub(super) places: LookupLimiter,
    pub(super) ask: QueryServers,
    pub(super) grace: Duration,
    pub(super) runtime: Handle,
    pub(super) now: fn() -> Instant,
    pub(super) meters: LookupMeters,
}
