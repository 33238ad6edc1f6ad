//! The time in which is measured.

use super::{Job, Report};
use crate::machine::Busy;
use egret::clock;
use std::time::{Duration, Instant};

pub struct Window {
    opens: Instant,
    length: Duration,
    /// Since it is open.
    open: Option<(Instant, Busy)>,
    /// Done while it was open.
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

    /// Opens it when it is time; false when it is over.
    pub fn goes_on(&mut self) -> bool {
        let now = clock::now();
        if self.open.is_none() && now >= self.opens {
            let busy = Busy::read();
            self.open = Some((clock::now(), busy));
        }
        self.limit.is_none_or(|limit| self.finished < limit)
            && self.open.as_ref().is_none_or(|(since, _)| now < *since + self.length)
    }

    /// When [`Window::goes_on`] has to be asked at the latest.
    pub fn next_edge(&self) -> Instant {
        self.open.as_ref().map_or(self.opens, |(since, _)| *since + self.length)
    }

    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Whether there is another unit to start.
    pub fn start(&mut self) -> bool {
        let another = self.limit.is_none_or(|limit| self.started < limit);
        self.started += u64::from(another);
        another
    }

    /// One unit is done, and took so long.
    pub fn done(&mut self, latency: Duration) {
        self.finished += 1;
        if self.is_open() {
            self.units += 1;
            self.latencies.push(latency);
        }
    }

    /// One unit will never be done.
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
