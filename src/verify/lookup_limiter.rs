//! Limits on concurrent lookups and probes, by the descriptors that they open, and on their rate.

use super::generation_cache::EntryOwner;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Most concurrent lookups of all tenants together, and probes; fewer where descriptors are few.
pub const AT_ONCE: u32 = 512;
/// Concurrent lookups of one tenant, and probes, so that one that invents names does not block the others.
const OF_ONE: usize = 128;

/// Divisor of the total that gives the part reserved for tenants with few.
const KEPT: u32 = 4;
/// Number below which a tenant has few; less where there are few places, and never less than a name's two families.
const LITTLE: u32 = 8;
const FAMILIES: usize = 2;

/// Descriptors that lookups and probes may have open, those of all verifiers together. Clones share them.
#[derive(Debug, Clone)]
pub struct VerifierCapacity {
    pub(super) lookups: LookupLimiter,
    /// Places for the sockets of lookups, which hold one each while they are open.
    pub(super) sockets: Arc<Semaphore>,
    pub(super) probes: LookupLimiter,
}

impl VerifierCapacity {
    /// Creates it with a number of descriptors for each. One lookup and one probe are always possible.
    pub fn new(lookup_sockets: usize, probes: usize) -> Self {
        Self {
            lookups: LookupLimiter::new(lookup_sockets),
            sockets: Arc::new(Semaphore::new(lookup_sockets.clamp(1, Semaphore::MAX_PERMITS))),
            probes: LookupLimiter::new(probes),
        }
    }
}

/// Semaphore of all tenants. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct LookupLimiter {
    descriptors: Arc<Semaphore>,
    /// All of them.
    most: u32,
    /// Part of them that each lookup takes.
    each: Arc<AtomicU32>,
}

/// Limits of one tenant. Clones share them.
#[derive(Debug, Clone)]
pub struct TenantLookups {
    pub(super) owner: EntryOwner,
    pub(super) lookups: Arc<Semaphore>,
    pub(super) probes: Arc<Semaphore>,
    pub(super) pace: Arc<StartRate>,
}

/// Start of the current second, and the number started in it.
#[derive(Debug, Default)]
pub(super) struct StartRate(Mutex<(Option<Instant>, u32)>);

/// Permit for one lookup.
#[derive(Debug)]
pub(super) struct LookupSlot {
    _of_all: OwnedSemaphorePermit,
    /// `None` for a lookup that no tenant asked for.
    _of_one: Option<OwnedSemaphorePermit>,
}

#[cfg(test)]
impl Default for LookupLimiter {
    fn default() -> Self {
        Self::new(AT_ONCE as usize)
    }
}

impl Default for TenantLookups {
    fn default() -> Self {
        static OWNERS: AtomicU64 = AtomicU64::new(EntryOwner::ALL.0 + 1);
        let owner = EntryOwner(OWNERS.fetch_add(1, Ordering::Relaxed));
        let [lookups, probes] = [(); 2].map(|()| Arc::new(Semaphore::new(OF_ONE)));
        Self { owner, lookups, probes, pace: Arc::default() }
    }
}

impl LookupLimiter {
    fn new(most: usize) -> Self {
        let most = u32::try_from(most).unwrap_or(u32::MAX).max(1);
        Self { descriptors: Arc::new(Semaphore::new(most as usize)), most, each: Arc::default() }.with_each(1)
    }

    /// The same for lookups that open up to this many descriptors each.
    pub(super) fn with_each(&self, each: usize) -> Self {
        let new = Self { each: Arc::default(), ..self.clone() };
        new.set_each(each);
        new
    }

    /// Lookups open up to this many descriptors each from now on.
    pub(super) fn set_each(&self, each: usize) {
        let least = self.most.div_ceil(AT_ONCE);
        let each = u32::try_from(each).unwrap_or(u32::MAX).max(least).min(self.most);
        self.each.store(each, Ordering::Relaxed);
    }

    fn each(&self) -> u32 {
        self.each.load(Ordering::Relaxed)
    }

    /// Number of lookups that there is room for.
    pub(super) fn places(&self) -> usize {
        (self.most / self.each()) as usize
    }

    /// Takes a permit of this limit and of a tenant's, if one is free; the last ones only if the tenant has few.
    pub(super) fn take(&self, of_tenant: &Arc<Semaphore>) -> Option<LookupSlot> {
        let has = OF_ONE - of_tenant.available_permits();
        let each = self.each();
        let (places, free) = (self.most / each, self.descriptors.available_permits() / each as usize);
        let kept = (places / KEPT) as usize;
        let has_few = has < (LITTLE.min(places / LITTLE) as usize).max(FAMILIES);
        if !has_few && (has >= kept || free <= kept) {
            return None;
        }
        let of_one = Arc::clone(of_tenant).try_acquire_owned().ok()?;
        let of_all = Arc::clone(&self.descriptors).try_acquire_many_owned(each).ok()?;
        Some(LookupSlot { _of_all: of_all, _of_one: Some(of_one) })
    }

    /// Waits for a permit that counts for no tenant. `None` only if the semaphore were closed, which nobody does.
    pub(super) async fn wait(&self) -> Option<LookupSlot> {
        let of_all = Arc::clone(&self.descriptors).acquire_many_owned(self.each()).await.ok()?;
        Some(LookupSlot { _of_all: of_all, _of_one: None })
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
        let flood =
            |asker: &TenantLookups| (0..1000).filter_map(|_| places.take(&asker.lookups)).collect::<Vec<_>>();
        let hostile: Vec<_> = (0..10).map(|_| flood(&TenantLookups::default())).collect();
        assert!(hostile.iter().all(|taken| taken.len() >= LITTLE as usize), "each has some");
        assert_eq!(flood(&TenantLookups::default()).len(), LITTLE as usize);
    }

    #[test]
    fn lookups_never_open_more_descriptors() {
        for (most, each, places) in [(1, 6, 1), (5, 6, 1), (131, 6, 21), (512, 1, 512), (100_000, 6, 510)] {
            let lookups = LookupLimiter::new(most).with_each(each);
            assert_eq!(lookups.places(), places, "{most} {each}");
            let all: Vec<_> =
                std::iter::from_fn(|| lookups.take(&TenantLookups::default().lookups)).collect();
            assert_eq!(all.len(), places, "{most} {each}");
            assert!(lookups.descriptors.available_permits() < lookups.each() as usize);
        }
        // The number of servers becomes known later, to all that share the limit.
        let lookups = LookupLimiter::new(480).with_each(48);
        for (each, places) in [(6, 80), (12, 40)] {
            lookups.clone().set_each(each);
            assert_eq!(lookups.places(), places, "{each}");
        }
        for (most, of_one) in [(131, 5), (30, FAMILIES)] {
            let few = LookupLimiter::new(most).with_each(6);
            let busy = TenantLookups::default();
            let taken: Vec<_> = std::iter::from_fn(|| few.take(&busy.lookups)).collect();
            assert_eq!(taken.len(), of_one, "{most}");
        }
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
