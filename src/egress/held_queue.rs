//! The queue of ports that are held for a fixed time.

use super::destination_key::DestinationKey;
use super::due::{self, Due, EarliestFirst};
use super::share::Share;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Instant;

/// A port that is held until a time.
#[derive(Debug)]
pub(super) struct HeldPort {
    pub(super) until: Instant,
    pub(super) to: DestinationKey,
    pub(super) port: u16,
    /// The share that the port counts towards while it is held.
    pub(super) share: Share,
}

/// Ports in the order in which they become free.
///
/// Nearly all are held equally long and become free in FIFO order. Only a port that is due before the last in the queue
/// goes into a heap.
#[derive(Debug, Default)]
pub(super) struct HeldQueue {
    /// In ascending order of `until`.
    in_order: VecDeque<HeldPort>,
    earlier: BinaryHeap<EarliestFirst<HeldPort>>,
}

impl HeldQueue {
    pub(super) fn push(&mut self, rested: HeldPort) {
        if self.in_order.back().is_some_and(|last| rested.until < last.until) {
            self.earlier.push(EarliestFirst(rested));
        } else {
            self.in_order.push_back(rested);
        }
    }

    /// Removes the next port that is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<HeldPort> {
        let due = |rested: &&HeldPort| rested.until <= now;
        let queued = self.in_order.front().filter(due);
        let heaped = self.earlier.peek().map(|EarliestFirst(rested)| rested).filter(due);
        match (queued, heaped) {
            (None, None) => None,
            (Some(q), Some(h)) if h.until < q.until => self.earlier.pop().map(|EarliestFirst(rested)| rested),
            (None, Some(_)) => self.earlier.pop().map(|EarliestFirst(rested)| rested),
            (Some(_), _) => self.in_order.pop_front(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.in_order.len() + self.earlier.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &HeldPort> {
        self.in_order.iter().chain(self.earlier.iter().map(|EarliestFirst(rested)| rested))
    }

    /// Gives memory back once less than a quarter of it is in use.
    pub(super) fn shrink(&mut self) {
        if self.in_order.len() < self.in_order.capacity() / 4 {
            self.in_order.shrink_to(self.in_order.len() * 2);
        }
        due::shrink(&mut self.earlier);
    }
}

impl Due for HeldPort {
    fn due(&self) -> Instant {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    proptest! {
        #[test]
        fn held_ports_return_in_order(
            rests in proptest::collection::vec(0u64..100, 0..80), now in 0u64..100
        ) {
            let start = crate::clock::now();
            let to = DestinationKey::default();
            let mut resting = HeldQueue::default();
            for (port, &after) in (0u16..).zip(&rests) {
                let until = start + Duration::from_secs(after);
                resting.push(HeldPort { until, to, port, share: Share::NONE });
            }
            let now = start + Duration::from_secs(now);
            let came: Vec<_> = std::iter::from_fn(|| resting.pop_due(now)).map(|r| r.until).collect();
            prop_assert!(came.is_sorted());
            prop_assert!(came.iter().all(|&until| until <= now));
            prop_assert!(resting.iter().all(|r| r.until > now));
            prop_assert_eq!(came.len() + resting.len(), rests.len());
        }
    }
}
