//! One flow: its state while it lives, and its record.
//!
//! A [`Flow`] is created at accept and leaves exactly one [`FlowRecord`] when it is dropped, for whatever reason.

use super::admission::Slot;
use super::guard::{GuardRefusal, PolicyGuard};
use super::meters::{FlowCounter, FlowDuration, MessageCounter, Meters};
use super::record::{AddressCheck, CertificateCheck, FlowId, FlowRecord, PolicyVerdict};
use crate::addr::{ClientAddr, OriginalDestination};
use crate::clock;
use crate::outcome::Outcome;
use crate::relay::ByteMeter;
use crate::sys::traffic_class::TrafficClass;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Takes the records of flows that have ended; never blocks.
pub type RecordSink = Arc<dyn Fn(FlowRecord) + Send + Sync>;

/// Receiver of a worker's records, and the outcome of flows that are cut off.
pub struct FlowEndContext {
    /// Receiver of the records.
    pub sink: RecordSink,
    /// The outcome of a flow whose task was dropped before it had one: [`Outcome::InternalError`], or
    /// [`Outcome::Drained`] while the gateway stops.
    pub cut_off: Cell<Outcome>,
}

/// Results of a flow's background checks.
#[derive(Debug, Default)]
pub struct BackgroundChecks {
    /// Result of the address check.
    pub address: Cell<Option<AddressCheck>>,
    /// Result of the certificate check.
    pub certificate: Cell<Option<CertificateCheck>>,
}

/// A live flow. Dropping it ends it.
pub struct Flow {
    /// Record so far. Outcome and duration are set at the end.
    pub record: FlowRecord,
    /// Outcome, once known.
    outcome: Option<Outcome>,
    /// Results of background checks, if there are any.
    pub observed: Option<Rc<BackgroundChecks>>,
    /// See [`LiveFlow::unfollowed`](super::flow_table::LiveFlow::unfollowed).
    pub unfollowed: bool,
    /// Slot in the tenant's flow limit; held until all is over, an answer that refuses the flow included.
    pub place: Option<Slot>,
    /// Traffic class of the client's SYN, for both legs.
    pub class: TrafficClass,
    accepted: Instant,
    meters: Meters,
    worker: Rc<FlowEndContext>,
}

impl Flow {
    /// Creates a flow that was accepted now, with the meters of no tenant.
    pub fn begin(
        id: FlowId,
        client: ClientAddr,
        to: OriginalDestination,
        nobody: Meters,
        worker: Rc<FlowEndContext>,
    ) -> Self {
        nobody.enter();
        Self {
            record: FlowRecord::begin(clock::timestamp(), id, client, to),
            outcome: None,
            observed: None,
            unfollowed: false,
            place: None,
            class: TrafficClass::default(),
            accepted: clock::now(),
            meters: nobody,
            worker,
        }
    }

    /// Assigns the flow to a tenant, whose meters count it from now on.
    pub fn assign_tenant(&mut self, tenant: Arc<str>, meters: Meters) {
        self.meters.leave();
        meters.enter();
        self.meters = meters;
        self.record.tenant = Some(tenant);
    }

    /// Sets the outcome, which holds even if the task is dropped.
    pub fn set_outcome(&mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
    }

    /// Outcome, if known.
    pub fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }

    /// Records what the guard refused.
    fn record_refusal(&mut self, GuardRefusal { outcome, detail, rule, hostname, waived }: GuardRefusal) {
        let record = &mut self.record;
        if waived && record.would_deny.is_some() {
            return; // it would not have come so far
        }
        record.detail = detail;
        record.rule = rule.or(record.rule.take());
        record.denied_hostname = hostname;
        if waived {
            record.would_deny = Some(outcome);
        } else {
            record.verdict = Some(PolicyVerdict::Deny);
            self.set_outcome(outcome);
        }
    }

    /// Time since accept.
    pub fn age(&self) -> Duration {
        clock::now().saturating_duration_since(self.accepted)
    }

    /// Its tenant's meters.
    pub fn meters(&self) -> &Meters {
        &self.meters
    }
}

impl ByteMeter<PolicyGuard<'_>> for Flow {
    fn up(&mut self, bytes: usize) {
        self.record.bytes_up += bytes as u64;
        self.meters.add(MessageCounter::Up, bytes as u64);
    }
    fn down(&mut self, bytes: usize) {
        self.record.bytes_down += bytes as u64;
        self.meters.add(MessageCounter::Down, bytes as u64);
    }
    fn on_inspected(&mut self, guard: &mut PolicyGuard<'_>) {
        let requests = guard.take_requests();
        if requests > 0 {
            let all = self.record.requests.get_or_insert(0);
            *all = all.saturating_add(requests);
            self.meters.add(MessageCounter::Requests, requests.into());
        }
        if let Some(refused) = guard.take_refused() {
            self.record_refusal(*refused);
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        // Readers of the record may rely on the slot being free.
        self.place = None;
        let FlowRecord { time, flow, client, destination, .. } = self.record;
        let blank = FlowRecord::begin(time, flow, client, destination);
        let mut record = std::mem::replace(&mut self.record, blank);
        record.outcome = self.outcome.unwrap_or_else(|| self.worker.cut_off.get());
        if let Some(observed) = &self.observed {
            record.address_check = record.address_check.or(observed.address.get());
            record.certificate_check = observed.certificate.get();
        }
        record.duration = self.age();
        self.meters.leave();
        self.meters.count(FlowCounter::Ended(record.outcome));
        if let Some(reason) = record.would_deny {
            self.meters.count(FlowCounter::WouldDeny(reason));
        }
        self.meters.record(FlowDuration::Flow, record.duration);
        (self.worker.sink)(record);
    }
}

#[cfg(test)]
mod tests {
    use super::super::meters::{CellWriterClaim, TenantHandles, TenantMeters};
    use super::*;

    /// Outcomes recorded of a flow after `live` had it.
    fn outcomes_of(live: impl FnOnce(&Rc<FlowEndContext>, Flow)) -> Vec<Outcome> {
        let records = Arc::new(std::sync::Mutex::new(Vec::new()));
        let sink: RecordSink = {
            let records = Arc::clone(&records);
            Arc::new(move |record: FlowRecord| records.lock().unwrap().push(record.outcome))
        };
        let meters = TenantMeters::new(1, TenantHandles::noop());
        let worker = Rc::new(FlowEndContext { sink, cut_off: Cell::new(Outcome::InternalError) });
        let address = "192.0.2.1:1".parse().unwrap();
        let id = FlowId { process: 0, number: 0 };
        let (client, to) = (ClientAddr::new(address), OriginalDestination::new(address));
        live(
            &worker,
            Flow::begin(
                id,
                client,
                to,
                meters.of(&CellWriterClaim::all(1).remove(0).take()),
                Rc::clone(&worker),
            ),
        );
        let records = records.lock().unwrap();
        records.clone()
    }

    #[test]
    fn every_flow_end_leaves_one_record() {
        let finished = outcomes_of(|_, mut flow| flow.set_outcome(Outcome::Closed));
        assert_eq!(finished, [Outcome::Closed]);
        let panicked = outcomes_of(|_, flow| {
            let task = std::panic::AssertUnwindSafe(move || {
                let _flow = flow;
                panic!("a flow's own");
            });
            assert!(std::panic::catch_unwind(task).is_err());
        });
        assert_eq!(panicked, [Outcome::InternalError]);
        let dropped_at_the_end = outcomes_of(|worker, flow| {
            worker.cut_off.set(Outcome::Drained);
            drop(flow);
        });
        assert_eq!(dropped_at_the_end, [Outcome::Drained]);
    }
}
