//! The metrics recorder: counters, gauges and histograms that stay once they are there, by the catalogue.

use super::catalogue::{ALL, Metric, MetricKind};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder as _};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};

const METADATA: Metadata<'static> = Metadata::new("egret", Level::INFO, None);

/// A recorder of its own: nothing is global, and two gateways in one process count apart.
pub(super) struct Recorder(PrometheusRecorder);

impl Recorder {
    /// With the texts and the buckets of the catalogue.
    pub(super) fn new() -> Self {
        let mut builder = PrometheusBuilder::new();
        for metric in ALL {
            if let MetricKind::Histogram(bounds) = metric.kind {
                let of_metric = Matcher::Full(metric.name.to_owned());
                builder =
                    builder.set_buckets_for_metric(of_metric, bounds).expect("every histogram has buckets");
            }
        }
        let recorder = builder.build_recorder();
        for metric in ALL {
            let (name, help) = (KeyName::from_const_str(metric.name), metric.help.into());
            match metric.kind {
                MetricKind::Counter => recorder.describe_counter(name, None, help),
                MetricKind::Gauge => recorder.describe_gauge(name, None, help),
                MetricKind::Histogram(_) => recorder.describe_histogram(name, None, help),
            }
        }
        Self(recorder)
    }

    /// The counter with these labels, in the order of the catalogue.
    pub(super) fn counter(&self, metric: &'static Metric, labels: &[&str]) -> Counter {
        debug_assert_eq!(metric.kind, MetricKind::Counter, "{}", metric.name);
        self.0.register_counter(&key(metric, labels), &METADATA)
    }

    /// The gauge with these labels, in the order of the catalogue.
    pub(super) fn gauge(&self, metric: &'static Metric, labels: &[&str]) -> Gauge {
        debug_assert_eq!(metric.kind, MetricKind::Gauge, "{}", metric.name);
        self.0.register_gauge(&key(metric, labels), &METADATA)
    }

    /// The histogram with these labels, in the order of the catalogue.
    pub(super) fn histogram(&self, metric: &'static Metric, labels: &[&str]) -> Histogram {
        debug_assert!(matches!(metric.kind, MetricKind::Histogram(_)), "{}", metric.name);
        self.0.register_histogram(&key(metric, labels), &METADATA)
    }

    /// Sorts what histograms were told since the last time into buckets. Due each second: it is kept one by one until then.
    pub(super) fn upkeep(&self) {
        self.0.handle().run_upkeep();
    }

    /// Everything, in the Prometheus text format.
    pub(super) fn render(&self) -> String {
        self.0.handle().render()
    }
}

/// A series, for the recorder and for the text of a scrape.
pub(super) fn key(metric: &'static Metric, labels: &[&str]) -> Key {
    debug_assert_eq!(metric.labels.len(), labels.len(), "{}", metric.name);
    let labels = metric.labels.iter().zip(labels);
    let labels: Vec<_> = labels.map(|(&name, &value)| Label::new(name, value.to_owned())).collect();
    Key::from_parts(metric.name, labels)
}
