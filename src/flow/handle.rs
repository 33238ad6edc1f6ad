//! The writer's side of an entry.

use super::counters::MessageCounter;
use super::entry::{FlowEntry, ListedDetails, RecordGuard, Revocation};
use super::listing::FlowListing;
use super::live_flow::passed_checks;
use super::record::FlowId;
use super::sinks::FlowEvent;
use super::state::FlowState;
use super::table::FlowTable;
use crate::addr::{ClientAddr, OriginalDestination};
use crate::outcome::Outcome;
use crate::policy::ClientInspection;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

/// Opens the flows of one worker.
pub struct FlowOpener {
    table: Arc<FlowTable>,
    cut_off: Cell<Outcome>,
}

impl FlowOpener {
    /// Creates one for a worker.
    pub fn new(table: Arc<FlowTable>) -> Rc<Self> {
        Rc::new(Self { table, cut_off: Cell::new(Outcome::InternalError) })
    }

    /// Sets the outcome of flows whose handle is dropped from now on without one: at first
    /// [`Outcome::InternalError`].
    pub fn set_cut_off(&self, outcome: Outcome) {
        self.cut_off.set(outcome);
    }

    /// Enters a flow into the table that was accepted now.
    pub fn open(
        self: &Rc<Self>,
        id: FlowId,
        client: ClientAddr,
        destination: OriginalDestination,
    ) -> FlowHandle {
        let open = |is_probe| FlowEntry::new(id, client, destination, is_probe);
        let entry = self.table.probes().opened(client, open);
        self.table.insert(&entry);
        self.table.send(FlowEvent::Opened(&entry));
        FlowHandle { entry, outcome: None, opener: Rc::clone(self) }
    }
}

/// The right to write to an entry, on the thread of its worker. Dropping it closes the flow: takes the entry out of the
/// table, and sends its record to the sinks.
pub struct FlowHandle {
    entry: Arc<FlowEntry>,
    outcome: Option<Outcome>,
    opener: Rc<FlowOpener>,
}

impl FlowHandle {
    /// The entry, to be read.
    pub fn entry(&self) -> &Arc<FlowEntry> {
        &self.entry
    }

    /// The record so far, locked: exclusive, so that no task can wait for its own lock. Counts and duration are written
    /// at the end.
    pub fn record(&mut self) -> RecordGuard<'_> {
        RecordGuard(self.entry.lock())
    }

    /// Reads from the record so far.
    pub fn read<T>(&self, look: impl FnOnce(&super::FlowRecord) -> T) -> T {
        look(&self.entry.lock().record)
    }

    /// Adds to a count.
    pub fn add(&self, what: MessageCounter, by: u64) {
        self.entry.counters.add(what, by);
    }

    /// Changes the state.
    pub fn set_state(&self, state: FlowState) {
        self.entry.set_state(state);
        self.opener.table.send(FlowEvent::Updated(&self.entry));
    }

    /// Sets the outcome, which holds even if the task is dropped.
    pub fn set_outcome(&mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }

    /// Outcome, if known.
    pub fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }

    /// Lists it as a flow that holds a lease, until the listing is dropped. Its record has tenant, source and address.
    pub fn list<'t>(&self, table: &'t FlowTable, seen: Option<ClientInspection>) -> FlowListing<'t> {
        let mut details = self.entry.lock();
        let proof = passed_checks(&details.record);
        details.listed = Some(ListedDetails { seen, proof, revocation: Revocation::None(None) });
        drop(details);
        FlowListing::new(table, Arc::clone(&self.entry))
    }

    /// Finishes the record. Nothing is written to it afterwards.
    pub fn finish(&mut self) -> RecordGuard<'_> {
        let mut details = self.entry.lock();
        if self.entry.state() != FlowState::Closed {
            details.record.outcome = self.outcome.unwrap_or_else(|| self.opener.cut_off.get());
            self.entry.count_into(&mut details.record);
            self.entry.set_state(FlowState::Closed);
        }
        RecordGuard(details)
    }
}

impl Drop for FlowHandle {
    fn drop(&mut self) {
        self.opener.table.remove(self.entry.id());
        let opener = Rc::clone(&self.opener);
        let record = self.finish();
        opener.table.send(FlowEvent::Closed(&record));
    }
}
