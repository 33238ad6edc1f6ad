//! Metrics of flows, by tenant.
//!
//! Numbers counted once a flow go through handles of the metrics recorder, resolved once for each tenant. Those counted
//! with every message go to cells of each worker's own: a cell with one writer needs no atomic read-modify-write, and
//! its cache line stays where it is. A scrape publishes their sums. The types guarantee the one writer: [`CellWriterClaim`]s are
//! handed out once, a worker's thread [takes](CellWriterClaim::take) its own, and the [`Meters`] made from it cannot leave the
//! thread.

use crate::flow::{MessageCells, MessageCounter, PolicyChange};
use crate::outcome::Outcome;
use metrics::{Counter, Gauge, Histogram};
use std::marker::PhantomData;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Counters of a tenant's flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowCounter {
    /// Flows whose ClientHello carried `encrypted_client_hello`.
    Ech,
    /// Flows, and later requests, by the change that a candidate would make.
    Candidate(PolicyChange),
    /// Flows that ended with this outcome.
    Ended(Outcome),
    /// Flows for which monitor mode waived a denial with this outcome.
    WouldDeny(Outcome),
}

/// Durations measured of a tenant's flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlowDuration {
    /// From accept to the end of the inspection.
    Inspect,
    /// From the SYN to the server's answer.
    Connect,
    /// From accept to the end.
    Flow,
}

/// The recorder's handles for one tenant.
pub struct TenantHandles {
    /// Flows that live.
    pub active: Gauge,
    /// As [`FlowCounter::Ech`].
    pub ech: Counter,
    /// By change, in the order of [`PolicyChange::ALL`].
    pub candidate: [Counter; PolicyChange::ALL.len()],
    /// By outcome, in the order of [`Outcome::ALL`].
    pub ended: Box<[Counter]>,
    /// The same flows once more where the outcome is a denial; of other outcomes, handles that count nothing.
    pub denied: Box<[Counter]>,
    /// By outcome; there since the tenant is in monitor mode.
    pub would_deny: OnceLock<Box<[Counter]>>,
    /// By duration, in the order of [`FlowDuration`].
    pub durations: [Histogram; 3],
}

impl TenantHandles {
    /// Handles that count nothing.
    pub fn noop() -> Self {
        let by_outcome = || Outcome::ALL.iter().map(|_| Counter::noop()).collect();
        Self {
            active: Gauge::noop(),
            ech: Counter::noop(),
            candidate: PolicyChange::ALL.map(|_| Counter::noop()),
            ended: by_outcome(),
            denied: by_outcome(),
            would_deny: OnceLock::new(),
            durations: [const { Histogram::noop() }; 3],
        }
    }
}

/// One worker's cells for one tenant. On cache lines of their own; 128 bytes, as processors fetch lines in pairs.
#[repr(align(128))]
struct MeterCells {
    per_message: MessageCells,
    handles: Arc<TenantHandles>,
}

/// A worker's right to count, until the worker's thread takes it.
#[derive(Debug)]
pub struct CellWriterClaim(usize);

impl CellWriterClaim {
    /// One for each worker. Whoever makes [`TenantMeters`] for so many workers calls it once.
    pub fn all(workers: usize) -> Vec<Self> {
        (0..workers).map(Self).collect()
    }

    /// This thread counts by it from now on.
    pub fn take(self) -> CellWriter {
        CellWriter { index: self.0, stays: PhantomData }
    }
}

/// The right to count, on the thread of its worker.
#[derive(Debug)]
pub struct CellWriter {
    index: usize,
    stays: PhantomData<*const ()>,
}

/// One tenant's metrics; flows of no tenant share those of `unknown`. Clones share the counters.
#[derive(Clone)]
pub struct TenantMeters {
    /// By the worker's index; there from the worker's first flow of the tenant.
    workers: Arc<[OnceLock<Arc<MeterCells>>]>,
    handles: Arc<TenantHandles>,
    /// `egret_port_allocation_failures_total` of the tenant's pool.
    pub port_allocation_failures: Counter,
}

impl TenantMeters {
    /// All 0, for so many workers.
    pub fn new(workers: usize, handles: TenantHandles) -> Self {
        let workers = (0..workers).map(|_| OnceLock::new()).collect();
        Self { workers, handles: Arc::new(handles), port_allocation_failures: Counter::noop() }
    }

