//! A worker's event loop: its tasks, its timers, and the one epoll instance of its sockets.
//!
//! A loop and everything in it is confined to one thread; only wakers may be used on others. [`spawn`], [`defer_bulk`],
//! [`is_bulk_turn`], [`sleep`] and [`timeout`] are for code that runs on a loop: elsewhere they panic.

mod deferred_keepalive;
#[cfg(test)]
mod fake;
mod inbox;
mod sockets;
mod tasks;
mod timers;

#[cfg(not(test))]
use crate::clock;
use deferred_keepalive::DeferredKeepalive;
use inbox::Inbox;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use sockets::{NOBODY, Sockets};
pub(super) use sockets::{WatchedSocket, readiness};
use std::cell::RefCell;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tasks::{MAIN, TaskWaker, Tasks};
pub use tasks::{defer_bulk, is_bulk_turn, spawn, yield_now};
use timers::Timers;
pub use timers::{Elapsed, Sleep, Timeout, sleep, timeout};

/// See the [module](self).
#[derive(Debug)]
pub struct EventLoop {
    epoll: Epoll,
    sockets: RefCell<Sockets>,
    young: RefCell<DeferredKeepalive>,
    tasks: Tasks,
    timers: RefCell<Timers>,
    inbox: Arc<Inbox>,
    #[cfg(test)]
    fake: fake::Clock,
}

/// Maximum events fetched by one system call, and task polls between two such calls: tasks that are always ready must
/// not starve the others.
const ROUND: usize = 256;

/// Number of polls that take about as long as one turn of bulk tasks: if tasks of both kinds are always ready, each
/// kind gets about half of the time.
const POLLS_FOR_A_TURN: usize = 32;

/// Maximum consecutive fetches while there are more events. Sockets that always have some must not delay timers.
const MOST_FETCHES: usize = 16;

thread_local! {
    /// The loop that runs on this thread.
    static CURRENT: RefCell<Option<Rc<EventLoop>>> = const { RefCell::new(None) };
}

/// Registers a loop with its thread while it lives. Drops the spawned tasks at the end.
struct Running;

impl Running {
    fn begin(event_loop: &Rc<EventLoop>) -> Self {
        CURRENT.with_borrow_mut(|current| {
            assert!(current.is_none(), "a loop runs on this thread already");
            *current = Some(Rc::clone(event_loop));
        });
        Self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Destructors of tasks still use the loop.
        EventLoop::with(|event_loop| event_loop.tasks.clear());
        CURRENT.take();
    }
}

impl EventLoop {
    /// Runs a future and the tasks that it spawns on this thread until the future completes; remaining tasks are then
    /// dropped. A panic ends only its own task. Errors are those of the machine.
    pub fn run<R>(main: impl AsyncFnOnce(Rc<Self>) -> R) -> io::Result<R> {
        Rc::new(Self::new()?).run_here(main)
    }

    fn new() -> io::Result<Self> {
        let event_loop = Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            sockets: RefCell::default(),
            young: RefCell::default(),
            tasks: Tasks::default(),
            timers: RefCell::default(),
            inbox: Arc::new(Inbox::new()?),
            #[cfg(test)]
            fake: fake::Clock::default(),
        };
        event_loop.epoll.add(&*event_loop.inbox, EpollEvent::new(EpollFlags::EPOLLIN, NOBODY))?;
        Ok(event_loop)
    }

    fn run_here<R>(self: &Rc<Self>, main: impl AsyncFnOnce(Rc<Self>) -> R) -> io::Result<R> {
        let _running = Running::begin(self);
        let task_waker = TaskWaker::notified(MAIN, &self.inbox);
        self.tasks.push(MAIN);
        let waker = Waker::from(Arc::clone(&task_waker));
        let mut main = pin!(main(Rc::clone(self)));
        let mut poll = |key, is_bulk_turn| {
            if key != MAIN {
                self.tasks.poll(key, is_bulk_turn);
                return Poll::Pending;
            }
            self.tasks.begin(&task_waker, is_bulk_turn);
            let polled = main.as_mut().poll(&mut Context::from_waker(&waker));
            self.tasks.pause(&task_waker);
            polled
        };
        let mut events = vec![EpollEvent::empty(); ROUND];
        loop {
            let mut polls = 0;
            while polls < ROUND
                && let Some(key) = self.tasks.next()
            {
                polls += 1;
                if let Poll::Ready(result) = poll(key, false) {
                    return Ok(result);
                }
            }
            for _ in 0..=polls / POLLS_FOR_A_TURN {
                let Some(key) = self.tasks.next_turn() else { break };
                if let Poll::Ready(result) = poll(key, true) {
                    return Ok(result);
                }
            }
            self.wait(&mut events)?;
        }
    }

    /// Waits until a task is ready, unless one is, and marks tasks as ready.
    fn wait(&self, events: &mut [EpollEvent]) -> io::Result<()> {
        let mut patience = self.patience();
        // After a pause of the whole process, a timer must not win over the event that arrived in time for it.
        for _ in 0..MOST_FETCHES {
            let found = match self.epoll.wait(events, patience) {
                Ok(found) => found,
                Err(Errno::EINTR) => 0,
                Err(error) => return Err(error.into()),
            };
            #[cfg(test)]
            self.pass_time(found);
            // Wakers run while the sockets, or the timers, are borrowed. They access the tasks only.
            if self.sockets.borrow_mut().dispatch(&events[..found]) {
                self.inbox.take().into_iter().for_each(|key| self.tasks.push(key));
            }
            if found < events.len() {
                break;
            }
            patience = EpollTimeout::ZERO;
        }
        if self.timers.borrow().next().is_some() {
            self.timers.borrow_mut().fire(now());
        }
        Ok(())
    }

    /// Maximum time to wait for events.
    fn patience(&self) -> EpollTimeout {
        if self.tasks.are_ready() {
            return EpollTimeout::ZERO;
        }
        #[cfg(test)]
        if self.fake.is_used() {
            return EpollTimeout::ZERO;
        }
        let Some(next) = self.timers.borrow().next() else { return EpollTimeout::NONE };
        let left = next.saturating_duration_since(now());
        // Rounded up to milliseconds. A time that is too long for epoll is waited for in parts.
        EpollTimeout::try_from(left + ALMOST_A_MILLISECOND).unwrap_or(EpollTimeout::MAX)
    }

    /// Calls `f` with the loop of this thread.
    fn with<R>(f: impl FnOnce(&Self) -> R) -> R {
        Self::if_any(f).expect("an event loop runs on this thread")
    }

    /// Like [`Self::with`], but `None` without a loop.
    fn if_any<R>(f: impl FnOnce(&Self) -> R) -> Option<R> {
        CURRENT.try_with(|current| current.borrow().as_deref().map(f)).ok().flatten()
    }
}

/// Current time of this thread's loop.
#[cfg(not(test))]
fn now() -> std::time::Instant {
    clock::now()
}

#[cfg(test)]
pub(crate) use fake::now;

const ALMOST_A_MILLISECOND: Duration = Duration::from_nanos(999_999);

#[cfg(test)]
mod tests;
