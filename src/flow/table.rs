//! Table of all flows, and their revocation.
//!
//! Workers insert and remove; the control plane reads and revokes. Entries are behind an Arc: the control plane copies a
//! shard's Arcs under that shard's lock, and looks at each entry's cells without a lock, at the rest under the entry's own.
//! No guard of the map leaves the expression that made it: a second access to the map under a guard could wait for itself.

use super::entry::FlowEntry;
use super::live_flow::{LiveFlow, RevocationReason};
use super::probes::AnnouncedProbes;
use super::record::FlowId;
use super::sinks::{FlowEvent, FlowSink};
use crate::policy::CheckSet;
use dashmap::DashMap;
use hashbrown::DefaultHashBuilder;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::Waker;
use std::time::Duration;

/// Workers seldom contend for one. With a million flows a reader holds a lock for a thousand entries.
const SHARDS: usize = 1024;
/// Flows that are woken at once to be reset; each takes its worker some ten microseconds.
const BATCH: usize = 128;
/// Interval and most polls for the end of a batch, before the next is woken.
const LOOK: Duration = Duration::from_millis(1);
const LOOKS: usize = 20;

/// Table of all flows, from accept to their end.
pub struct FlowTable {
    flows: DashMap<u64, Arc<FlowEntry>, DefaultHashBuilder>,
    /// Number of revocations so far: a flow looks at its entry when this has changed.
    revocations: AtomicU32,
    sinks: Box<[FlowSink]>,
    probes: AnnouncedProbes,
}

impl FlowTable {
    /// Creates an empty table, whose flows' events go to these sinks.
    pub fn new(sinks: Vec<FlowSink>) -> Self {
        let flows =
            DashMap::with_capacity_and_hasher_and_shard_amount(0, DefaultHashBuilder::default(), SHARDS);
        Self {
            flows,
            revocations: AtomicU32::new(0),
            sinks: sinks.into(),
            probes: AnnouncedProbes::default(),
        }
    }

    /// Number of flows.
    pub fn count(&self) -> usize {
        self.flows.len()
    }

    /// The connections that `egret doctor` has announced.
    pub fn probes(&self) -> &AnnouncedProbes {
        &self.probes
    }

    /// The flow of this number in its ID, if it lives.
    pub fn find(&self, number: u64) -> Option<Arc<FlowEntry>> {
        self.flows.get(&number).map(|entry| Arc::clone(&entry))
    }

    /// All flows, in no order. Holds a shard's lock while it copies that shard's pointers, and no lock afterwards.
    pub fn entries(&self) -> Vec<Arc<FlowEntry>> {
        // Sized before: a vector that grew would move its content under a shard's lock.
        let count = self.count();
        let mut entries = Vec::with_capacity(count + count / 8);
        entries.extend(self.flows.iter().map(|entry| Arc::clone(&entry)));
        entries
    }

    pub(super) fn insert(&self, entry: &Arc<FlowEntry>) {
        self.flows.insert(entry.id().number, Arc::clone(entry));
    }

    pub(super) fn remove(&self, id: FlowId) {
        self.flows.remove(&id.number);
    }

    pub(super) fn send(&self, event: FlowEvent<'_>) {
        self.sinks.iter().for_each(|sink| sink(event));
    }

    pub(super) fn revocations(&self) -> u32 {
        self.revocations.load(Ordering::Acquire)
    }

    /// Calls `look` for a copy of every flow that holds a lease, without a lock.
    pub fn each(&self, mut look: impl FnMut(&LiveFlow)) {
        self.entries().iter().filter_map(|entry| entry.live_flow()).for_each(|flow| look(&flow));
    }

    /// The same for those of these flows.
    pub fn each_of(&self, numbers: &[u64], mut look: impl FnMut(&LiveFlow)) {
        self.select(numbers).filter_map(|entry| entry.live_flow()).for_each(|flow| look(&flow));
    }

    /// Revokes every flow that holds a lease and for which there is a reason, and returns their number. Flows that get
    /// a lease meanwhile may be missed.
    ///
    /// Judges without a lock, and wakes flows in batches, so that their workers have time for the others.
    pub fn revoke(&self, why: impl Fn(&LiveFlow) -> Option<RevocationReason>) -> u64 {
        self.revoke_entries(self.entries().into_iter(), why)
    }

    /// The same for these flows.
    pub fn revoke_of(&self, numbers: &[u64], why: impl Fn(&LiveFlow) -> Option<RevocationReason>) -> u64 {
        self.revoke_entries(self.select(numbers), why)
    }

    /// Notes checks that succeeded for these flows.
    pub fn prove(&self, numbers: &[u64], proof: CheckSet) {
        for entry in self.select(numbers) {
            if let Some(listed) = &mut entry.lock().listed {
                listed.proof.address |= proof.address;
                listed.proof.certificate |= proof.certificate;
            }
        }
    }

    /// Those of these flows that still live.
    fn select(&self, numbers: &[u64]) -> impl Iterator<Item = Arc<FlowEntry>> {
        numbers.iter().filter_map(|number| self.find(*number))
    }

    fn revoke_entries(
        &self,
        entries: impl Iterator<Item = Arc<FlowEntry>>,
        why: impl Fn(&LiveFlow) -> Option<RevocationReason>,
    ) -> u64 {
        let mut wakers = Vec::new();
        let mut revoke = |entry: Arc<FlowEntry>| {
            let why = entry.live_flow().and_then(|flow| why(&flow));
            why.map_or(0, |why| entry.revoke(why, &mut wakers))
        };
        let revoked = entries.map(&mut revoke).sum();
        if revoked > 0 {
            self.wake(&wakers);
        }
        revoked
    }

    /// Wakes flows that were revoked, which then look at their entries.
    fn wake(&self, wakers: &[(u64, Waker)]) {
        // A flow that sees the old count has left its waker, or has not looked yet: it is woken, or will look.
        self.revocations.fetch_add(1, Ordering::Release);
        for batch in wakers.chunks(BATCH) {
            for (_, waker) in batch {
                waker.wake_by_ref();
            }
            if wakers.len() > BATCH {
                self.wait_for_end(batch);
            }
        }
    }

    /// Waits until these flows have given up their leases, so that no worker has more than one batch before its other
    /// flows.
    fn wait_for_end(&self, batch: &[(u64, Waker)]) {
        for _ in 0..LOOKS {
            std::thread::sleep(LOOK);
            if batch.iter().all(|(number, _)| self.find(*number).is_none_or(|entry| !entry.is_listed())) {
                return;
            }
        }
    }
}

impl Default for FlowTable {
    /// One without sinks.
    fn default() -> Self {
        Self::new(Vec::new())
    }
}