    /// The same numbers, where ports that cannot be had count elsewhere: they are counted by tenant and pool.
    #[must_use]
    pub fn with_failures(self, port_allocation_failures: Counter) -> Self {
        Self { port_allocation_failures, ..self }
    }

    /// The recorder's handles.
    pub fn handles(&self) -> &TenantHandles {
        &self.handles
    }

    /// The worker's counters.
    pub fn of(&self, writer: &CellWriter) -> Meters {
        let cells = self.workers[writer.index].get_or_init(|| {
            Arc::new(MeterCells { per_message: MessageCells::default(), handles: Arc::clone(&self.handles) })
        });
        Meters { cells: Arc::clone(cells), stays: PhantomData }
    }

    /// The sum over all workers.
    pub fn total(&self, what: MessageCounter) -> u64 {
        let cells = self.workers.iter().filter_map(OnceLock::get);
        cells.map(|cells| cells.per_message.get(what)).sum()
    }
}

/// One worker's counters of one tenant's flows. It stays on the worker's thread.
///
/// ```compile_fail,E0277
/// use egret::gateway::{CellWriterClaim, TenantHandles, TenantMeters};
/// let writer = CellWriterClaim::all(1).remove(0).take();
/// let meters = TenantMeters::new(1, TenantHandles::noop()).of(&writer);
/// std::thread::spawn(move || meters.enter());
/// ```
#[derive(Clone)]
pub struct Meters {
    cells: Arc<MeterCells>,
    stays: PhantomData<*const ()>,
}

impl Meters {
    /// A flow lives.
    pub fn enter(&self) {
        self.cells.handles.active.increment(1.0);
    }

    /// A flow that had entered lives no more, or elsewhere.
    pub fn leave(&self) {
        self.cells.handles.active.decrement(1.0);
    }

    /// One more.
    pub fn count(&self, what: FlowCounter) {
        let handles = &self.cells.handles;
        match what {
            FlowCounter::Ech => handles.ech.increment(1),
            FlowCounter::Candidate(change) => handles.candidate[change as usize].increment(1),
            FlowCounter::Ended(outcome) => {
                handles.ended[outcome as usize].increment(1);
                handles.denied[outcome as usize].increment(1);
            }
            FlowCounter::WouldDeny(reason) => {
                if let Some(would_deny) = handles.would_deny.get() {
                    would_deny[reason as usize].increment(1);
                }
            }
        }
    }

    /// So many more.
    pub fn add(&self, what: MessageCounter, by: u64) {
        self.cells.per_message.add(what, by);
    }

    /// Something took so long.
    pub fn record(&self, what: FlowDuration, took: Duration) {
        self.cells.handles.durations[what as usize].record(took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    #[test]
    fn sums_over_workers_are_exact() {
        const WORKERS: usize = 4;
        const FLOWS: u64 = 50_000;
        let meters = TenantMeters::new(WORKERS, TenantHandles::noop());
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let workers: Vec<_> = CellWriterClaim::all(WORKERS)
                .into_iter()
                .map(|claim| {
                    let meters = &meters;
                    scope.spawn(move || {
                        let writer = claim.take();
                        for _ in 0..FLOWS {
                            meters.of(&writer).add(MessageCounter::Up, 3);
                        }
                    })
                })
                .collect();
            let scraper = scope.spawn(|| {
                let mut last = 0;
                while !done.load(Ordering::Acquire) {
                    let total = meters.total(MessageCounter::Up);
                    assert!(total >= last, "{last} bytes, and now {total}");
                    last = total;
                }
            });
            for worker in workers {
                worker.join().unwrap();
            }
            done.store(true, Ordering::Release);
            scraper.join().unwrap();
        });
        assert_eq!(meters.total(MessageCounter::Up), WORKERS as u64 * FLOWS * 3);
        assert_eq!(meters.total(MessageCounter::Down), 0);
    }

    #[test]
    fn outcomes_and_changes_index_their_lists() {
        for (index, outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, index);
        }
        for (index, change) in PolicyChange::ALL.into_iter().enumerate() {
            assert_eq!(change as usize, index);
        }
    }
}
