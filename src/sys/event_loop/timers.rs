//! Timers of an event loop.

use super::{EventLoop, now};
use pin_project_lite::pin_project;
use slab::Slab;
use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Sleeps for this time, or about a millisecond more. A time beyond the clock's range never ends.
///
/// # Panics
///
/// If polled on a thread without a loop.
pub fn sleep(duration: Duration) -> Sleep {
    Sleep { due: now().checked_add(duration), key: None, local: PhantomData }
}

/// Limits a future to this time.
///
/// # Panics
///
/// If polled on a thread without a loop.
pub fn timeout<F: Future>(duration: Duration, future: F) -> Timeout<F> {
    Timeout { future, sleep: sleep(duration) }
}

/// See [`sleep`].
#[derive(Debug)]
pub struct Sleep {
    due: Option<Instant>,
    /// Key of the timer, from the first poll on.
    key: Option<u32>,
    /// Not `Send`: on another thread the key would be another timer's.
    local: PhantomData<*const ()>,
}

pin_project! {
    /// See [`timeout`].
    #[derive(Debug)]
    pub struct Timeout<F> {
        #[pin]
        future: F,
        sleep: Sleep,
    }
}

/// The time was over before the future completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(due) = self.due else { return Poll::Pending };
        EventLoop::with(|event_loop| {
            let timers = &mut *event_loop.timers.borrow_mut();
            match self.key {
                None => {
                    self.key = Some(timers.set(due, cx.waker().clone()));
                    Poll::Pending
                }
                Some(key) => match &mut timers.all[key as usize] {
                    Some(waker) => {
                        waker.clone_from(cx.waker());
                        Poll::Pending
                    }
                    None => Poll::Ready(()),
                },
            }
        })
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if let (Some(key), Some(due)) = (self.key, self.due) {
            EventLoop::if_any(|event_loop| event_loop.timers.borrow_mut().unset(due, key));
        }
    }
}

impl<F: Future> Future for Timeout<F> {
    type Output = Result<F::Output, Elapsed>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.future.poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => Pin::new(this.sleep).poll(cx).map(|()| Err(Elapsed)),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Timers {
    /// Pending timers, the next one first.
    due: BTreeSet<(Instant, u32)>,
    /// `None`: expired.
    all: Slab<Option<Waker>>,
}

impl Timers {
    fn set(&mut self, due: Instant, waker: Waker) -> u32 {
        let key = u32::try_from(self.all.insert(Some(waker))).expect("fewer than 2^32 timers");
        self.due.insert((due, key));
        key
    }

    fn unset(&mut self, due: Instant, key: u32) {
        if self.all.remove(key as usize).is_some() {
            self.due.remove(&(due, key));
        }
    }

    /// Time of the next expiry.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Wakes the expired timers.
    pub(super) fn fire(&mut self, now: Instant) {
        while self.due.first().is_some_and(|(due, _)| *due <= now)
            && let Some((_, key)) = self.due.pop_first()
            && let Some(waker) = self.all[key as usize].take()
        {
            waker.wake();
        }
    }
}
