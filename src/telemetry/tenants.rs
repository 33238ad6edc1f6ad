//! Metrics of tenants: the recorder's handles for each, and the sums over the workers' cells.

use super::catalogue;
use super::recorder::Recorder;
use crate::flow::{MessageCounter, PolicyChange};
use crate::gateway::{TenantHandles, TenantMeters};
use crate::outcome::Outcome;
use crate::policy::can_be_waived;
use metrics::Counter;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The tenants that have had flows. They stay: a counter that vanishes and returns would look like a restart.
pub(super) struct TenantRegistry {
    workers: usize,
    known: Mutex<BTreeMap<Box<str>, KnownTenants>>,
}

struct KnownTenants {
    meters: TenantMeters,
    /// In the order of [`MessageCounter::ALL`].
    published: [Counter; MessageCounter::ALL.len()],
}

impl TenantRegistry {
    pub(super) fn new(workers: usize) -> Self {
        Self { workers, known: Mutex::default() }
    }

    /// A tenant's numbers, which go on whatever else is said of the tenant.
    pub(super) fn meters(
        &self,
        recorder: &Recorder,
        tenant: &str,
        monitored: bool,
        failures: Counter,
    ) -> TenantMeters {
        // A thread that panicked in here has left the map as it was.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.entry(tenant.into()).or_insert_with(|| KnownTenants {
            meters: TenantMeters::new(self.workers, handles(recorder, tenant)),
            published: MessageCounter::ALL.map(|what| published(recorder, tenant, what)),
        });
        if monitored {
            known.meters.handles().would_deny.get_or_init(|| {
                by_outcome(can_be_waived, |reason| {
                    recorder.counter(&catalogue::WOULD_DENY, &[tenant, reason])
                })
            });
        }
        known.meters.clone().with_failures(failures)
    }

    /// Brings what flows count with every message up to date in the recorder.
    pub(super) fn publish(&self) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for KnownTenants { meters, published } in known.values() {
            for (what, counter) in MessageCounter::ALL.into_iter().zip(published) {
                counter.absolute(meters.total(what));
            }
        }
    }
}

fn handles(recorder: &Recorder, tenant: &str) -> TenantHandles {
    let is_denial = |outcome: Outcome| outcome.is_denial();
    let durations = [&catalogue::INSPECT_DURATION, &catalogue::CONNECT_DURATION, &catalogue::FLOW_DURATION];
    TenantHandles {
        active: recorder.gauge(&catalogue::FLOWS_ACTIVE, &[tenant]),
        ech: recorder.counter(&catalogue::ECH_FLOWS, &[tenant]),
        candidate: PolicyChange::ALL
            .map(|change| recorder.counter(&catalogue::CANDIDATE_DECISIONS, &[tenant, change.as_str()])),
        ended: by_outcome(|_| true, |outcome| recorder.counter(&catalogue::FLOWS_TOTAL, &[tenant, outcome])),
        denied: by_outcome(is_denial, |reason| recorder.counter(&catalogue::DENIALS, &[tenant, reason])),
        durations: durations.map(|metric| recorder.histogram(metric, &[tenant])),
        ..TenantHandles::noop()
    }
}

/// A counter for each outcome that is to be counted, and one that counts nothing for the others.
fn by_outcome(counts: impl Fn(Outcome) -> bool, counter: impl Fn(&str) -> Counter) -> Box<[Counter]> {
    let one = |&outcome: &Outcome| if counts(outcome) { counter(outcome.as_str()) } else { Counter::noop() };
    Outcome::ALL.iter().map(one).collect()
}

fn published(recorder: &Recorder, tenant: &str, what: MessageCounter) -> Counter {
    match what {
        MessageCounter::Up => recorder.counter(&catalogue::FLOW_BYTES, &[tenant, "up"]),
        MessageCounter::Down => recorder.counter(&catalogue::FLOW_BYTES, &[tenant, "down"]),
        MessageCounter::Requests => recorder.counter(&catalogue::HTTP_REQUESTS, &[tenant]),
    }
}
