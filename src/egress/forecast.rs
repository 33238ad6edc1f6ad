//! Forecast of port exhaustion for each destination. docs/ports.md explains it.

mod alarm;
mod outlook;
mod trend;

pub use alarm::UsageLevel;

use super::hot;
use super::hot_pair::HotPair;
use super::pair_use::PairUse;
use super::pool::Pools;
use crate::addr::{DialAddr, SourceAddr};
use alarm::{DestinationAlarm, UsageSample};
use ipnet::IpNet;
use outlook::GrowthForecast;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};
use trend::chance_of;

/// Rows per source address.
const ROWS: usize = 5;
/// Destinations tracked per source address. More than there are rows, so that a growing destination has a history by
/// the time it is among the hottest.
const FOLLOWED: usize = 16;
/// Destinations tracked in all: 5 MB.
const MOST: usize = 4096;
/// Longest gap between two observations, in seconds, that is filled in. After a longer one, such as a suspended
/// machine, the history starts anew.
const LONGEST_GAP: u16 = 10;

/// Tracks the hottest destinations of every source address. Has no clock or thread of its own.
#[derive(Debug, Default)]
pub struct Forecaster {
    followed: BTreeMap<(SourceAddr, DialAddr), TrackedDestination>,
    /// Position at which the search among derived addresses continues.
    cursor: usize,
    /// Time of the last observation, in whole seconds from the first one.
    looked: Option<Instant>,
}

/// One of the hottest destinations of a source address.
#[derive(Debug, Clone)]
pub struct HotRow {
    /// The pool's name.
    pub pool: Arc<str>,
    /// The row of [`super::SourceUsage`] for the source address: itself, or its network if that is not listed address
    /// by address.
    pub network: IpNet,
    /// Source address of the flows.
    pub source: SourceAddr,
    /// Destination of the flows.
    pub destination: DialAddr,
    /// Leased ports.
    pub live: u16,
    /// Ports that may not be leased again yet.
    pub held: u16,
    /// Ports of the address towards each destination.
    pub capacity: u16,
    /// Growth of the ports in use per second; 0 without a trend.
    pub growth_per_second: f64,
    /// Time until no port is free, at that growth; `None` without a trend.
    pub exhausted_in: Option<Duration>,
}

/// A level that a destination crossed, towards exhaustion or away from it.
#[derive(Debug, Clone)]
pub struct LevelEvent {
    /// The level.
    pub level: UsageLevel,
    /// The pool's name.
    pub pool: Arc<str>,
    /// Source address of the flows.
    pub source: SourceAddr,
    /// Destination of the flows.
    pub destination: DialAddr,
    /// Live and held ports.
    pub used: u16,
    /// Ports of the address towards each destination.
    pub capacity: u16,
    /// Growth of the ports in use per second; 0 without a trend.
    pub growth: f64,
    /// Time until no port is free, at that growth; `None` without a trend.
    pub exhausted_in: Option<Duration>,
    /// True if towards exhaustion.
    pub rising: bool,
}

#[derive(Debug)]
struct TrackedDestination {
    pool: Arc<str>,
    network: IpNet,
    used: PairUse,
    past: GrowthForecast,
    /// Growth per second.
    growth: f32,
    /// True from when no port was free until more are free than chance explains.
    is_full: bool,
    exhausted_in: Option<Duration>,
    alarm: DestinationAlarm,
}

impl Forecaster {
    /// Creates one without history.
    pub fn new() -> Self {
        Self::default()
    }

    /// Samples the counts and returns the levels that were crossed. To be called once a second; missed seconds are
    /// filled in. Locks one account at a time, to read its hottest destinations.
    pub fn observe(&mut self, pools: &Pools, now: Instant) -> Vec<LevelEvent> {
        let passed = match self.looked {
            Some(looked) => (now.saturating_duration_since(looked) + Duration::from_millis(500)).as_secs(),
            None => 1,
        };
        if passed == 0 {
            return Vec::new();
        }
        let passed = u16::try_from(passed).unwrap_or(u16::MAX);
        self.looked = Some(match self.looked {
            Some(looked) if passed <= LONGEST_GAP => looked + Duration::from_secs(passed.into()),
            _ => now,
        });
        let found = pools.hottest(FOLLOWED, &mut self.cursor);
        self.recount(pools, passed, now);
        self.follow(found);
        self.evict();
        let mut events = Vec::new();
        for (&(source, to), followed) in &mut self.followed {
            followed.judge(source, to, now, &mut events);
        }
        events
    }

    /// Returns the hottest destinations as of now, at most five per address, the hottest first; growth as of the last
    /// observation.
    pub fn rows(&self, pools: &Pools, now: Instant) -> Vec<HotRow> {
        let mut rows: Vec<_> = (self.followed.iter())
            .filter_map(|(&(source, to), followed)| {
                let used = pools.pair(&followed.pool, source, to, now)?;
                (used.in_use() >= hot::threshold(used.capacity)).then(|| followed.row(source, to, used))
            })
            .collect();
        rows.sort_by_key(|row| (Arc::clone(&row.pool), row.network, Reverse(row.live + row.held)));
        let mut place = 0;
        let mut last = None;
        rows.retain(|row| {
            place = if last == Some(row.network) { place + 1 } else { 0 };
            last = Some(row.network);
            place < ROWS
        });
        rows
    }

