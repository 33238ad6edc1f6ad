//! Numbers that any thread counts up and a scrape reads, for what is rare or belongs to nobody's flow. What flows count
//! is in `gateway::TenantMeters`, where no two workers write to one cache line.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Only grows. A clone is the same number.
#[derive(Debug, Clone, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Counts so many more.
    pub fn increment(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }

    /// How many there have been.
    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The upper bounds of a histogram's buckets: microseconds, rising. What is above the last has a bucket of its own.
pub type Bounds = [u64; 12];

/// The buckets of a histogram.
pub const BUCKETS: usize = 13;

/// The bucket of a duration, and what it adds to the sum: whole microseconds.
pub fn bucket_of(took: Duration, bounds: &Bounds) -> (usize, u64) {
    let micros = took.as_secs().saturating_mul(1_000_000).saturating_add(u64::from(took.subsec_micros()));
    // all of them, and no branch: a search would mispredict
    let below: usize = bounds.iter().map(|bound| usize::from(*bound < micros)).sum();
    (below, micros)
}

/// What a histogram holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Distribution {
    /// Of the buckets.
    pub bounds: &'static Bounds,
    /// Durations in each bucket, those of the buckets below not included.
    pub buckets: [u64; BUCKETS],
    /// The sum of all durations.
    pub micros: u64,
}

/// Durations, counted by buckets. A clone is the same numbers.
#[derive(Debug, Clone)]
pub struct Histogram(Arc<Cells>);

#[derive(Debug)]
struct Cells {
    bounds: &'static Bounds,
    buckets: [AtomicU64; BUCKETS],
    micros: AtomicU64,
}

impl Histogram {
    /// Empty.
    pub fn new(bounds: &'static Bounds) -> Self {
        let (buckets, micros) = Default::default();
        Self(Arc::new(Cells { bounds, buckets, micros }))
    }

    /// Counts a duration.
    pub fn record(&self, took: Duration) {
        let (bucket, micros) = bucket_of(took, self.0.bounds);
        self.0.micros.fetch_add(micros, Ordering::Relaxed);
        self.0.buckets[bucket].fetch_add(1, Ordering::Relaxed);
    }

    /// What it holds.
    pub fn distribution(&self) -> Distribution {
        let buckets = self.0.buckets.each_ref().map(|bucket| bucket.load(Ordering::Relaxed));
        Distribution { bounds: self.0.bounds, buckets, micros: self.0.micros.load(Ordering::Relaxed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static BOUNDS: Bounds = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000];

    #[test]
    fn a_bound_is_the_last_duration_of_its_bucket() {
        for (bucket, bound) in BOUNDS.into_iter().enumerate() {
            assert_eq!(bucket_of(Duration::from_micros(bound), &BOUNDS), (bucket, bound));
            assert_eq!(bucket_of(Duration::from_micros(bound + 1), &BOUNDS), (bucket + 1, bound + 1));
        }
        assert_eq!(bucket_of(Duration::ZERO, &BOUNDS), (0, 0));
        assert_eq!(bucket_of(Duration::MAX, &BOUNDS), (BUCKETS - 1, u64::MAX));
    }

    #[test]
    fn clones_count_together() {
        let (counter, histogram) = (Counter::default(), Histogram::new(&BOUNDS));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let (counter, histogram) = (counter.clone(), histogram.clone());
                scope.spawn(move || {
                    for micros in 0..1000 {
                        counter.increment(2);
                        histogram.record(Duration::from_micros(micros));
                    }
                });
            }
        });
        assert_eq!(counter.value(), 8000);
        let Distribution { buckets, micros, .. } = histogram.distribution();
        assert_eq!((buckets[0], buckets[2], buckets.iter().sum()), (8, 12, 4000));
        assert_eq!(micros, 4 * (0..1000).sum::<u64>());
    }
}
