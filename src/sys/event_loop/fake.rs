//! Simulated time for tests.

use super::{CURRENT, EventLoop};
use crate::clock;
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub(super) struct Clock {
    used: Cell<bool>,
    ahead: Cell<Duration>,
}

impl Clock {
    pub(super) fn is_used(&self) -> bool {
        self.used.get()
    }
}

/// Current time of this thread's loop; without one, the clock's.
pub(crate) fn now() -> Instant {
    let ahead = CURRENT.with_borrow(|current| current.as_ref().map(|event_loop| event_loop.fake.ahead.get()));
    clock::now() + ahead.unwrap_or_default()
}

impl EventLoop {
    /// Like [`EventLoop::run`], but when idle, time advances at once to the next timer.
    pub(crate) fn run_fast<R>(main: impl AsyncFnOnce(Rc<Self>) -> R) -> io::Result<R> {
        let event_loop = Rc::new(Self::new()?);
        event_loop.fake.used.set(true);
        event_loop.run_here(main)
    }

    /// Advances the time.
    pub(crate) fn advance(&self, time: Duration) {
        self.fake.ahead.set(self.fake.ahead.get() + time);
        self.timers.borrow_mut().fire(now());
    }

    pub(super) fn pass_time(&self, events: usize) {
        let next = self.timers.borrow().next();
        if self.fake.is_used()
            && events == 0
            && !self.tasks.are_ready()
            && let Some(next) = next
        {
            self.advance(next.saturating_duration_since(now()));
        }
    }
}
