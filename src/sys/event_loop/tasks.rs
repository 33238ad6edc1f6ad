//! The tasks of an event loop, and which of them are ready.

use super::EventLoop;
use super::inbox::Inbox;
use slab::Slab;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// Runs a future on the loop of this thread until it yields, panics, or the loop ends.
///
/// # Panics
///
/// On a thread without a loop.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    EventLoop::with(|event_loop| event_loop.tasks.spawn(Box::pin(future), &event_loop.inbox));
}

/// Has the task polled again after the loop has looked what else is ready. A plain wake would come before that, and tasks
/// that always have something to do would keep the loop from those that only now have.
pub fn defer(cx: &Context<'_>) {
    EventLoop::with(|event_loop| event_loop.tasks.deferred.borrow_mut().push(cx.waker().clone()));
}

/// Goes on after that; see [`defer`].
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        defer(cx);
        Poll::Pending
    })
    .await;
}

#[derive(Default)]
pub(super) struct Tasks {
    /// `None` while it is polled.
    all: RefCell<Slab<Option<Task>>>,
    ready: RefCell<VecDeque<u32>>,
    deferred: RefCell<Vec<Waker>>,
}

struct Task {
    future: Pin<Box<dyn Future<Output = ()>>>,
    alarm: Arc<Alarm>,
}

/// The key of the future that the loop runs.
pub(super) const MAIN: u32 = u32::MAX;

/// Wakes a task, from any thread.
#[derive(Debug)]
pub(super) struct Alarm {
    key: u32,
    /// The task is ready already, or over.
    rung: AtomicBool,
    inbox: Arc<Inbox>,
}

impl Alarm {
    /// Of a task that is ready, as tasks are at first.
    pub(super) fn rung(key: u32, inbox: &Arc<Inbox>) -> Arc<Self> {
        Arc::new(Self { key, rung: AtomicBool::new(true), inbox: Arc::clone(inbox) })
    }

    /// Called before the task is polled: it has to see all that it was woken for, and be woken for what comes after.
    pub(super) fn heard(&self) {
        self.rung.swap(false, Ordering::AcqRel);
    }

    fn silence(&self) {
        self.rung.store(true, Ordering::Release);
    }

    /// Puts the task among the ready ones, if this is the thread of its loop.
    fn ring_here(&self) -> bool {
        let here = EventLoop::if_any(|event_loop| {
            let ours = Arc::ptr_eq(&event_loop.inbox, &self.inbox);
            if ours {
                event_loop.tasks.push(self.key);
            }
            ours
        });
        here.unwrap_or(false)
    }
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rung.swap(true, Ordering::AcqRel) && !self.ring_here() {
            self.inbox.put(self.key);
        }
    }
}

impl Tasks {
    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()>>>, inbox: &Arc<Inbox>) {
        let mut all = self.all.borrow_mut();
        let place = all.vacant_entry();
        // More would take more memory than there is.
        let key = u32::try_from(place.key()).ok().filter(|key| *key != MAIN).expect("fewer than 2^32 tasks");
        place.insert(Some(Task { future, alarm: Alarm::rung(key, inbox) }));
        drop(all);
        self.push(key);
    }

    /// Puts a task among the ready ones.
    pub(super) fn push(&self, key: u32) {
        self.ready.borrow_mut().push_back(key);
    }

    /// Takes the next ready one out.
    pub(super) fn next(&self) -> Option<u32> {
        self.ready.borrow_mut().pop_front()
    }

    /// Whether any is ready, or will be as soon as the loop has looked what else is.
    pub(super) fn are_ready(&self) -> bool {
        !self.ready.borrow().is_empty() || !self.deferred.borrow().is_empty()
    }

    /// The loop has looked; see [`defer`].
    pub(super) fn resume_deferred(&self) {
        for waker in self.deferred.take() {
            waker.wake();
        }
    }

    /// Polls a task. A key may come late, when its task is over: then nothing happens, or another is polled in vain.
    pub(super) fn poll(&self, key: u32) {
        let place = key as usize;
        let Some(mut task) = self.all.borrow_mut().get_mut(place).and_then(Option::take) else { return };
        task.alarm.heard();
        let waker = Waker::from(Arc::clone(&task.alarm));
        let mut cx = Context::from_waker(&waker);
        // What a panic leaves behind is dropped below, and nobody looks at it.
        let polled = catch_unwind(AssertUnwindSafe(|| task.future.as_mut().poll(&mut cx)));
        if let Ok(Poll::Pending) = polled {
            self.all.borrow_mut()[place] = Some(task);
            return;
        }
        task.alarm.silence();
        end(task);
        self.all.borrow_mut().remove(place);
    }

    /// Drops all.
    pub(super) fn clear(&self) {
        // Dropped, one may spawn another.
        while !self.all.borrow().is_empty() {
            let all = self.all.take();
            all.into_iter().filter_map(|(_, task)| task).for_each(end);
        }
    }
}

/// Drops a task. Whatever panics then has said so.
fn end(task: Task) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(task)));
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks").field("all", &self.all.borrow().len()).finish_non_exhaustive()
    }
}
