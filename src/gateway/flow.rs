//! The task's side of a flow: its entry, slot and meters.

use super::admission::Slot;
use super::meters::{FlowCounter, FlowDuration, Meters};
use crate::addr::{ClientAddr, DialAddr, OriginalDestination};
use crate::flow::{
    FlowEntry, FlowHandle, FlowListing, FlowRecord, FlowState, FlowTable, MessageCounter, RecordGuard,
};
use crate::hostname::Hostname;
use crate::inspect::Protocol;
use crate::outcome::Outcome;
use crate::policy::ClientInspection;
use crate::sys::traffic_class::TrafficClass;
use jiff::Timestamp;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A live flow, on its worker. Dropping it ends it.
pub struct Flow {
    /// Slot in the tenant's flow limit; held until all is over, an answer that refuses the flow included.
    pub slot: Option<Slot>,
    /// Traffic class of the client's SYN, for both legs.
    pub class: TrafficClass,
    meters: Meters,
    /// Dropped last, which sends the record: by then the flow is counted as ended, and its slot is free.
    handle: FlowHandle,
}

impl Flow {
    /// Creates a flow that was accepted now, with the meters of no tenant.
    pub fn begin(handle: FlowHandle, nobody: Meters) -> Self {
        nobody.enter();
        Self { slot: None, class: TrafficClass::default(), meters: nobody, handle }
    }

    /// Assigns the flow to a tenant, whose meters count it from now on.
    pub fn assign_tenant(&mut self, tenant: Arc<str>, meters: Meters) {
        self.meters.leave();
        meters.enter();
        self.meters = meters;
        describe("tenant", &tenant);
        self.record().tenant = Some(tenant);
    }

    /// See [`FlowHandle::record`].
    pub fn record(&mut self) -> RecordGuard<'_> {
        self.handle.record()
    }

    /// See [`FlowHandle::read`].
    pub fn read<T>(&self, look: impl FnOnce(&FlowRecord) -> T) -> T {
        self.handle.read(look)
    }

    /// Its entry in the table.
    pub fn entry(&self) -> &Arc<FlowEntry> {
        self.handle.entry()
    }

    /// See [`FlowHandle::set_state`].
    pub fn set_state(&self, state: FlowState) {
        self.handle.set_state(state);
    }

    /// See [`FlowHandle::list`].
    pub fn list<'t>(&self, table: &'t FlowTable, seen: Option<ClientInspection>) -> FlowListing<'t> {
        self.handle.list(table, seen)
    }

    /// Client's address.
    pub fn client(&self) -> ClientAddr {
        self.read(|record| record.client)
    }

    /// Address that the client dialled.
    pub fn destination(&self) -> OriginalDestination {
        self.read(|record| record.destination)
    }

    /// Time of accept.
    pub fn time(&self) -> Timestamp {
        self.read(|record| record.time)
    }

    /// The name that the client asked for.
    pub fn hostname(&self) -> Option<Hostname> {
        self.read(|record| record.hostname.clone())
    }

    /// Protocol of the client.
    pub fn protocol(&self) -> Option<Protocol> {
        self.read(|record| record.protocol)
    }

    /// Address dialled.
    pub fn dialled(&self) -> Option<DialAddr> {
        self.read(|record| record.dialled)
    }

    /// Replaces the record's detail, if there is another.
    pub fn set_detail(&mut self, detail: Option<&'static str>) {
        if detail.is_some() {
            self.record().detail = detail;
        }
    }

    /// Sets the outcome, which holds even if the task is dropped.
    pub fn set_outcome(&mut self, outcome: Outcome) {
        self.handle.set_outcome(outcome);
    }

    /// Outcome, if known.
    pub fn outcome(&self) -> Option<Outcome> {
        self.handle.outcome()
    }

    /// Time since accept.
    pub fn age(&self) -> Duration {
        self.entry().age()
    }

    /// Its tenant's meters.
    pub fn meters(&self) -> &Meters {
        &self.meters
    }

    /// Counts for the flow, and for its tenant.
    pub fn count(&self, what: MessageCounter, by: u64) {
        self.handle.add(what, by);
        self.meters.add(what, by);
    }
}

/// Adds a value to the span that a flow's task runs in, if it has one.
pub(super) fn describe(field: &'static str, value: &dyn fmt::Display) {
    if tracing::enabled!(tracing::Level::DEBUG) {
        tracing::Span::current().record(field, tracing::field::display(value));
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        // Readers of the record may rely on the slot being free.
        self.slot = None;
        let record = self.handle.finish();
        tracing::debug!(
            outcome = %record.outcome,
            detail = record.detail,
            bytes_up = record.bytes_up,
            bytes_down = record.bytes_down,
            "ended"
        );
        self.meters.leave();
        self.meters.count(FlowCounter::Ended(record.outcome));
        if let Some(reason) = record.would_deny {
            self.meters.count(FlowCounter::WouldDeny(reason));
        }
        self.meters.record(FlowDuration::Flow, record.duration);
    }
}
