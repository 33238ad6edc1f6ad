//! A flow's entry in the table.

use super::counters::{MessageCells, MessageCounter};
use super::live_flow::{LiveFlow, RevocationReason};
use super::record::{AddressCheck, CertificateCheck, FlowId, FlowRecord};
use super::state::{FlowState, StateCell};
use crate::addr::{ClientAddr, OriginalDestination};
use crate::clock;
use crate::inspect::Protocol;
use crate::policy::{CheckSet, ClientInspection};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

/// A flow, from accept to its end. Its [`FlowHandle`](super::FlowHandle) alone writes to it, but for what a
/// re-evaluation has found.
///
/// State and counters are cells, read without a lock. All else is behind a lock of the entry's own, which its task takes
/// at the steps of its life and never while it relays messages.
pub struct FlowEntry {
    id: FlowId,
    accepted: Instant,
    state: StateCell,
    is_probe: bool,
    pub(super) counters: MessageCells,
    details: Mutex<FlowDetails>,
}

/// The part of an entry that is behind its lock.
pub(super) struct FlowDetails {
    /// The record so far, without counts and duration.
    pub(super) record: FlowRecord,
    /// See [`LiveFlow::unfollowed`].
    pub(super) unfollowed: bool,
    /// `None` before the flow has a lease, and after.
    pub(super) listed: Option<ListedDetails>,
}

/// Details of a flow that holds a lease, for re-evaluation, beyond its record.
pub(super) struct ListedDetails {
    pub(super) seen: Option<ClientInspection>,
    pub(super) proof: CheckSet,
    pub(super) revocation: Revocation,
}

pub(super) enum Revocation {
    /// None so far, with the waker of the flow's task; without one until it first waits.
    None(Option<Waker>),
    /// The task has to end the flow.
    Revoked(RevocationReason),
}

impl FlowEntry {
    pub(super) fn new(
        id: FlowId,
        client: ClientAddr,
        destination: OriginalDestination,
        is_probe: bool,
    ) -> Self {
        let record = FlowRecord::begin(clock::timestamp(), id, client, destination);
        Self {
            id,
            accepted: clock::now(),
            state: StateCell::new(FlowState::Inspecting),
            is_probe,
            counters: MessageCells::default(),
            details: Mutex::new(FlowDetails { record, unfollowed: false, listed: None }),
        }
    }

    /// Its ID.
    pub fn id(&self) -> FlowId {
        self.id
    }

    /// True if it is a probe of `egret doctor`'s, which is left out of a candidate's figures.
    pub fn is_probe(&self) -> bool {
        self.is_probe
    }

    /// Its state.
    pub fn state(&self) -> FlowState {
        self.state.get()
    }

    pub(super) fn set_state(&self, state: FlowState) {
        self.state.set(state);
    }

    /// Time since accept.
    pub fn age(&self) -> Duration {
        clock::now().saturating_duration_since(self.accepted)
    }

    /// A count so far.
    pub fn count(&self, what: MessageCounter) -> u64 {
        self.counters.get(what)
    }

    /// A copy of the record so far, with counts and age. Its outcome is `internal_error` until it has ended.
    pub fn record(&self) -> FlowRecord {
        let details = self.lock();
        let mut record = details.record.clone();
        if self.state() != FlowState::Closed {
            self.count_into(&mut record);
        }
        record
    }

    /// Writes counts and duration into the record.
    pub(super) fn count_into(&self, record: &mut FlowRecord) {
        let requests = self.count(MessageCounter::Requests);
        record.bytes_up = self.count(MessageCounter::Up);
        record.bytes_down = self.count(MessageCounter::Down);
        record.requests = (requests > 0).then(|| u32::try_from(requests).unwrap_or(u32::MAX));
        record.duration = self.age();
    }

    /// Notes the result of an address check that the flow did not wait for.
    pub fn note_address_check(&self, found: AddressCheck) {
        let mut details = self.lock();
        if self.state() != FlowState::Closed {
            details.record.address_check.get_or_insert(found);
        }
    }

    /// Notes the result of a certificate check that the flow did not wait for.
    pub fn note_certificate_check(&self, found: CertificateCheck) {
        let mut details = self.lock();
        if self.state() != FlowState::Closed {
            details.record.certificate_check = Some(found);
        }
    }

    /// Notes that the client's further requests are not judged any more.
    pub fn unfollow(&self) {
        self.lock().unfollowed = true;
    }

    /// A copy for re-evaluation; `None` if it holds no lease.
    pub fn live_flow(&self) -> Option<LiveFlow> {
        self.lock().live_flow()
    }

    /// True if it holds a lease.
    pub fn is_listed(&self) -> bool {
        self.lock().listed.is_some()
    }

    /// Looks at the record, under the lock, if the flow holds a lease.
    pub(super) fn if_listed(&self, look: impl FnOnce(&FlowRecord)) {
        let details = self.lock();
        if details.listed.is_some() {
            look(&details.record);
        }
    }

    /// Ignores poisoning: the entry is consistent between calls.
    pub(super) fn lock(&self) -> MutexGuard<'_, FlowDetails> {
        self.details.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks a flow as revoked. Returns 1, or 0 if it holds no lease or was marked before.
    pub(super) fn revoke(&self, why: RevocationReason, wakers: &mut Vec<(u64, Waker)>) -> u64 {
        let mut details = self.lock();
        let Some(ListedDetails { revocation, .. }) = &mut details.listed else { return 0 };
        let Revocation::None(waker) = revocation else { return 0 };
        wakers.extend(waker.take().map(|waker| (self.id.number, waker)));
        *revocation = Revocation::Revoked(why);
        1
    }
}

impl fmt::Debug for FlowEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlowEntry")
            .field("id", &self.id)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

impl FlowDetails {
    fn live_flow(&self) -> Option<LiveFlow> {
        let Self { record, unfollowed, listed } = self;
        let ListedDetails { seen, proof, .. } = listed.as_ref()?;
        let dialled = record.dialled?;
        Some(LiveFlow {
            id: record.flow,
            tenant: record.tenant.clone()?,
            client: record.client,
            source: record.source?,
            destination: dialled,
            asked: record.destination,
            seen: seen.clone(),
            canary: record.canary,
            tls: record.protocol == Some(Protocol::Tls),
            unfollowed: *unfollowed,
            proof: *proof,
        })
    }
}

/// The record of an entry, under the entry's lock.
pub struct RecordGuard<'a>(pub(super) MutexGuard<'a, FlowDetails>);

impl Deref for RecordGuard<'_> {
    type Target = FlowRecord;
    fn deref(&self) -> &FlowRecord {
        &self.0.record
    }
}

impl DerefMut for RecordGuard<'_> {
    fn deref_mut(&mut self) -> &mut FlowRecord {
        &mut self.0.record
    }
}
