//! Simulated time for tests.

use super::{CURRENT, EventLoop};
use crate::clock;
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub(super) struct Clock {
    /// Simulated time, which stands still between timers; `None` in a loop that goes by the clock.
    time: Cell<Option<Instant>>,
}

impl Clock {
    pub(super) fn is_used(&self) -> bool {
        self.time.get().is_some()
    }
}

/// Current time of this thread's loop; without one, the clock's.
pub(crate) fn now() -> Instant {
    let time =
        CURRENT.with_borrow(|current| current.as_ref().and_then(|event_loop| event_loop.fake.time.get()));
    time.unwrap_or_else(clock::now)
}

impl EventLoop {
    /// Like [`EventLoop::run`], but time stands still, and when idle, it advances at once to the next timer.
    pub(crate) fn run_fast<R>(main: impl AsyncFnOnce(Rc<Self>) -> R) -> io::Result<R> {
        let event_loop = Rc::new(Self::new()?);
        event_loop.fake.time.set(Some(clock::now()));
        event_loop.run_here(main)
    }

    /// Advances the time.
    pub(crate) fn advance(&self, time: Duration) {
        self.fake.time.set(Some(now() + time));
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