    /// Earliest time to exhaustion among the tracked destinations, for each row of [`super::SourceUsage`] that has a
    /// trend. As of the last observation.
    pub fn exhaustion(&self) -> HashMap<IpNet, Duration> {
        let mut soonest = HashMap::new();
        for followed in self.followed.values() {
            if let Some(left) = followed.exhausted_in {
                let known = soonest.entry(followed.network).or_insert(left);
                *known = left.min(*known);
            }
        }
        soonest
    }

    /// Samples the tracked destinations; drops those that are cold again or no longer belong to a pool.
    fn recount(&mut self, pools: &Pools, passed: u16, now: Instant) {
        self.followed.retain(|&(source, to), followed| {
            let Some(used) = pools.pair(&followed.pool, source, to, now) else {
                return false;
            };
            followed.count(used, passed);
            followed.is_pending() || used.in_use() >= hot::threshold(used.capacity).div_ceil(2)
        });
    }

    fn follow(&mut self, found: Vec<HotPair>) {
        for HotPair { pool, network, source, to, used } in found {
            let key = (source, to);
            if let Some(known) = self.followed.get_mut(&key) {
                known.pool = pool;
                known.network = network;
            } else if self.followed.len() < MOST {
                let followed = TrackedDestination::new(pool, network, used);
                self.followed.insert(key, followed);
            }
        }
    }

    /// Drops all but the hottest destinations of each address and those with a pending level or growth.
    fn evict(&mut self) {
        let mut others: Vec<_> = (self.followed.iter())
            .filter(|(_, followed)| !followed.is_pending())
            .map(|(&(source, to), followed)| (source, Reverse(followed.used.in_use()), to))
            .collect();
        others.sort_unstable();
        let mut pending: HashMap<SourceAddr, usize> = HashMap::new();
        for ((source, _), _) in self.followed.iter().filter(|(_, followed)| followed.is_pending()) {
            *pending.entry(*source).or_default() += 1;
        }
        for (source, _, to) in others {
            let place = pending.entry(source).or_default();
            *place += 1;
            if *place > FOLLOWED {
                self.followed.remove(&(source, to));
            }
        }
    }
}

impl TrackedDestination {
    fn new(pool: Arc<str>, network: IpNet, used: PairUse) -> Self {
        let mut past = GrowthForecast::default();
        past.push(f32::from(used.in_use()));
        let alarm = DestinationAlarm::default();
        Self { pool, network, used, past, growth: 0.0, is_full: false, exhausted_in: None, alarm }
    }

    fn count(&mut self, used: PairUse, passed: u16) {
        let (before, after) = (f32::from(self.used.in_use()), f32::from(used.in_use()));
        if passed > LONGEST_GAP {
            self.past.resume(after, passed);
        } else {
            let each = (after - before) / f32::from(passed);
            (1..=passed).for_each(|n| self.past.push(before + each * f32::from(n)));
        }
        self.used = used;
        let outlook = self.past.outlook(used.in_use(), used.free());
        self.growth = outlook.map_or(0.0, |outlook| outlook.growth);
        // A full pool counts as full until more ports are free than chance explains.
        self.is_full = used.free() == 0 || self.is_full && f32::from(used.free()) <= chance_of(after);
        self.exhausted_in = match outlook {
            _ if self.is_full => Some(Duration::ZERO),
            outlook => outlook.map(|outlook| outlook.exhausted_in),
        };
    }

    /// True while a level or growth has not ended, so that the destination must be followed.
    fn is_pending(&self) -> bool {
        self.alarm.is_raised() || self.past.holds()
    }

    fn judge(&mut self, source: SourceAddr, to: DialAddr, now: Instant, events: &mut Vec<LevelEvent>) {
        let (used, capacity) = (self.used.in_use(), self.used.capacity);
        let state = UsageSample { used, capacity, exhausted_in: self.exhausted_in };
        for (level, rising) in self.alarm.crossed(&state, now) {
            events.push(LevelEvent {
                level,
                pool: Arc::clone(&self.pool),
                source,
                destination: to,
                used,
                capacity,
                growth: self.growth.into(),
                exhausted_in: self.exhausted_in,
                rising,
            });
        }
    }

    fn row(&self, source: SourceAddr, to: DialAddr, used: PairUse) -> HotRow {
        HotRow {
            pool: Arc::clone(&self.pool),
            network: self.network,
            source,
            destination: to,
            live: used.live,
            held: used.held,
            capacity: used.capacity,
            growth_per_second: self.growth.into(),
            exhausted_in: self.exhausted_in,
        }
    }
}

#[cfg(test)]
mod tests;
