//! The queue of ports that come back by time.

use super::account::DestinationKey;
use super::share::Share;
use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, VecDeque};
use std::time::Instant;

/// A port on its way back.
#[derive(Debug)]
pub(super) struct Rested {
    pub(super) until: Instant,
    pub(super) to: DestinationKey,
    pub(super) port: u16,
    /// Whose it was, and still counts for.
    pub(super) share: Share,
}

/// Held ports in the order in which they come back.
///
/// Nearly all rest equally long, so that they come back in the order in which they came: a plain queue, at a cost that
/// does not grow with it. Only those that are due before the queue's last go into a heap.
#[derive(Debug, Default)]
pub(super) struct Resting {
    /// `until` never descends.
    in_order: VecDeque<Rested>,
    earlier: BinaryHeap<Reverse<Rested>>,
}

impl Resting {
    pub(super) fn push(&mut self, rested: Rested) {
        if self.in_order.back().is_some_and(|last| rested.until < last.until) {
            self.earlier.push(Reverse(rested));
        } else {
            self.in_order.push_back(rested);
        }
    }

    /// The next port whose time has come.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Rested> {
        let due = |rested: &&Rested| rested.until <= now;
        let queued = self.in_order.front().filter(due);
        let heaped = self.earlier.peek().map(|Reverse(rested)| rested).filter(due);
        match (queued, heaped) {
            (None, None) => None,
            (Some(q), Some(h)) if h.until < q.until => self.earlier.pop().map(|Reverse(rested)| rested),
            (None, Some(_)) => self.earlier.pop().map(|Reverse(rested)| rested),
            (Some(_), _) => self.in_order.pop_front(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.in_order.len() + self.earlier.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Rested> {
        self.in_order.iter().chain(self.earlier.iter().map(|Reverse(rested)| rested))
    }

    /// Gives memory back once less than a quarter of it is in use.
    pub(super) fn shrink(&mut self) {
        if self.in_order.len() < self.in_order.capacity() / 4 {
            self.in_order.shrink_to(self.in_order.len() * 2);
        }
        if self.earlier.len() < self.earlier.capacity() / 4 {
            self.earlier.shrink_to(self.earlier.len() * 2);
        }
    }
}

impl Ord for Rested {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.until, self.port, self.to).cmp(&(other.until, other.port, other.to))
    }
}

impl PartialEq for Rested {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Rested {}

impl PartialOrd for Rested {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    proptest! {
        #[test]
        fn ports_come_back_in_time_order_and_never_early(
            rests in proptest::collection::vec(0u64..100, 0..80), now in 0u64..100
        ) {
            let start = crate::clock::now();
            let to = DestinationKey::default();
            let mut resting = Resting::default();
            for (port, &after) in (0u16..).zip(&rests) {
                let until = start + Duration::from_secs(after);
                resting.push(Rested { until, to, port, share: Share::NONE });
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
