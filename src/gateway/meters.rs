//! Counters of flows. Each worker has cells that no other writes to; a scrape adds up those of all workers.
//!
//! A cell with one writer needs no atomic read-modify-write: a load and a store are two plain moves, and the cache line
//! stays where it is. The types guarantee the one writer: [`Seat`]s are handed out once, a worker's thread
//! [takes](Seat::take) its own, and the [`Meters`] made from it cannot leave the thread.

use super::candidate::Change;
use crate::count::{BUCKETS, Bounds, Counter, Distribution, bucket_of};
use crate::outcome::Outcome;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Counters of a tenant's flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Bytes from client to server.
    Up,
    /// Bytes from server to client.
    Down,
    /// Flows whose ClientHello carried `encrypted_client_hello`.
    Ech,
    /// HTTP/1 requests that were judged and let through.
    Requests,
    /// Flows, and later requests, by the change that a candidate would make.
    Candidate(Change),
    /// Flows that ended with this outcome.
    Ended(Outcome),
    /// Flows for which monitor mode waived a denial with this outcome.
    WouldDeny(Outcome),
}

const OUTCOMES: usize = Outcome::ALL.len();
const TIMED: [Timed; 3] = [Timed::Inspect, Timed::Connect, Timed::Flow];

// The cells of one worker and tenant. The first is the number of live flows.
const ACTIVE: usize = 0;
const CANDIDATE: usize = 5;
const ENDED: usize = CANDIDATE + Change::ALL.len();
const WOULD_DENY: usize = ENDED + OUTCOMES;
const DURATIONS: usize = WOULD_DENY + OUTCOMES;
const CELLS: usize = DURATIONS + TIMED.len() * (BUCKETS + 1);

impl Counted {
    fn cell(self) -> usize {
        match self {
            Self::Up => 1,
            Self::Down => 2,
            Self::Ech => 3,
            Self::Requests => 4,
            Self::Candidate(change) => CANDIDATE + change as usize,
            Self::Ended(outcome) => ENDED + outcome as usize,
            Self::WouldDeny(reason) => WOULD_DENY + reason as usize,
        }
    }
}

/// Durations measured of a tenant's flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timed {
    /// From accept to the end of the inspection.
    Inspect,
    /// From the SYN to the server's answer.
    Connect,
    /// From accept to the end.
    Flow,
}

impl Timed {
    /// The bounds of its buckets.
    pub const fn bounds(self) -> &'static Bounds {
        match self {
            // up to the usual `[inspect] deadline` of 5 s
            Self::Inspect => &[
                500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000, 2_500_000,
                5_000_000,
            ],
            // A lost SYN is sent again after 1 s, and then after 2 s more: bounds lie below those, so that
            // retransmission shows.
            Self::Connect => &[
                1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 950_000, 2_900_000,
                10_000_000,
            ],
            // From a lone request to a connection pool that lives for days. 350 s is the idle limit of cloud NAT
            // gateways.
            Self::Flow => &[
                10_000,
                50_000,
                100_000,
                500_000,
                1_000_000,
                5_000_000,
                30_000_000,
                60_000_000,
                350_000_000,
                3_600_000_000,
                14_400_000_000,
                86_400_000_000,
            ],
        }
    }

    /// The cell of the sum; those of the buckets follow.
    fn cell(self) -> usize {
        DURATIONS + self as usize * (BUCKETS + 1)
    }
}

/// On cache lines of its own; 128 bytes, as processors fetch lines in pairs.
#[repr(align(128))]
struct Cells([AtomicU64; CELLS]);

impl Default for Cells {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; CELLS])
    }
}

/// A worker's right to count, until the worker's thread takes it.
#[derive(Debug)]
pub struct Seat(usize);

impl Seat {
    /// One for each worker. To be called once for each number of workers that [`TenantMeters`] are made for.
    pub fn all(workers: usize) -> Vec<Self> {
        (0..workers).map(Self).collect()
    }

    /// Binds the right to this thread.
    pub fn take(self) -> Seated {
        Seated { index: self.0, stays: PhantomData }
    }
}

/// The right to count, on the thread of its worker.
#[derive(Debug)]
pub struct Seated {
    index: usize,
    stays: PhantomData<*const ()>,
}

/// One tenant's counters; flows of no tenant share those of `unknown`. Clones share the counters.
#[derive(Clone)]
pub struct TenantMeters {
    /// By the worker's index; created with the worker's first flow of the tenant.
    workers: Arc<[OnceLock<Arc<Cells>>]>,
    /// `egret_port_allocation_failures_total` of the tenant's pool.
    pub port_allocation_failures: Counter,
}

impl TenantMeters {
    /// Creates counters for so many workers, all 0.
    pub fn new(workers: usize) -> Self {
        let workers = (0..workers).map(|_| OnceLock::new()).collect();
        Self { workers, port_allocation_failures: Counter::default() }
    }

    /// The same counters, but for failed port allocations, which are counted by tenant and pool.
    #[must_use]
    pub fn with_failures(self, port_allocation_failures: Counter) -> Self {
        Self { port_allocation_failures, ..self }
    }

    /// Returns the meters of one worker.
    pub fn of(&self, seat: &Seated) -> Meters {
        let cells = self.workers[seat.index].get_or_init(Arc::default);
        Meters { cells: Arc::clone(cells), stays: PhantomData }
    }

