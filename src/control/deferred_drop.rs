//! Deferred drop of snapshots that are no longer in force, until no flow references them.
//!
//! A flow being admitted references its tenant. If its reference were the last, its worker would drop the tenant's
//! names, which takes tens of milliseconds for a million of them and stalls its other flows.

use crate::gateway::{Candidate, Snapshot, TenantRuntime};
use std::sync::Arc;

/// Holds what flows may still reference, and drops it on the caller's thread once none does.
#[derive(Default)]
pub(crate) struct DeferredDrop {
    snapshots: Vec<Arc<Snapshot>>,
    tenants: Vec<Arc<TenantRuntime>>,
    candidates: Vec<Arc<Candidate>>,
}

impl DeferredDrop {
    /// Adds a snapshot to which no new references can arise.
    pub(crate) fn add(&mut self, snapshot: Arc<Snapshot>) {
        self.snapshots.push(snapshot);
        self.sweep();
    }

    /// Adds a candidate; flows evaluated against it still reference it.
    pub(crate) fn add_candidate(&mut self, candidate: Arc<Candidate>) {
        self.candidates.push(candidate);
        self.sweep();
    }

    /// Drops all without other references. Returns true if there were any.
    pub(crate) fn sweep(&mut self) -> bool {
        let before = self.count();
        let mut held = Vec::new();
        for snapshot in std::mem::take(&mut self.snapshots) {
            match Arc::try_unwrap(snapshot) {
                Ok(snapshot) => self.tenants.extend(snapshot.tenants),
                Err(snapshot) => held.push(snapshot),
            }
        }
        self.snapshots = held;
        // One that is released only after this check is dropped by the next sweep.
        self.tenants.retain(|tenant| Arc::strong_count(tenant) > 1);
        self.candidates
            .retain(|candidate| Arc::strong_count(candidate) > 1 || candidate.has_running_lookup());
        self.count() < before
    }

    fn count(&self) -> usize {
        self.snapshots.len() + self.tenants.len() + self.candidates.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Policy, PrivateDestinations};

    #[test]
    fn retired_candidate_lives_while_flows_hold_it() {
        let policy = Policy::compile(&[], PrivateDestinations::ByCidr).unwrap();
        let candidate = Arc::new(Candidate::new(policy, Vec::new()));
        let (flow, seen) = (Arc::clone(&candidate), Arc::downgrade(&candidate));
        let mut retired = DeferredDrop::default();
        retired.add_candidate(candidate);
        assert!(seen.upgrade().is_some());
        drop(flow);
        retired.sweep();
        assert!(seen.upgrade().is_none());
    }
}
