//! The time window of a measurement.

use super::{Job, Report};
use crate::machine::Busy;
use egret::clock;
use std::time::{Duration, Instant};

/// Extra time for the first unit, beyond the window.
const PATIENCE: Duration = Duration::from_secs(10);

pub struct Window {
    opens: Instant,
    length: Duration,
    /// Start of the measurement.
    open: Option<(Instant, Busy)>,
    /// Units completed in the window.
    units: u64,
    started: u64,
    finished: u64,
    limit: Option<u64>,
    latencies: Vec<Duration>,
}

impl Window {
    pub fn new(job: &Job) -> Self {
        Self {
            opens: clock::now() + job.warm_up,
            length: job.window,
            open: None,
            units: 0,
            started: 0,
            finished: 0,
            limit: job.count,
            latencies: Vec::with_capacity(1 << 16),
        }
    }

    /// Opens the window in time; false when it is over. A window without any unit yet stays open for longer, so that a
    /// slow start on a busy machine does not count as a gateway without throughput.
    pub fn goes_on(&mut self) -> bool {
        let now = clock::now();
        if self.open.is_none() && now >= self.opens {
            let busy = Busy::read();
            self.open = Some((clock::now(), busy));
        }
        self.limit.is_none_or(|limit| self.finished < limit)
            && self.closes().is_none_or(|closes| now < closes)
    }

    fn closes(&self) -> Option<Instant> {
        let more = if self.units == 0 { PATIENCE } else { Duration::ZERO };
        self.open.as_ref().map(|(since, _)| *since + self.length + more)
    }

    /// Latest time for the next call of [`Window::goes_on`].
    pub fn next_edge(&self) -> Instant {
        self.closes().unwrap_or(self.opens)
    }

    /// True if another unit is to be started.
    pub fn start(&mut self) -> bool {
        let another = self.limit.is_none_or(|limit| self.started < limit);
        self.started += u64::from(another);
        another
    }

    /// Records a completed unit and its latency.
    pub fn done(&mut self, latency: Duration) {
        self.finished += 1;
        if self.count(1) {
            self.latencies.push(latency);
        }
    }

    /// Counts units; false while they are not measured.
    pub fn count(&mut self, units: u64) -> bool {
        let open = self.open.is_some();
        self.units += if open { units } else { 0 };
        open
    }

    /// Records a unit that will never complete.
    pub fn failed(&mut self) {
        self.finished += 1;
    }

    pub fn close(mut self) -> Report {
        let Some((since, busy)) = self.open else { return Report::default() };
        let now = Busy::read();
        let seconds = since.elapsed().as_secs_f64();
        self.latencies.sort_unstable();
        let quantile = |q: usize| {
            let at = (self.latencies.len() * q / 100).min(self.latencies.len().saturating_sub(1));
            self.latencies.get(at).map_or(0.0, |latency| latency.as_secs_f64() * 1e6)
        };
        Report {
            units: self.units,
            seconds,
            busy_seconds: busy.until(&now).as_secs_f64(),
            p50: quantile(50),
            p99: quantile(99),
            ..Report::default()
        }
    }
}
