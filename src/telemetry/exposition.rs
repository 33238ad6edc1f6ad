//! The Prometheus text format, version 0.0.4.

use super::catalogue::{Metric, seconds};
use crate::count::Distribution;
use std::fmt::{Display, Write};

/// Text of one scrape. Families must be written one after the other.
#[derive(Default)]
pub(super) struct Exposition(String);

impl Exposition {
    /// The `# HELP` and `# TYPE` lines of a family; its samples follow.
    pub(super) fn family(&mut self, metric: &Metric) {
        let Metric { name, help, kind, .. } = metric;
        // writing to a String cannot fail, here and below
        let _ = writeln!(self.0, "# HELP {name} {}", help.replace('\\', "\\\\"));
        let _ = writeln!(self.0, "# TYPE {name} {}", kind.as_str());
    }

    /// One sample; the values of the labels in the order of the catalogue.
    pub(super) fn sample(&mut self, metric: &Metric, labels: &[&str], value: impl Display) {
        self.line(metric, "", labels, None, value);
    }

    /// The samples of a histogram.
    pub(super) fn distribution(&mut self, metric: &Metric, labels: &[&str], seen: &Distribution) {
        let (mut count, bounds) = (0, seen.bounds.iter().map(|bound| seconds(*bound).to_string()));
        for (bound, bucket) in bounds.chain(["+Inf".to_owned()]).zip(seen.buckets) {
            count += bucket;
            self.line(metric, "_bucket", labels, Some(&bound), count);
        }
        self.line(metric, "_sum", labels, None, seconds(seen.micros));
        self.line(metric, "_count", labels, None, count);
    }

    fn line(
        &mut self,
        metric: &Metric,
        suffix: &str,
        labels: &[&str],
        bound: Option<&str>,
        value: impl Display,
    ) {
        debug_assert_eq!(metric.labels.len(), labels.len(), "{}", metric.name);
        self.0.push_str(metric.name);
        self.0.push_str(suffix);
        let mut opening = '{';
        let labels = metric.labels.iter().copied().zip(labels.iter().copied());
        for (name, label) in labels.chain(bound.map(|bound| ("le", bound))) {
            let _ = write!(self.0, "{opening}{name}=\"");
            self.escaped(label);
            self.0.push('"');
            opening = ',';
        }
        if opening == ',' {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    /// A family of one sample without labels; nothing where the value could not be read.
    pub(super) fn single<V: Display>(&mut self, metric: &Metric, value: Option<V>) {
        if let Some(value) = value {
            self.family(metric);
            self.sample(metric, &[], value);
        }
    }

    fn escaped(&mut self, label: &str) {
        for c in label.chars() {
            match c {
                '\\' => self.0.push_str("\\\\"),
                '"' => self.0.push_str("\\\""),
                '\n' => self.0.push_str("\\n"),
                c => self.0.push(c),
            }
        }
    }

    /// The whole text.
    pub(super) fn finish(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::super::catalogue;
    use super::*;
    use crate::gateway::Timed;

    #[test]
    fn labels_are_escaped_and_in_order() {
        let mut text = Exposition::default();
        text.sample(&catalogue::PORTS, &["a\"b", "10.0.0.1", "c\\d\ne"], 3);
        text.sample(&catalogue::ACCEPT_ERRORS, &[], 0.5);
        assert_eq!(
            text.finish(),
            "egret_pool_ports{pool=\"a\\\"b\",source=\"10.0.0.1\",state=\"c\\\\d\\ne\"} 3\negret_accept_errors_total 0.5\n"
        );
    }
    #[test]
    fn buckets_add_up_and_bounds_are_seconds() {
        let buckets = [1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4];
        let seen = Distribution { bounds: Timed::Connect.bounds(), buckets, micros: 60_004_250 };
        let mut text = Exposition::default();
        text.distribution(&catalogue::CONNECT_DURATION, &["a"], &seen);
        let text = text.finish().replace("egret_connect_duration_seconds", "");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "_bucket{tenant=\"a\",le=\"0.001\"} 1");
        assert_eq!(lines[2], "_bucket{tenant=\"a\",le=\"0.005\"} 3");
        let end = ["_bucket{tenant=\"a\",le=\"2.9\"} 3", "_bucket{tenant=\"a\",le=\"10\"} 3"];
        assert_eq!(lines[10..12], end);
        let end =
            ["_bucket{tenant=\"a\",le=\"+Inf\"} 7", "_sum{tenant=\"a\"} 60.00425", "_count{tenant=\"a\"} 7"];
        assert_eq!(lines[12..], end);
    }
}
