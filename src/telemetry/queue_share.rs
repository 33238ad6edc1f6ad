//! Shares of tenants in a bounded queue, so that what one of them has much of does not crowd out the others' records.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// One part in this many of the queue is kept for tenants that have less than their share of it.
const KEPT: usize = 8;
/// Tenants are counted by a hash of their name. Two with the same hash share a share.
const CELLS: usize = 1024;

/// Records that wait, in all and of each tenant.
pub(super) struct QueueShares {
    room: usize,
    waiting: AtomicUsize,
    /// Tenants that have had a record since the start.
    tenants: AtomicUsize,
    cells: Box<[QueueCount]>,
}

#[derive(Default)]
struct QueueCount {
    waiting: AtomicUsize,
    seen: AtomicBool,
}

impl QueueShares {
    /// Of a queue for `room` records.
    pub(super) fn new(room: usize) -> Self {
        let cells = (0..CELLS).map(|_| QueueCount::default()).collect();
        Self { room, waiting: AtomicUsize::new(0), tenants: AtomicUsize::new(0), cells }
    }

    /// Counts a record in; `false` if nearly all of the queue is taken, and the tenant has more of it than each would have if
    /// all had the same. Several threads at once may be let in a little beyond that.
    pub(super) fn enter(&self, tenant: Option<&str>) -> bool {
        let cell = self.cell(tenant);
        if !cell.seen.load(Ordering::Relaxed) && !cell.seen.swap(true, Ordering::Relaxed) {
            self.tenants.fetch_add(1, Ordering::Relaxed);
        }
        let share = (self.room / self.tenants.load(Ordering::Relaxed).max(1)).max(1);
        let waiting = self.waiting.load(Ordering::Relaxed);
        let is_scarce = waiting >= self.room - self.room / KEPT;
        if waiting >= self.room || is_scarce && cell.waiting.load(Ordering::Relaxed) >= share {
            return false;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        cell.waiting.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// A record that was counted in waits no longer.
    pub(super) fn leave(&self, tenant: Option<&str>) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.cell(tenant).waiting.fetch_sub(1, Ordering::Relaxed);
    }

    fn cell(&self, tenant: Option<&str>) -> &QueueCount {
        let mut hasher = DefaultHasher::new();
        tenant.hash(&mut hasher);
        let hash = usize::try_from(hasher.finish() % CELLS as u64).unwrap_or_default();
        &self.cells[hash]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tenant_has_the_whole_queue() {
        let shares = QueueShares::new(16);
        assert!((0..16).all(|_| shares.enter(Some("only"))));
        assert!(!shares.enter(Some("only")));
        shares.leave(Some("only"));
        assert!(shares.enter(Some("only")));
    }

    #[test]
    fn last_eighth_is_for_smaller_tenants() {
        let shares = QueueShares::new(64);
        assert!(shares.enter(Some("good")));
        shares.leave(Some("good"));
        let flood = (0..1000).filter(|_| shares.enter(Some("hostile"))).count();
        assert_eq!(flood, 56);
        assert!((0..8).all(|_| shares.enter(Some("good"))));
        // As the queue is worked off, the flood comes up to the kept part again, and no further.
        for _ in 0..20 {
            shares.leave(Some("hostile"));
        }
        let flood = (0..1000).filter(|_| shares.enter(Some("hostile"))).count();
        assert_eq!(flood, 12);
        for _ in 0..8 {
            shares.leave(Some("good"));
        }
        let flood = (0..1000).filter(|_| shares.enter(None)).count();
        assert_eq!(flood, 64 - 48, "a third has a share of its own");
    }
}
