//! A small world of flows on a clock of its own: the real ledger and forecaster, no sockets. Used by the simulation and
//! by the tests that hold what docs/ports.md promises of it.

use egret::addr::{ClientAddr, DialAddr, PortRange};
use egret::egress::{
    Forecaster, Lease, Ledger, LevelEvent, Pool, PoolSpec, Pools, PortHold, Share, SourceSelection,
    UsageLevel,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What flows do. Times are in seconds since the start.
pub(crate) struct Scenario {
    pub(crate) name: String,
    /// Ports towards the one destination.
    pub(crate) capacity: u16,
    /// For how long it is looked at.
    pub(crate) seconds: u32,
    /// Mean duration of a flow, exponentially distributed; arrivals are Poisson.
    pub(crate) duration: f64,
    /// How many flows are open on average.
    pub(crate) open: Box<dyn Fn(f64) -> f64>,
    /// Flows in a second that never close, on top.
    pub(crate) leak: Box<dyn Fn(f64) -> f64>,
    /// When every client loses its flows at once and, within ten seconds, opens them again.
    pub(crate) storm: Option<u32>,
    /// What becomes of the ports of flows that end.
    pub(crate) rest: PortHold,
}

impl Scenario {
    /// So many flows open on average, of two minutes each.
    pub(crate) fn new(name: &str, capacity: u16, seconds: u32, open: impl Fn(f64) -> f64 + 'static) -> Self {
        Self {
            name: name.to_owned(),
            capacity,
            seconds,
            duration: 120.0,
            open: Box::new(open),
            leak: Box::new(|_| 0.0),
            storm: None,
            rest: PortHold::Free,
        }
    }

    /// A third of the ports open at first, then a straight line until all are, `over` seconds later.
    pub(crate) fn ramp(name: &str, capacity: u16, over: f64, duration: f64) -> Self {
        let (start, all) = (300.0, f64::from(capacity));
        let open = move |t: f64| all * (1.0 + 2.0 * ((t - start) / over).max(0.0)) / 3.0;
        Self { duration, ..Self::new(name, capacity, seconds(start + 1.2 * over + 300.0), open) }
    }

    /// A third of the ports open, and from then on flows that never close, until all are, `over` seconds later.
    pub(crate) fn leak(name: &str, capacity: u16, over: f64) -> Self {
        Self::leak_from(name, capacity, 1.0 / 3.0, 300.0, over)
    }

    /// A part of the ports open, and from `start` on flows that never close, until all are, `over` seconds later.
    pub(crate) fn leak_from(name: &str, capacity: u16, part: f64, start: f64, over: f64) -> Self {
        let all = f64::from(capacity);
        let leak = move |t: f64| if t < start { 0.0 } else { all * (1.0 - part) / over };
        let steady = Self::new(name, capacity, seconds(start + 1.2 * over + 300.0), move |_| all * part);
        Self { leak: Box::new(leak), ..steady }
    }
}

/// What came of a scenario; times in seconds since the start.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) flows: u64,
    /// When it was first said that ports would be exhausted soon, and how soon.
    pub(crate) warned: Option<(u32, f64)>,
    /// When a flow was first refused.
    pub(crate) exhausted: Option<u32>,
    /// Warnings of an exhaustion that did not come within twenty minutes.
    pub(crate) false_pages: u32,
    /// Warnings in all.
    pub(crate) pages: u32,
    /// When 70, 85 and 95 % were first crossed.
    pub(crate) levels: [Option<u32>; 3],
    /// Most ports in use.
    pub(crate) peak: u16,
    /// When a time until the exhaustion was first given.
    pub(crate) foreseen: Option<u32>,
    /// Seconds between then and the exhaustion in which none was given.
    pub(crate) unforeseen: Vec<u32>,
    /// Seconds in which less than ten minutes were said to be left.
    pub(crate) soon: u32,
    /// When a warning was taken back before the exhaustion.
    pub(crate) taken_back: Option<u32>,
}

/// Plays a scenario. The same seed gives the same report.
pub(crate) fn play(scenario: &Scenario, seed: u64) -> Report {
    let mut world = World::new(scenario, StdRng::seed_from_u64(seed));
    let mut report = Report::default();
    let (mut pages, mut refusals, mut times) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..whole((scenario.open)(0.0)) {
        world.open(Some(scenario.duration));
    }
    for second in 1..=scenario.seconds {
        if world.step(scenario, second) {
            report.exhausted.get_or_insert(second);
            if refusals.last() != Some(&second) {
                refusals.push(second);
            }
        }
        for event in world.forecaster.observe(&world.pools, world.now) {
            if !event.rising {
                let is_early = event.level == UsageLevel::ExhaustedSoon && report.exhausted.is_none();
                report.taken_back = report.taken_back.or(is_early.then_some(second));
                continue;
            }
            match event.level {
                UsageLevel::ExhaustedSoon => {
                    report.warned.get_or_insert((second, left(&event)));
                    pages.push(second);
                }
                UsageLevel::Percent70 => _ = report.levels[0].get_or_insert(second),
                UsageLevel::Percent85 => _ = report.levels[1].get_or_insert(second),
                UsageLevel::Percent95 => _ = report.levels[2].get_or_insert(second),
            }
        }
        if let Some(row) = world.forecaster.rows(&world.pools, world.now).first() {
            report.peak = report.peak.max(row.live + row.held);
        }
        times.push((
            second,
            world.forecaster.exhaustion().into_values().next().map(|left| left.as_secs_f64()),
        ));
    }
    report.judge(&times);
    let came = |&&page: &&u32| !refusals.iter().any(|&at| (page..=page + 1200).contains(&at));
    report.false_pages = count(pages.iter().filter(came).count());
    report.pages = count(pages.len());
    report.flows = world.opened;
    report
}

