//! Table of the flows that hold a port: tenant, client, source and destination of each; and their revocation.
//!
//! A flow is listed while it has a lease: from when its SYN is sent until its socket is closed. The workers write, the
//! control plane reads and revokes. Entries are behind an Arc: the control plane copies a shard's Arcs under that shard's
//! lock, and looks at each entry under the entry's own. No guard of the map leaves the expression that made it: whoever
//! asked the map again while holding one could wait for itself.

mod pairs;
mod selected;

pub use pairs::{PairFlows, PortHolder, SourceDestination};

use super::record::FlowId;
use crate::addr::{ClientAddr, DialAddr, LeasedSource, OriginalDestination};
use crate::policy::ClientInspection;
use dashmap::DashMap;
use hashbrown::DefaultHashBuilder;
use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Workers seldom contend for one. With a million flows a reader holds a lock for a thousand entries.
const SHARDS: usize = 1024;
/// Flows that are woken at once to be reset; each takes its worker some ten microseconds.
const BATCH: usize = 128;
/// Interval and most polls for the end of a batch, before the next is woken.
const LOOK: Duration = Duration::from_millis(1);
const LOOKS: usize = 20;

/// Table of all flows that hold a lease.
#[derive(Debug)]
pub struct FlowTable {
    flows: DashMap<u64, Arc<FlowEntry>, DefaultHashBuilder>,
    /// Number of revocations so far: a flow looks at its entry when this has changed.
    revocations: AtomicU32,
}

/// A flow that holds a lease.
#[derive(Debug, Clone)]
pub struct LiveFlow {
    /// ID in the flow log.
    pub id: FlowId,
    /// Tenant that it belongs to.
    pub tenant: Arc<str>,
    /// Client's address.
    pub client: ClientAddr,
    /// Source address and port.
    pub source: LeasedSource,
    /// Address dialled.
    pub destination: DialAddr,
    /// Address that its client dialled, if that is another.
    pub asked: Option<Box<OriginalDestination>>,
    /// Result of the inspection; `None` if there was none.
    pub seen: Option<ClientInspection>,
    /// True if a candidate let it out.
    pub canary: bool,
    /// True if its client speaks TLS.
    pub tls: bool,
    /// True if further requests are not judged: HTTP where no name matters, and everything after a denial that monitor
    /// mode waived.
    pub unfollowed: bool,
    /// Checks that succeeded.
    pub proof: CheckSet,
}

/// Checks of a flow beyond its name and address: those that succeeded, or those still missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct CheckSet {
    /// The address dialled is one of its name's.
    pub address: bool,
    /// The server there has a certificate for its name.
    pub certificate: bool,
}

/// Reason why a live flow is reset under another policy than the one that let it out: a few words for the flow log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RevocationReason(pub &'static str);

impl RevocationReason {
    /// The client no longer belongs to its tenant.
    pub(super) const OF_ANOTHER_TENANT: Self = Self("the client is another tenant's now, or nobody's");
}

/// A flow's entry, removed from the table when dropped.
#[derive(Debug)]
pub struct FlowListing<'a> {
    table: &'a FlowTable,
    entry: Arc<FlowEntry>,
    /// [`FlowTable::revocations`] when the flow last looked; `None` if it never did.
    looked: Cell<Option<u32>>,
}

#[derive(Debug)]
struct FlowEntry {
    number: u64,
    inner: Mutex<FlowTableInner>,
}

#[derive(Debug)]
struct FlowTableInner {
    flow: LiveFlow,
    state: EntryState,
}

#[derive(Debug)]
enum EntryState {
    /// Waker of the flow's task; `None` until it first waits.
    Lives(Option<Waker>),
    Revoked(RevocationReason),
    /// It is not in the table any more.
    Ended,
}

impl FlowEntry {
    /// Ignores poisoning: the entry is consistent between calls.
    fn lock(&self) -> MutexGuard<'_, FlowTableInner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flow(&self) -> LiveFlow {
        self.lock().flow.clone()
    }

    /// Marks a flow as revoked. Returns 1, or 0 if it has ended or was marked before.
    fn mark(&self, why: RevocationReason, wakers: &mut Vec<(u64, Waker)>) -> u64 {
        let mut inner = self.lock();
        let EntryState::Lives(waker) = &mut inner.state else { return 0 };
        wakers.extend(waker.take().map(|waker| (self.number, waker)));
        inner.state = EntryState::Revoked(why);
        1
    }
}

impl Default for FlowTable {
    fn default() -> Self {
        let flows =
            DashMap::with_capacity_and_hasher_and_shard_amount(0, DefaultHashBuilder::default(), SHARDS);
        Self { flows, revocations: AtomicU32::new(0) }
    }
}

