//! Timers of an event loop.

use super::{EventLoop, now};
use pin_project_lite::pin_project;
use slab::Slab;
use std::collections::BTreeSet;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Waits for so long, or about a millisecond more. What the clock cannot tell any more is for ever.
///
/// # Panics
///
/// When it is polled on a thread without a loop.
pub fn sleep(duration: Duration) -> Sleep {
    Sleep { due: now().checked_add(duration), key: None, local: PhantomData }
}

/// Waits for a future, but no longer than this.
///
/// # Panics
///
/// When it is polled on a thread without a loop.
pub fn timeout<F: Future>(duration: Duration, future: F) -> Timeout<F> {
    Timeout { future, sleep: sleep(duration) }
}

/// See [`sleep`].
#[derive(Debug)]
pub struct Sleep {
    due: Option<Instant>,
    /// Once it was polled.
    key: Option<u32>,
    /// It is its loop's: on another thread the key would be another timer's.
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

/// The time was over first.
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
    /// Those that are not over, the next one first.
    due: BTreeSet<(Instant, u32)>,
    /// `None`: it is over.
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

    /// When the next one is over.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Wakes those that are over.
    pub(super) fn fire(&mut self, now: Instant) {
        while self.due.first().is_some_and(|(due, _)| *due <= now)
            && let Some((_, key)) = self.due.pop_first()
            && let Some(waker) = self.all[key as usize].take()
        {
            waker.wake();
        }
    }
}
