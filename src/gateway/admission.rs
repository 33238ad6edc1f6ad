//! Limits on flows, and the slots that they take.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// One slot in this many is reserved for tenants below their share.
const KEPT: u32 = 8;

/// A limit. A [`Slot`] holds one slot and frees it when dropped.
#[derive(Debug)]
pub struct Limit {
    most: AtomicU32,
    taken: AtomicU32,
}

/// A slot that is taken.
#[derive(Debug)]
pub struct Slot(Arc<Limit>);

impl Limit {
    /// Creates a limit of `most` slots.
    pub fn new(most: u32) -> Arc<Self> {
        Arc::new(Self { most: AtomicU32::new(most), taken: AtomicU32::new(0) })
    }

    /// Changes the limit; slots that are taken stay taken.
    pub fn resize(&self, most: u32) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// Takes a slot, if one is free.
    pub fn enter(self: &Arc<Self>) -> Option<Slot> {
        let most = self.most.load(Ordering::Relaxed);
        let more = |taken| (taken < most).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Slot(Arc::clone(self)))
    }

    /// Takes a slot of this limit and of a tenant's. `None` if all are taken, or nearly all and the tenant has its share.
    pub fn enter_with(self: &Arc<Self>, tenant: &Arc<Self>, tenants: usize) -> Option<[Slot; 2]> {
        let slots = [self.enter()?, tenant.enter()?];
        (!self.is_beyond_share(tenant, tenants)).then_some(slots)
    }

    /// True if a flow of a tenant, which already counts in both limits, has to leave: nearly all slots are taken, and
    /// the tenant has more than an equal share of them.
    pub fn is_beyond_share(&self, tenant: &Self, tenants: usize) -> bool {
        let most = self.most.load(Ordering::Relaxed);
        let share = (most / u32::try_from(tenants).unwrap_or(u32::MAX).max(1)).max(1);
        self.taken() > most - most / KEPT && tenant.taken() > share
    }

    /// Number of slots taken.
    pub fn taken(&self) -> u32 {
        self.taken.load(Ordering::Relaxed)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_admits_up_to_its_slots() {
        let gate = Limit::new(2);
        let first = gate.enter().unwrap();
        let _second = gate.enter().unwrap();
        assert!(gate.enter().is_none());
        drop(first);
        assert_eq!(gate.taken(), 1);
        assert!(gate.enter().is_some());
        gate.resize(1);
        assert!(gate.enter().is_none());
    }

    #[test]
    fn last_slots_are_for_tenants_below_share() {
        let gateway = Limit::new(16);
        let [hostile, good] = [(); 2].map(|()| Limit::new(u32::MAX));
        let mut passes = Vec::new();
        let mut enter = |tenant: &Arc<Limit>| {
            let slots = gateway.enter_with(tenant, 2);
            let enters = slots.is_some();
            passes.extend(slots);
            enters
        };
        let entered = (0..100).filter(|_| enter(&hostile)).count();
        assert_eq!(entered, 14, "all but the kept ones");
        assert!(enter(&good) && enter(&good));
    }
}