impl FlowTable {
    /// Lists a flow until the returned entry is dropped.
    pub fn list(&self, flow: LiveFlow) -> FlowListing<'_> {
        let number = flow.id.number;
        let inner = Mutex::new(FlowTableInner { flow, state: EntryState::Lives(None) });
        let entry = Arc::new(FlowEntry { number, inner });
        self.flows.insert(number, Arc::clone(&entry));
        FlowListing { table: self, entry, looked: Cell::new(None) }
    }

    fn find(&self, number: u64) -> Option<Arc<FlowEntry>> {
        self.flows.get(&number).map(|entry| Arc::clone(&entry))
    }

    /// Those that are listed now.
    fn entries(&self) -> Vec<Arc<FlowEntry>> {
        self.flows.iter().map(|entry| Arc::clone(&entry)).collect()
    }

    /// Revokes every flow for which there is a reason, and returns their number. Flows listed meanwhile may be missed.
    ///
    /// Judges without a lock, and wakes flows in batches, so that their workers have time for the others.
    pub fn revoke(&self, why: impl Fn(&LiveFlow) -> Option<RevocationReason>) -> u64 {
        let mut wakers = Vec::new();
        let mark = |entry: Arc<FlowEntry>| why(&entry.flow()).map_or(0, |why| entry.mark(why, &mut wakers));
        let revoked = self.entries().into_iter().map(mark).sum();
        self.wake(&wakers);
        revoked
    }

    /// Calls `look` for a copy of every flow, without a lock.
    pub(super) fn each(&self, mut look: impl FnMut(&LiveFlow)) {
        self.entries().iter().for_each(|entry| look(&entry.flow()));
    }

    /// Notes that the client's further requests are not judged any more.
    pub(super) fn unfollow(&self, number: u64) {
        if let Some(entry) = self.find(number) {
            entry.lock().flow.unfollowed = true;
        }
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

    /// Waits until these flows are gone, so that no worker has more than one batch before its other flows.
    fn wait_for_end(&self, batch: &[(u64, Waker)]) {
        for _ in 0..LOOKS {
            std::thread::sleep(LOOK);
            if batch.iter().all(|(number, _)| !self.flows.contains_key(number)) {
                return;
            }
        }
    }
}

impl FlowListing<'_> {
    /// Runs `life` to completion, unless the flow is revoked before. Costs one atomic load for each poll.
    pub fn unless_revoked<T>(
        &self,
        mut life: Pin<&mut impl Future<Output = T>>,
    ) -> impl Future<Output = Result<T, RevocationReason>> {
        poll_fn(move |cx| match self.poll_revoked(cx) {
            Poll::Ready(why) => Poll::Ready(Err(why)),
            Poll::Pending => life.as_mut().poll(cx).map(Ok),
        })
    }

    fn poll_revoked(&self, cx: &mut Context<'_>) -> Poll<RevocationReason> {
        // Read before the entry: a later revocation changes the count, and wakes the flow.
        let revocations = Some(self.table.revocations.load(Ordering::Acquire));
        if self.looked.replace(revocations) == revocations {
            return Poll::Pending;
        }
        match &mut self.entry.lock().state {
            EntryState::Lives(waker) => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            EntryState::Revoked(why) => Poll::Ready(*why),
            // Unreachable: the entry ends with this.
            EntryState::Ended => Poll::Ready(RevocationReason("it is not listed")),
        }
    }
}

impl Drop for FlowListing<'_> {
    fn drop(&mut self) {
        self.table.flows.remove(&self.entry.number);
        self.entry.lock().state = EntryState::Ended;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hostname::AskedName;

    pub(super) const SERVER: &str = "198.51.100.9:443";

    pub(super) fn flow(
        number: u64,
        tenant: &str,
        client: &str,
        to: &str,
        hostname: Option<&str>,
    ) -> LiveFlow {
        LiveFlow {
            id: FlowId { process: 0, number },
            tenant: tenant.into(),
            client: ClientAddr::new(client.parse().unwrap()),
            source: LeasedSource::new("203.0.113.16:5000".parse().unwrap()),
            destination: DialAddr::new(to.parse().unwrap()),
            asked: None,
            seen: hostname.map(|name| ClientInspection::Asked {
                name: AskedName::from_bytes(name.as_bytes()),
                ech: false,
                unframed: false,
            }),
            canary: false,
            tls: false,
            unfollowed: false,
            proof: CheckSet::default(),
        }
    }

    #[test]
    fn only_revoked_flow_is_woken() {
        struct WakeBatch(AtomicU32);
        impl std::task::Wake for WakeBatch {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let table = FlowTable::default();
        let listed: Vec<_> =
            (0..3).map(|number| table.list(flow(number, "acme", "10.0.1.7:1", SERVER, None))).collect();
        let alarms: Vec<_> = listed.iter().map(|_| Arc::new(WakeBatch(AtomicU32::new(0)))).collect();
        let poll = |n: usize| {
            let waker = Waker::from(Arc::clone(&alarms[n]));
            listed[n].poll_revoked(&mut Context::from_waker(&waker))
        };
        let woken = || alarms.iter().map(|alarm| alarm.0.load(Ordering::Relaxed)).collect::<Vec<_>>();
        // The third has not waited yet.
        assert!(poll(0).is_pending() && poll(1).is_pending());
        let but_the_first =
            |flow: &LiveFlow| (flow.id.number != 0).then_some(RevocationReason("not the first"));
        assert_eq!(table.revoke(|_| None), 0);
        assert_eq!(table.revoke(but_the_first), 2);
        assert_eq!(woken(), [0, 1, 0]);
        let why = Poll::Ready(RevocationReason("not the first"));
        assert_eq!([poll(0), poll(1), poll(2)], [Poll::Pending, why, why]);
        assert_eq!(table.revoke(but_the_first), 0, "each is revoked once");
        // One that has looked is woken all the same the next time.
        assert!(poll(0).is_pending());
        assert_eq!(table.revoke(|_| Some(RevocationReason("all"))), 1);
        assert_eq!(woken(), [1, 1, 0]);
        assert!(poll(0).is_ready());
    }
}
