//! Port count of the busiest destination, exact and in constant time.

/// Histogram: number of destinations with 1, 2, 3 … ports in use.
///
/// Counts change by one, so the maximum does too: when the last destination at the top loses a port, it is the new
/// maximum.
#[derive(Debug, Default)]
pub(super) struct BusiestHistogram {
    /// Indexed by ports in use. `destinations[n] == 0` for every `n > top`; the first is unused.
    destinations: Vec<u32>,
    top: u16,
}

impl BusiestHistogram {
    /// Ports in use towards the busiest destination; 0 if there are none.
    pub(super) fn ports(&self) -> u16 {
        self.top
    }

    /// Records that a destination went from one fewer to `now` ports.
    pub(super) fn rose(&mut self, now: u16) {
        let n = usize::from(now);
        if self.destinations.len() <= n {
            self.destinations.resize(n + 1, 0);
        }
        if n > 1 {
            self.destinations[n - 1] -= 1;
        }
        self.destinations[n] += 1;
        self.top = self.top.max(now);
    }

    /// Records that a destination went from one more to `now` ports.
    pub(super) fn fell(&mut self, now: u16) {
        let n = usize::from(now);
        self.destinations[n + 1] -= 1;
        if n > 0 {
            self.destinations[n] += 1;
        }
        if self.top == now + 1 && self.destinations[n + 1] == 0 {
            self.top = now;
        }
    }

    /// Releases memory once less than a quarter of it is in use.
    pub(super) fn shrink(&mut self) {
        self.destinations.truncate(usize::from(self.top) + 1);
        if self.destinations.len() < self.destinations.capacity() / 4 {
            self.destinations.shrink_to(self.destinations.len() * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn busiest_matches_naive_maximum(steps in proptest::collection::vec((0usize..5, any::<bool>()), 0..300)) {
            let mut counts = [0u16; 5];
            let mut busiest = BusiestHistogram::default();
            for (which, up) in steps {
                if up {
                    counts[which] += 1;
                    busiest.rose(counts[which]);
                } else if counts[which] > 0 {
                    counts[which] -= 1;
                    busiest.fell(counts[which]);
                } else {
                    busiest.shrink();
                }
                prop_assert_eq!(busiest.ports(), counts.into_iter().max().unwrap());
            }
        }
    }
}
