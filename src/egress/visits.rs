//! Schedule of the reaper.

use crate::addr::SourceAddr;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Scheduled visits of the reaper to source addresses. Accounts add to it, the reaper takes from it.
#[derive(Debug, Default)]
pub(super) struct ReaperVisits {
    wanted: Mutex<WantedVisits>,
    pub(super) changed: Condvar,
}

#[derive(Debug, Default)]
pub(super) struct WantedVisits {
    pub(super) visits: Vec<(Instant, SourceAddr)>,
    pub(super) closed: bool,
}

impl ReaperVisits {
    /// Schedules a visit to an address.
    pub(super) fn add(&self, at: Instant, source: SourceAddr) {
        self.lock().visits.push((at, source));
        self.changed.notify_one();
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, WantedVisits> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