    /// The sums over all workers.
    pub fn totals(&self) -> Totals {
        let mut totals = [0_u64; CELLS];
        for cells in self.workers.iter().filter_map(OnceLock::get) {
            for (total, cell) in totals.iter_mut().zip(&cells.0) {
                *total = total.wrapping_add(cell.load(Ordering::Relaxed));
            }
        }
        Totals(totals)
    }
}

/// One worker's counters of one tenant's flows. They stay on the worker's thread.
///
/// ```compile_fail,E0277
/// let seat = egret::gateway::Seat::all(1).remove(0).take();
/// let meters = egret::gateway::TenantMeters::new(1).of(&seat);
/// std::thread::spawn(move || meters.enter());
/// ```
#[derive(Clone)]
pub struct Meters {
    cells: Arc<Cells>,
    stays: PhantomData<*const ()>,
}

impl Meters {
    /// Counts a live flow.
    pub fn enter(&self) {
        self.change(ACTIVE, 1);
    }

    /// Removes a live flow, which ended or is counted elsewhere.
    pub fn leave(&self) {
        self.change(ACTIVE, 1_u64.wrapping_neg());
    }

    /// Adds one.
    pub fn count(&self, what: Counted) {
        self.add(what, 1);
    }

    /// Adds `by`.
    pub fn add(&self, what: Counted, by: u64) {
        self.change(what.cell(), by);
    }

    /// Records a duration.
    pub fn record(&self, what: Timed, took: Duration) {
        let (bucket, micros) = bucket_of(took, what.bounds());
        self.change(what.cell(), micros);
        self.change(what.cell() + 1 + bucket, 1);
    }

    fn change(&self, cell: usize, by: u64) {
        // no `fetch_add`: nobody else writes to it
        let cell = &self.cells.0[cell];
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
    }
}

/// One tenant's totals at one moment.
pub struct Totals([u64; CELLS]);

impl Totals {
    /// Live flows.
    pub fn active(&self) -> u64 {
        self.0[ACTIVE]
    }

    /// Value of a counter.
    pub fn count(&self, what: Counted) -> u64 {
        self.0[what.cell()]
    }

    /// Distribution of a duration.
    pub fn durations(&self, what: Timed) -> Distribution {
        let buckets = std::array::from_fn(|bucket| self.0[what.cell() + 1 + bucket]);
        Distribution { bounds: what.bounds(), buckets, micros: self.0[what.cell()] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::sync::atomic::AtomicBool;
    use std::thread;

    #[test]
    fn each_number_has_a_cell_of_its_own_and_each_cell_a_number() {
        let mut cells = vec![ACTIVE, Counted::Up.cell(), Counted::Down.cell()];
        cells.extend([Counted::Ech.cell(), Counted::Requests.cell()]);
        cells.extend(Change::ALL.map(|change| Counted::Candidate(change).cell()));
        for &outcome in Outcome::ALL {
            cells.extend([Counted::Ended(outcome).cell(), Counted::WouldDeny(outcome).cell()]);
        }
        for timed in TIMED {
            cells.extend(timed.cell()..=timed.cell() + BUCKETS);
        }
        assert_eq!(cells.len(), CELLS);
        assert_eq!(cells.into_iter().collect::<BTreeSet<_>>(), (0..CELLS).collect());
    }

    #[test]
    fn sums_over_workers_are_exact_and_never_fall() {
        const WORKERS: usize = 4;
        const FLOWS: u64 = 50_000;
        let meters = TenantMeters::new(WORKERS);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let workers: Vec<_> = Seat::all(WORKERS)
                .into_iter()
                .map(|seat| {
                    let meters = &meters;
                    scope.spawn(move || {
                        let seat = seat.take();
                        for flow in 0..FLOWS {
                            let meters = meters.of(&seat);
                            meters.enter();
                            meters.add(Counted::Up, 3);
                            meters.record(Timed::Flow, Duration::from_micros(flow));
                            meters.count(Counted::Ended(Outcome::Closed));
                            meters.leave();
                        }
                    })
                })
                .collect();
            let scraper = scope.spawn(|| {
                let mut last = 0;
                while !done.load(Ordering::Acquire) {
                    let totals = meters.totals();
                    let ended = totals.count(Counted::Ended(Outcome::Closed));
                    assert!(ended >= last, "{last} flows had ended, now {ended}");
                    assert!(totals.active() <= WORKERS as u64, "{} flows live", totals.active());
                    last = ended;
                }
            });
            for worker in workers {
                worker.join().unwrap();
            }
            done.store(true, Ordering::Release);
            scraper.join().unwrap();
        });
        let (totals, flows) = (meters.totals(), WORKERS as u64 * FLOWS);
        assert_eq!((totals.active(), totals.count(Counted::Ended(Outcome::Closed))), (0, flows));
        assert_eq!((totals.count(Counted::Up), totals.count(Counted::Down)), (3 * flows, 0));
        let durations = totals.durations(Timed::Flow);
        assert_eq!(durations.micros, WORKERS as u64 * (0..FLOWS).sum::<u64>());
        assert_eq!(durations.buckets[0], WORKERS as u64 * 10_001);
        assert_eq!(durations.buckets.iter().sum::<u64>(), flows);
    }
}
