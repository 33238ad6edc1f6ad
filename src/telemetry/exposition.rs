//! States of other things, written into the text of a scrape after what the recorder holds. They are read at the scrape,
//! and are gone from it with the thing.

use super::catalogue::Metric;
use super::recorder::key;
use metrics_exporter_prometheus::LabelSet;
use metrics_exporter_prometheus::formatting::{write_help_line, write_metric_line, write_type_line};
use std::fmt::Display;

/// Text of one scrape. Families must be written one after the other.
pub(super) struct Exposition(String);

impl Exposition {
    /// After what is there already.
    pub(super) fn after(text: String) -> Self {
        Self(text)
    }

    /// The `# HELP` and `# TYPE` lines of a family; its samples follow.
    pub(super) fn family(&mut self, metric: &Metric) {
        write_help_line(&mut self.0, metric.name, None, None, metric.help);
        write_type_line(&mut self.0, metric.name, None, None, metric.kind.as_str());
    }

    /// One sample; the values of the labels in the order of the catalogue.
    pub(super) fn sample(&mut self, metric: &'static Metric, labels: &[&str], value: impl Display) {
        #[expect(
            clippy::default_trait_access,
            reason = "its type is of a crate that is not needed otherwise"
        )]
        let labels = LabelSet::from_key_and_global(&key(metric, labels), &Default::default());
        write_metric_line(&mut self.0, metric.name, None, &labels, None::<(&str, &str)>, value, None);
    }

    /// A family of one sample without labels; nothing where the value could not be read.
    pub(super) fn single<V: Display>(&mut self, metric: &'static Metric, value: Option<V>) {
        if let Some(value) = value {
            self.family(metric);
            self.sample(metric, &[], value);
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

    #[test]
    fn labels_are_escaped_and_in_order() {
        let mut text = Exposition::after("before\n".to_owned());
        text.sample(&catalogue::PORTS, &["a\"b", "10.0.0.1", "c\\d\ne"], 3);
        text.sample(&catalogue::ACCEPT_ERRORS, &[], 0.5);
        assert_eq!(
            text.finish(),
            "before\negret_pool_ports{pool=\"a\\\"b\",source=\"10.0.0.1\",state=\"c\\\\d\\ne\"} 3\negret_accept_errors_total 0.5\n"
        );
    }
}
