//! Exhaustion forecast of the running gateway, for the log and for queries.

use crate::egress::{Forecaster, HotRow, LevelEvent, Pools};
use crate::flow::{FlowTable, PairFlows};
use ipnet::IpNet;
use std::collections::HashMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Tenants and clients named in each event.
const NAMED: usize = 3;

/// Shared by the main thread and the threads that render scrapes; no worker waits for it.
#[derive(Clone, Default)]
pub(crate) struct ForecastHandle(Arc<Mutex<Forecaster>>);

impl ForecastHandle {
    /// Samples the pools, and logs the level that each destination has reached or left, with the name and the main holders of
    /// its ports.
    pub(crate) fn observe(&self, pools: &Pools, table: &FlowTable, now: Instant) {
        let events = merged(self.lock().observe(pools, now));
        if events.is_empty() {
            return;
        }
        let pairs: Vec<_> = events.iter().map(|event| (event.source, event.destination)).collect();
        for (event, flows) in events.iter().zip(table.towards(&pairs, None, NAMED)) {
            log(event, &flows);
        }
    }

    /// As [`Forecaster::rows`].
    pub(crate) fn rows(&self, pools: &Pools, now: Instant) -> Vec<HotRow> {
        self.lock().rows(pools, now)
    }

    /// As [`Forecaster::exhaustion`].
    pub(crate) fn exhaustion(&self) -> HashMap<IpNet, Duration> {
        self.lock().exhaustion()
    }

    fn lock(&self) -> MutexGuard<'_, Forecaster> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Merges each destination's crossings of one look: keeps the highest level reached and the lowest level left, which imply the
/// others. Events of a destination are adjacent, the lowest level first.
fn merged(events: Vec<LevelEvent>) -> Vec<LevelEvent> {
    let mut told: Vec<LevelEvent> = Vec::with_capacity(events.len());
    for event in events {
        let is_same = |last: &LevelEvent| {
            (last.source, last.destination, last.rising) == (event.source, event.destination, event.rising)
        };
        match told.last_mut().filter(|last| is_same(last)) {
            Some(last) if event.rising => *last = event,
            Some(_) => {}
            None => told.push(event),
        }
    }
    told
}

/// Logs a crossing: a warning upwards, an info downwards.
fn log(event: &LevelEvent, flows: &PairFlows) {
    let LevelEvent { level, pool, source, destination, used, capacity, growth, exhausted_in, rising } = event;
    let level = level.as_str();
    let hostname = flows.hostname.as_ref().map(tracing::field::display);
    let exhausted_in_seconds = exhausted_in.map(|left| left.as_secs());
    let tenants = listed(&flows.tenants, |(tenant, ports)| format!("{tenant} {ports}"));
    let clients = listed(&flows.holders, |holder| format!("{} {}", holder.client, holder.ports));
    if *rising {
        tracing::warn!(
            level, %pool, %source, %destination, hostname, used, capacity, growth_per_second = growth,
            exhausted_in_seconds, %tenants, %clients, "source ports towards a destination run out"
        );
    } else {
        tracing::info!(
            level, %pool, %source, %destination, hostname, used, capacity, growth_per_second = growth,
            exhausted_in_seconds, %tenants, %clients, "source ports towards a destination suffice again"
        );
    }
}

/// `a 12, b 3`
fn listed<T>(all: &[T], each: impl Fn(&T) -> String) -> impl Display {
    all.iter().map(each).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{DialAddr, OriginalDestination, SourceAddr};
    use crate::egress::UsageLevel::{self, ExhaustedSoon, Percent70, Percent85, Percent95};

    fn event(source: &str, level: UsageLevel, rising: bool) -> LevelEvent {
        LevelEvent {
            level,
            pool: "acme".into(),
            source: SourceAddr::new(source.parse().unwrap()),
            destination: DialAddr::from(OriginalDestination::tcp("198.51.100.9:443".parse().unwrap())),
            used: 10,
            capacity: 10,
            growth: 0.0,
            exhausted_in: None,
            rising,
        }
    }

    #[test]
    fn one_look_logs_one_level() {
        let [one, other] = ["203.0.113.1", "203.0.113.2"];
        let events = [
            event(one, Percent70, true),
            event(one, Percent85, true),
            event(one, Percent95, true),
            event(one, ExhaustedSoon, true),
            event(other, Percent85, false),
            event(other, Percent95, false),
            event(other, ExhaustedSoon, true),
        ];
        let told: Vec<_> = merged(events.into()).iter().map(|event| (event.level, event.rising)).collect();
        assert_eq!(told, [(ExhaustedSoon, true), (Percent85, false), (ExhaustedSoon, true)]);
    }
}
