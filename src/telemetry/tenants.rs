//! What the flows of tenants count, from the workers' cells into the text of a scrape.

use super::catalogue::{self, Metric};
use super::exposition::Exposition;
use crate::count::Counter;
use crate::gateway::{Change, Counted, TenantMeters, Timed, Totals};
use crate::outcome::Outcome;
use crate::policy::can_be_waived;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// The tenants that have had flows. They stay: a counter that vanishes and returns would look like a restart.
pub(super) struct Tenants {
    workers: usize,
    known: Mutex<BTreeMap<Box<str>, Known>>,
}

struct Known {
    meters: TenantMeters,
    /// It is in monitor mode, or was.
    monitored: bool,
}

/// One tenant in a scrape.
struct Row {
    name: Box<str>,
    monitored: bool,
    totals: Totals,
}

impl Tenants {
    pub(super) fn new(workers: usize) -> Self {
        Self { workers, known: Mutex::default() }
    }

    /// A tenant's numbers, which go on whatever else is said of the tenant.
    pub(super) fn meters(&self, tenant: &str, monitored: bool, failures: Counter) -> TenantMeters {
        // a thread that panicked in here has left the map as it was
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known
            .entry(tenant.into())
            .or_insert_with(|| Known { meters: TenantMeters::new(self.workers), monitored });
        known.monitored |= monitored;
        known.meters.clone().with_failures(failures)
    }

    fn rows(&self) -> Vec<Row> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = known.iter().map(|(name, known)| Row {
            name: name.clone(),
            monitored: known.monitored,
            totals: known.meters.totals(),
        });
        rows.collect()
    }

    pub(super) fn write(&self, text: &mut Exposition) {
        let rows = self.rows();
        text.family(&catalogue::FLOWS_ACTIVE);
        for Row { name, totals, .. } in &rows {
            text.sample(&catalogue::FLOWS_ACTIVE, &[name], totals.active());
        }
        let outcomes = || Outcome::ALL.iter().copied();
        let denials = || outcomes().filter(|outcome| outcome.is_denial());
        let waived = || outcomes().filter(|outcome| can_be_waived(*outcome));
        write(text, &catalogue::FLOWS_TOTAL, &rows, || {
            outcomes().map(|outcome| (outcome.as_str(), Counted::Ended(outcome)))
        });
        // the same flows once more
        write(text, &catalogue::DENIALS, &rows, || {
            denials().map(|reason| (reason.as_str(), Counted::Ended(reason)))
        });
        write(text, &catalogue::WOULD_DENY, rows.iter().filter(|row| row.monitored), || {
            waived().map(|reason| (reason.as_str(), Counted::WouldDeny(reason)))
        });
        write(text, &catalogue::CANDIDATE_DECISIONS, &rows, || {
            Change::ALL.into_iter().map(|change| (change.as_str(), Counted::Candidate(change)))
        });
        write(text, &catalogue::FLOW_BYTES, &rows, || {
            [("up", Counted::Up), ("down", Counted::Down)].into_iter()
        });
        for (metric, what) in
            [(&catalogue::ECH_FLOWS, Counted::Ech), (&catalogue::HTTP_REQUESTS, Counted::Requests)]
        {
            text.family(metric);
            for Row { name, totals, .. } in &rows {
                text.sample(metric, &[name], totals.count(what));
            }
        }
        for (metric, timed) in [
            (&catalogue::INSPECT_DURATION, Timed::Inspect),
            (&catalogue::CONNECT_DURATION, Timed::Connect),
            (&catalogue::FLOW_DURATION, Timed::Flow),
        ] {
            text.family(metric);
            for Row { name, totals, .. } in &rows {
                text.distribution(metric, &[name], &totals.durations(timed));
            }
        }
    }
}

/// A family with a label beside `tenant`, for each of its values.
fn write<'a, V: Iterator<Item = (&'static str, Counted)>>(
    text: &mut Exposition,
    metric: &Metric,
    rows: impl IntoIterator<Item = &'a Row>,
    values: impl Fn() -> V,
) {
    text.family(metric);
    for Row { name, totals, .. } in rows {
        for (value, what) in values() {
            text.sample(metric, &[&**name, value], totals.count(what));
        }
    }
}
