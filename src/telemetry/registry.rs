//! Numbers that any thread may count up, by family and labels.

use super::catalogue::{Kind, Metric};
use super::exposition::Exposition;
use crate::count::{Counter, Histogram};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Every such number of the process. A series stays once it is there.
#[derive(Default)]
pub(super) struct Registry {
    counters: Families<Counter>,
    histograms: Families<Histogram>,
}

impl Registry {
    /// The counter with these labels, in the order of the catalogue.
    pub(super) fn counter(&self, metric: &'static Metric, labels: &[&str]) -> Counter {
        debug_assert_eq!(metric.kind, Kind::Counter, "{}", metric.name);
        self.counters.series(metric, labels, Counter::default)
    }

    /// The histogram with these labels, in the order of the catalogue.
    pub(super) fn histogram(&self, metric: &'static Metric, labels: &[&str]) -> Histogram {
        let Kind::Histogram(bounds) = metric.kind else { panic!("{} is no histogram", metric.name) };
        self.histograms.series(metric, labels, || Histogram::new(bounds))
    }

    pub(super) fn write(&self, text: &mut Exposition) {
        for (metric, series) in self.counters.lock().values() {
            text.family(metric);
            for (labels, counter) in series {
                text.sample(metric, &values(labels), counter.value());
            }
        }
        for (metric, series) in self.histograms.lock().values() {
            text.family(metric);
            for (labels, histogram) in series {
                text.distribution(metric, &values(labels), &histogram.distribution());
            }
        }
    }
}

fn values(labels: &[Box<str>]) -> Vec<&str> {
    labels.iter().map(AsRef::as_ref).collect()
}

/// By the name of the metric, and by the values of its labels.
struct Families<T>(Mutex<BTreeMap<&'static str, Family<T>>>);

type Family<T> = (&'static Metric, BTreeMap<Box<[Box<str>]>, T>);

impl<T: Clone> Families<T> {
    fn series(&self, metric: &'static Metric, labels: &[&str], new: impl FnOnce() -> T) -> T {
        debug_assert_eq!(metric.labels.len(), labels.len(), "{}", metric.name);
        let labels = labels.iter().map(|&label| label.into()).collect();
        let mut families = self.lock();
        let (_, series) = families.entry(metric.name).or_insert_with(|| (metric, BTreeMap::new()));
        series.entry(labels).or_insert_with(new).clone()
    }

    /// A thread that panicked in here has left the map as it was.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Family<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Default for Families<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}
