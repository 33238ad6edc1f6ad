//! Ends flows that are silent for too long.
//!
//! Reads and writes do not touch a timer: a slow tick compares the bytes moved with those at the tick before. A flow
//! without an idle time-out has no timer until one side has finished.

use super::{End, Silence};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Sleep, sleep};

/// A period is measured in this many ticks, so a flow ends at most a quarter of the period late.
const TICKS: u32 = 4;

pub(super) struct Watch {
    silence: Silence,
    tick: Option<Pin<Box<Sleep>>>,
    half_open: bool,
    /// Ticks in a row without a byte.
    silent: u32,
    moved: u64,
}

impl Watch {
    pub(super) fn new(silence: Silence) -> Self {
        Self { silence, tick: None, half_open: false, silent: 0, moved: 0 }
    }

    /// Ready when the flow was silent for the period that applies; `moved` is any count that grows with each byte.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, moved: u64, half_open: bool) -> Poll<End> {
        if half_open != self.half_open {
            // The half-open period starts now.
            self.half_open = half_open;
            self.tick = None;
            self.silent = 0;
        }
        let Some(period) = self.period() else { return Poll::Pending };
        loop {
            let tick = self.tick.get_or_insert_with(|| Box::pin(sleep(period / TICKS)));
            if tick.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.tick = None;
            self.silent = if moved == self.moved { self.silent + 1 } else { 0 };
            self.moved = moved;
            // The first tick may have begun in the middle of traffic: it proves no silence of its own.
            if self.silent >= TICKS {
                return Poll::Ready(if half_open { End::HalfOpen } else { End::Idle });
            }
        }
    }

    fn period(&self) -> Option<Duration> {
        match (self.half_open, self.silence.idle) {
            (true, Some(idle)) => Some(idle.min(self.silence.half_open)),
            (true, None) => Some(self.silence.half_open),
            (false, idle) => idle,
        }
    }
}
