//! Destinations of one source address with many ports in use, indexed so that the others are not scanned.

use super::destination_key::DestinationKey;
use std::collections::BTreeSet;

/// Destinations above a threshold of use, in classes one hundredth of the capacity wide.
///
/// A destination enters and changes class only when its count crosses a boundary, and goes back only half a class below
/// it (hysteresis): a million cold destinations cost nothing, and a hot one in a large pool is updated with every three
/// hundredth lease. Finding the hottest costs time proportional to their number.
#[derive(Debug)]
pub(super) struct HotDestinations {
    classes: BTreeSet<(u8, DestinationKey)>,
    /// Ports in use at the lower end of the first class; `>= 1`
    threshold: u16,
    /// Width of a class, in ports; `>= 1`
    width: u16,
}

/// Ports in use from which a destination is hot: more than 1 % of the capacity. In small pools a few flows exceed that
/// by chance, so it also takes six ports or a quarter of the capacity.
pub(super) fn threshold(capacity: u16) -> u16 {
    (capacity / 100 + 1).max(capacity.div_ceil(4).min(6))
}

impl HotDestinations {
    pub(super) fn new(capacity: u16) -> Self {
        Self { classes: BTreeSet::new(), threshold: threshold(capacity), width: (capacity / 100).max(1) }
    }

    /// Updates a destination of that class (0: cold) to its ports in use. Must be called down to 0 ports.
    pub(super) fn changed(&mut self, to: DestinationKey, class: &mut u8, in_use: u16) {
        let fresh = self.class(in_use);
        let rises = fresh > *class;
        let falls = fresh < *class && self.class(in_use.saturating_add(self.width / 2)) < *class;
        if !rises && !falls {
            return;
        }
        if *class > 0 {
            self.classes.remove(&(*class, to));
        }
        if fresh > 0 {
            self.classes.insert((fresh, to));
        }
        *class = fresh;
    }

    /// Iterates from the hottest on, to within one hundredth of the capacity.
    pub(super) fn iter(&self) -> impl Iterator<Item = DestinationKey> {
        self.classes.iter().rev().map(|&(_, to)| to)
    }

    /// Class for a count; at most 195, at a capacity of 199.
    fn class(&self, in_use: u16) -> u8 {
        match in_use.checked_sub(self.threshold) {
            None => 0,
            Some(above) => u8::try_from(above / self.width + 1).unwrap_or(u8::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::DialAddr;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    #[test]
    fn hottest_order_is_within_one_percent() {
        for capacity in [1u16, 2, 4, 16, 99, 100, 199, 200, 1000, 64_511, 65_535] {
            let mut rng = StdRng::seed_from_u64(7);
            let mut hot = HotDestinations::new(capacity);
            let destinations: Vec<DestinationKey> =
                (0..40).map(|n| DialAddr::tcp(([192, 0, 2, n], 443).into()).into()).collect();
            let mut counts = [(0u16, 0u8); 40];
            for _ in 0..20_000 {
                let n = rng.random_range(0..40);
                let (count, class) = &mut counts[n];
                let step = rng.random_range(1..=capacity.div_ceil(20));
                *count = if rng.random() {
                    count.saturating_sub(step)
                } else {
                    count.saturating_add(step).min(capacity)
                };
                hot.changed(destinations[n], class, *count);
            }
            let of = |to| counts[destinations.iter().position(|&d| d == to).unwrap()].0;
            let found: Vec<u16> = hot.iter().map(of).collect();
            let slack = hot.width + hot.width / 2;
            assert!(
                found.windows(2).all(|two| two[0].saturating_add(slack) >= two[1]),
                "{capacity}: {found:?}"
            );
            for (to, (count, _)) in destinations.iter().zip(&counts) {
                if *count >= hot.threshold {
                    assert!(hot.iter().any(|d| d == *to), "{capacity}: {count} ports are not found");
                }
            }
            for (to, (_, class)) in destinations.iter().zip(&mut counts) {
                hot.changed(*to, class, 0);
            }
            assert_eq!(hot.iter().count(), 0, "{capacity}");
        }
    }

    #[test]
    fn small_pools_have_a_threshold_of_their_own() {
        let thresholds = [(1, 1), (2, 1), (4, 1), (16, 4), (100, 6), (600, 7), (64_500, 646)];
        for (capacity, expected) in thresholds {
            assert_eq!(threshold(capacity), expected, "{capacity}");
        }
    }
}
