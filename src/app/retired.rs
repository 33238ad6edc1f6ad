//! Snapshots that are out of force, until no flow holds anything of them.
//!
//! A flow that is being admitted holds its tenant. If it were the last to do so, its worker would drop the tenant's names,
//! and a million of them take tens of milliseconds, during which its other flows would stand still.

use crate::gateway::{Candidate, Snapshot, Tenant};
use std::sync::Arc;

/// Keeps what flows may still hold, and drops it on the caller's thread once none does.
#[derive(Default)]
pub(super) struct Retired {
    snapshots: Vec<Arc<Snapshot>>,
    tenants: Vec<Arc<Tenant>>,
    candidates: Vec<Arc<Candidate>>,
}

impl Retired {
    /// Nobody can come to hold it any more.
    pub(super) fn add(&mut self, snapshot: Arc<Snapshot>) {
        self.snapshots.push(snapshot);
        self.sweep();
    }

    /// As with a snapshot: flows that it is judged on hold it.
    pub(super) fn add_candidate(&mut self, candidate: Arc<Candidate>) {
        self.candidates.push(candidate);
        self.sweep();
    }

    /// Drops what nobody holds, and says whether there was anything.
    pub(super) fn sweep(&mut self) -> bool {
        let before = self.count();
        let mut held = Vec::new();
        for snapshot in std::mem::take(&mut self.snapshots) {
            match Arc::try_unwrap(snapshot) {
                Ok(snapshot) => self.tenants.extend(snapshot.tenants),
                Err(snapshot) => held.push(snapshot),
            }
        }
        self.snapshots = held;
        // Of one that is kept all the same because somebody has just let go, the next sweep is rid.
        self.tenants.retain(|tenant| Arc::strong_count(tenant) > 1);
        self.candidates.retain(|candidate| Arc::strong_count(candidate) > 1 || candidate.is_asking());
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
    fn a_candidate_is_kept_for_as_long_as_a_flow_has_it() {
        let policy = Policy::compile(&[], PrivateDestinations::ByCidr).unwrap();
        let candidate = Arc::new(Candidate::new(policy, Vec::new()));
        let (flow, seen) = (Arc::clone(&candidate), Arc::downgrade(&candidate));
        let mut retired = Retired::default();
        retired.add_candidate(candidate);
        assert!(seen.upgrade().is_some());
        drop(flow);
        retired.sweep();
        assert!(seen.upgrade().is_none());
    }
}
