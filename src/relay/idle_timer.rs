//! Idle timer: ends flows that are silent for too long.
//!
//! Reads and writes do not touch the timer: a slow tick compares the bytes moved with those at the last tick. A flow
//! without an idle timeout has no timer until one side has finished.

use super::end::RelayEnd;
use crate::sys::event_loop::{Sleep, sleep};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// Idle and half-open timeouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdleTimeouts {
    /// No byte either way for this long ends the flow. `None`: never; keepalive finds dead peers.
    pub idle: Option<Duration>,
    /// No byte for this long after one side has finished ends the flow.
    pub half_open: Duration,
}

/// A period is measured in this many ticks, so a flow ends at most a quarter of the period late.
const TICKS: u32 = 4;

pub(super) struct IdleTimer<'a> {
    silence: &'a IdleTimeouts,
    tick: Option<Sleep>,
    /// Length of the current tick.
    length: Duration,
    half_open: bool,
    /// Ticks in a row without a byte.
    silent: u32,
    moved: u64,
}

impl<'a> IdleTimer<'a> {
    pub(super) fn new(silence: &'a IdleTimeouts) -> Self {
        let length = Duration::ZERO;
        Self { silence, tick: None, length, half_open: false, silent: 0, moved: 0 }
    }

    /// Ready when the flow was silent for the period that applies; `moved` is any count that grows with each byte.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, moved: u64, half_open: bool) -> Poll<RelayEnd> {
        if half_open != self.half_open {
            // The half-open period starts now. The current tick proves no silence; it continues if it ends soon enough.
            self.half_open = half_open;
            self.silent = 0;
            self.moved = moved.wrapping_sub(1);
            if self.next().is_some_and(|length| length < self.length) {
                self.tick = None;
            }
        }
        loop {
            let Some(length) = self.next() else { return Poll::Pending };
            let tick = self.tick.get_or_insert_with(|| {
                self.length = length;
                sleep(length)
            });
            if Pin::new(tick).poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.tick = None;
            self.silent = if moved == self.moved { self.silent + 1 } else { 0 };
            self.moved = moved;
            if self.silent >= TICKS {
                return Poll::Ready(if half_open { RelayEnd::HalfOpen } else { RelayEnd::Idle });
            }
        }
    }

    /// Length of the next tick; `None` without a timeout.
    fn next(&self) -> Option<Duration> {
        let period = match (self.half_open, self.silence.idle) {
            (true, Some(idle)) => Some(idle.min(self.silence.half_open)),
            (true, None) => Some(self.silence.half_open),
            (false, idle) => idle,
        };
        period.map(|period| period / TICKS)
    }
}
