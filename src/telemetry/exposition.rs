//! The Prometheus text format, version 0.0.4, for values that are read at the scrape and kept nowhere.

use super::catalogue::Metric;
use std::fmt::{Display, Write};

/// Text of one scrape. Families must be written one after the other.
pub(super) struct Exposition(String);

impl Exposition {
    /// Appends to what is there.
    pub(super) fn after(text: String) -> Self {
        Self(text)
    }

    /// The `# HELP` and `# TYPE` lines of a family; its samples follow.
    pub(super) fn family(&mut self, metric: &Metric) {
        let Metric { name, help, kind, .. } = metric;
        // writing to a String cannot fail, here and below
        let _ = writeln!(self.0, "# HELP {name} {}", help.replace('\\', "\\\\"));
        let _ = writeln!(self.0, "# TYPE {name} {}", kind.as_str());
    }

    /// One sample; the values of the labels in the order of the catalogue.
    pub(super) fn sample(&mut self, metric: &Metric, labels: &[&str], value: impl Display) {
        debug_assert_eq!(metric.labels.len(), labels.len(), "{}", metric.name);
        self.0.push_str(metric.name);
        let mut opening = '{';
        for (name, label) in metric.labels.iter().zip(labels) {
            let _ = write!(self.0, "{opening}{name}=\"");
            self.escaped(label);
            self.0.push('"');
            opening = ',';
        }
        if !labels.is_empty() {
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

    #[test]
    fn labels_are_escaped_and_in_order() {
        let mut text = Exposition::after(String::new());
        text.sample(&catalogue::PORTS, &["a\"b", "10.0.0.1", "c\\d\ne"], 3);
        text.sample(&catalogue::ACCEPT_ERRORS, &[], 0.5);
        assert_eq!(
            text.finish(),
            "egret_pool_ports{pool=\"a\\\"b\",source=\"10.0.0.1\",state=\"c\\\\d\\ne\"} 3\negret_accept_errors_total 0.5\n"
        );
    }
}
