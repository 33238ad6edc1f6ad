//! Priority queues ordered by due time.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Instant;

/// A value with a due time.
pub(super) trait Due {
    fn due(&self) -> Instant;
}

/// Orders a [`BinaryHeap`] by due time, the earliest first.
#[derive(Debug)]
pub(super) struct EarliestFirst<T>(pub(super) T);

impl<T: Due> Ord for EarliestFirst<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        other.0.due().cmp(&self.0.due())
    }
}

impl<T: Due> PartialOrd for EarliestFirst<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Due> PartialEq for EarliestFirst<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T: Due> Eq for EarliestFirst<T> {}

/// Releases memory once less than a quarter of it is in use.
pub(super) fn shrink<T>(heap: &mut BinaryHeap<T>) {
    if heap.len() < heap.capacity() / 4 {
        heap.shrink_to(heap.len() * 2);
    }
}
