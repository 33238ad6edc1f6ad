//! Tasks of an event loop and their run queues.

use super::EventLoop;
use super::inbox::Inbox;
use slab::Slab;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// Runs a future on the loop of this thread until it completes, panics, or the loop ends.
///
/// # Panics
///
/// On a thread without a loop.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    EventLoop::with(|event_loop| event_loop.tasks.spawn(Box::pin(future), &event_loop.inbox));
}

/// Makes the current task wait for a turn, before a poll that may take long. Turns are given one at a time, in the
/// order of requests, between rounds of all ready tasks. Until then the task is not polled.
pub fn defer_bulk() {
    EventLoop::with(|event_loop| event_loop.tasks.gives_way.set(true));
}

/// True if this poll is a turn that the task waited for.
pub fn is_bulk_turn() -> bool {
    EventLoop::with(|event_loop| event_loop.tasks.is_bulk_turn.get())
}

/// Continues after all ready tasks have been polled.
pub async fn yield_now() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[derive(Default)]
pub(super) struct Tasks {
    /// `None` while the task is polled.
    all: RefCell<Slab<Option<Task>>>,
    ready: RefCell<VecDeque<u32>>,
    /// Tasks that wait for their turn; they count as notified.
    gave_way: RefCell<VecDeque<u32>>,
    /// For the current poll: true if it is a turn, and if its task requests one.
    is_bulk_turn: Cell<bool>,
    gives_way: Cell<bool>,
}

struct Task {
    future: Pin<Box<dyn Future<Output = ()>>>,
    waker: Arc<TaskWaker>,
}

/// Key of the loop's main future.
pub(super) const MAIN: u32 = u32::MAX;

/// Wakes a task, from any thread.
#[derive(Debug)]
pub(super) struct TaskWaker {
    key: u32,
    /// The task is queued already, or has ended.
    notified: AtomicBool,
    inbox: Arc<Inbox>,
}

impl TaskWaker {
    /// Creates the waker of a ready task, as tasks are at first.
    pub(super) fn notified(key: u32, inbox: &Arc<Inbox>) -> Arc<Self> {
        Arc::new(Self { key, notified: AtomicBool::new(true), inbox: Arc::clone(inbox) })
    }

    /// Prevents all later wake-ups: the task has ended.
    fn retire(&self) {
        self.notified.store(true, Ordering::Release);
    }

    /// Queues the task, if this is the thread of its loop.
    fn queue_here(&self) -> bool {
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

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.notified.swap(true, Ordering::AcqRel) && !self.queue_here() {
            self.inbox.put(self.key);
        }
    }
}

impl Tasks {
    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()>>>, inbox: &Arc<Inbox>) {
        let mut all = self.all.borrow_mut();
        let place = all.vacant_entry();
        // More would not fit in memory.
        let key = u32::try_from(place.key()).ok().filter(|key| *key != MAIN).expect("fewer than 2^32 tasks");
        place.insert(Some(Task { future, waker: TaskWaker::notified(key, inbox) }));
        drop(all);
        self.push(key);
    }

    /// Queues a ready task.
    pub(super) fn push(&self, key: u32) {
        self.ready.borrow_mut().push_back(key);
    }

    /// Takes the next ready task.
    pub(super) fn next(&self) -> Option<u32> {
        self.ready.borrow_mut().pop_front()
    }

    /// Takes the next task that waits for a turn.
    pub(super) fn next_turn(&self) -> Option<u32> {
        self.gave_way.borrow_mut().pop_front()
    }

    /// True if a task is ready, or waits for its turn.
    pub(super) fn are_ready(&self) -> bool {
        !self.ready.borrow().is_empty() || !self.gave_way.borrow().is_empty()
    }

    /// Called before a poll: the task sees everything that it was woken for, and later events wake it again.
    pub(super) fn begin(&self, waker: &TaskWaker, is_bulk_turn: bool) {
        waker.notified.swap(false, Ordering::AcqRel);
        self.is_bulk_turn.set(is_bulk_turn);
        self.gives_way.set(false);
    }

    /// Called after a poll, if the task is pending. If woken meanwhile it is ready, and may wait for a turn then.
    pub(super) fn pause(&self, waker: &TaskWaker) {
        if self.gives_way.get() && !waker.notified.swap(true, Ordering::AcqRel) {
            self.gave_way.borrow_mut().push_back(waker.key);
        }
    }

    /// Polls a task. A key may be stale, when its task has ended: then nothing happens, or a task is polled in vain.
    pub(super) fn poll(&self, key: u32, is_bulk_turn: bool) {
        let place = key as usize;
        let Some(mut task) = self.all.borrow_mut().get_mut(place).and_then(Option::take) else { return };
        self.begin(&task.waker, is_bulk_turn);
        let waker = Waker::from(Arc::clone(&task.waker));
        let mut cx = Context::from_waker(&waker);
        // After a panic the task is only dropped, below.
        let polled = catch_unwind(AssertUnwindSafe(|| task.future.as_mut().poll(&mut cx)));
        if let Ok(Poll::Pending) = polled {
            self.pause(&task.waker);
            self.all.borrow_mut()[place] = Some(task);
            return;
        }
        task.waker.retire();
        end(task);
        self.all.borrow_mut().remove(place);
    }

    /// Drops all tasks.
    pub(super) fn clear(&self) {
        // A destructor may spawn a task.
        while !self.all.borrow().is_empty() {
            let all = self.all.take();
            all.into_iter().filter_map(|(_, task)| task).for_each(end);
        }
    }
}

/// Drops a task. A panic in its destructor was already reported.
fn end(task: Task) {
    let _ = catch_unwind(AssertUnwindSafe(|| drop(task)));
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks").field("all", &self.all.borrow().len()).finish_non_exhaustive()
    }
}
