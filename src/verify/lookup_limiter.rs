//! Limits on concurrent lookups, and on their rate.

use super::generation_cache::EntryOwner;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Concurrent lookups of all tenants together.
const ALL: usize = 512;
/// Concurrent lookups of one tenant, so that one that invents names does not block the others.
const OF_ONE: usize = 128;

/// Divisor of the total that gives the part reserved for tenants with few.
const KEPT: u32 = 4;
/// Number below which a tenant has few.
const LITTLE: u32 = 8;

/// Semaphore of all tenants.
#[derive(Debug)]
pub(super) struct LookupLimiter(Arc<Semaphore>);

/// Limits of one tenant. Clones share them.
#[derive(Debug, Clone)]
pub struct TenantLookups {
    pub(super) owner: EntryOwner,
    places: Arc<Semaphore>,
    pub(super) pace: Arc<StartRate>,
}

/// Start of the current second, and the number started in it.
#[derive(Debug, Default)]
pub(super) struct StartRate(Mutex<(Option<Instant>, u32)>);

/// Permit for one lookup.
#[derive(Debug)]
pub(super) struct LookupSlot {
    _of_all: OwnedSemaphorePermit,
    _of_one: OwnedSemaphorePermit,
}

impl Default for LookupLimiter {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ALL)))
    }
}

impl Default for TenantLookups {
    fn default() -> Self {
        static OWNERS: AtomicU64 = AtomicU64::new(EntryOwner::ALL.0 + 1);
        let owner = EntryOwner(OWNERS.fetch_add(1, Ordering::Relaxed));
        Self { owner, places: Arc::new(Semaphore::new(OF_ONE)), pace: Arc::default() }
    }
}

impl LookupLimiter {
    /// Takes a permit, if one is free; the last ones only if the tenant has few.
    pub(super) fn take(&self, asker: &TenantLookups) -> Option<LookupSlot> {
        let has = OF_ONE - asker.places.available_permits();
        if has >= LITTLE as usize && self.0.available_permits() <= ALL / KEPT as usize {
            return None;
        }
        let of_one = Arc::clone(&asker.places).try_acquire_owned().ok()?;
        let of_all = Arc::clone(&self.0).try_acquire_owned().ok()?;
        Some(LookupSlot { _of_all: of_all, _of_one: of_one })
    }
}

impl StartRate {
    /// True if a tenant may start one more, at `most` per second for one tenant and `most_of_all` in total. A tenant
    /// over its limit takes nothing of the total, the last part of which is kept for tenants that have started few.
    pub(super) fn take(&self, asker: &TenantLookups, now: Instant, most: u32, most_of_all: u32) -> bool {
        let own = asker.pace.count(now);
        if own >= most {
            return false;
        }
        let all = self.count(now);
        let kept = most_of_all - most_of_all / KEPT;
        if all >= most_of_all || all >= kept && own >= LITTLE {
            return false;
        }
        asker.pace.begin();
        self.begin();
        true
    }

    /// Number started in the current second; starts a new one when that is over.
    fn count(&self, now: Instant) -> u32 {
        let mut pace = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pace.0.is_none_or(|began| now.duration_since(began) >= Duration::from_secs(1)) {
            *pace = (Some(now), 0);
        }
        pace.1
    }

    fn begin(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1 += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_tenants_leave_slots_for_others() {
        let places = LookupLimiter::default();
        let flood = |asker: &TenantLookups| (0..1000).filter_map(|_| places.take(asker)).collect::<Vec<_>>();
        let hostile: Vec<_> = (0..10).map(|_| flood(&TenantLookups::default())).collect();
        assert!(hostile.iter().all(|taken| taken.len() >= LITTLE as usize), "each has some");
        assert_eq!(flood(&TenantLookups::default()).len(), LITTLE as usize);
    }

    #[test]
    fn hostile_tenants_leave_rate_for_others() {
        let (all, now) = (StartRate::default(), crate::clock::now());
        let begun = |asker: &TenantLookups| (0..1000).filter(|_| all.take(asker, now, 50, 200)).count();
        let of_hostile: usize = (0..5).map(|_| begun(&TenantLookups::default())).sum();
        assert!(of_hostile < 200, "{of_hostile}");
        assert!(begun(&TenantLookups::default()) >= LITTLE as usize);
    }
}