impl Report {
    /// The time that was said to be left, for each second, beside what came.
    fn judge(&mut self, times: &[(u32, Option<f64>)]) {
        let is_soon = |left: &f64| *left < 600.0;
        self.soon = count(times.iter().filter(|(_, left)| left.as_ref().is_some_and(is_soon)).count());
        self.foreseen = times.iter().find(|(_, left)| left.is_some_and(|left| left > 0.0)).map(|at| at.0);
        if let (Some(from), Some(end)) = (self.foreseen, self.exhausted) {
            let between = times.iter().filter(|(second, _)| (from..end).contains(second));
            self.unforeseen = between.filter(|(_, left)| left.is_none()).map(|at| at.0).collect();
        }
    }
}

struct World {
    rng: StdRng,
    pools: Pools,
    pool: Arc<Pool>,
    forecaster: Forecaster,
    now: Instant,
    open: BinaryHeap<Flow>,
    forever: Vec<Lease>,
    opened: u64,
    /// Clients that are to come back, and in how many seconds all of them are.
    returning: (usize, u32),
}

impl World {
    fn new(scenario: &Scenario, rng: StdRng) -> Self {
        let spec = PoolSpec {
            name: "simulated".into(),
            addresses: vec!["203.0.113.1/32".parse().expect("a network")],
            ports: PortRange::new(u16::MAX - scenario.capacity + 1, u16::MAX).expect("a range"),
            select: SourceSelection::Paired,
            drain: Vec::new(),
            public: BTreeMap::new(),
            rest: Duration::ZERO,
            shares: Vec::new(),
        };
        let pools = Pools::new(&[spec], &[], &Arc::new(Ledger::new()));
        let pool = Arc::clone(pools.pool("simulated").expect("the pool"));
        Self {
            rng,
            pools,
            pool,
            forecaster: Forecaster::new(),
            now: egret::clock::now(),
            open: BinaryHeap::new(),
            forever: Vec::new(),
            opened: 0,
            returning: (0, 0),
        }
    }

    /// One second passes. Whether a flow was refused.
    fn step(&mut self, scenario: &Scenario, second: u32) -> bool {
        self.now += Duration::from_secs(1);
        while self.open.peek().is_some_and(|flow| flow.until <= self.now) {
            self.close_one(scenario.rest);
        }
        if scenario.storm == Some(second) {
            self.returning = (self.open.len(), 10);
            while !self.open.is_empty() {
                self.close_one(PortHold::For(Duration::from_secs(66)));
            }
        }
        let t = f64::from(second);
        // what leaves, and what the mean rises by
        let (before, after) = ((scenario.open)(t - 1.0), (scenario.open)(t));
        let arrivals = self.poisson(before / scenario.duration + after - before);
        let leaked = self.poisson((scenario.leak)(t));
        let back = self.returning.0.checked_div(self.returning.1 as usize).unwrap_or(0);
        self.returning = (self.returning.0 - back, self.returning.1.saturating_sub(1));
        let mut refused = false;
        for _ in 0..arrivals as usize + back {
            refused |= !self.open(Some(scenario.duration));
        }
        for _ in 0..leaked {
            refused |= !self.open(None);
        }
        refused
    }

    fn open(&mut self, duration: Option<f64>) -> bool {
        let client = ClientAddr::new(([10, 0, 0, 1], 40_000).into());
        let to = DialAddr::tcp(([192, 0, 2, 1], 443).into());
        let Ok(lease) = self.pool.lease(client, to, &Share::NONE, self.now) else {
            return false;
        };
        self.opened += 1;
        match duration {
            Some(mean) => {
                let lasts = Duration::from_secs_f64(mean * self.exponential());
                self.open.push(Flow { until: self.now + lasts, lease });
            }
            None => self.forever.push(lease),
        }
        true
    }

    fn close_one(&mut self, rest: PortHold) {
        if let Some(Flow { mut lease, .. }) = self.open.pop() {
            lease.set_hold(rest);
            lease.give_back(self.now);
        }
    }

    /// With a mean of 1.
    fn exponential(&mut self) -> f64 {
        -(1.0 - self.rng.random::<f64>()).ln()
    }

    /// How many arrivals of that rate there are in a second.
    fn poisson(&mut self, rate: f64) -> u32 {
        let (mut arrivals, mut passed) = (0, self.exponential());
        while passed < rate {
            arrivals += 1;
            passed += self.exponential();
        }
        arrivals
    }
}

/// The one that ends first is the greatest.
struct Flow {
    until: Instant,
    lease: Lease,
}

impl Ord for Flow {
    fn cmp(&self, other: &Self) -> Ordering {
        other.until.cmp(&self.until)
    }
}

impl PartialOrd for Flow {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Flow {
    fn eq(&self, other: &Self) -> bool {
        self.until == other.until
    }
}

impl Eq for Flow {}

fn left(event: &LevelEvent) -> f64 {
    event.exhausted_in.map_or(f64::INFINITY, |left| left.as_secs_f64())
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "of small positive numbers")]
fn whole(number: f64) -> u32 {
    number.round() as u32
}

fn seconds(number: f64) -> u32 {
    whole(number)
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
