//! A time with an explicit offset.

use super::diagnostic::Diagnostics;
use super::schema::Describe;
use super::value::Value;
use super::value_types::ValueType;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use toml::de::DeValue;

/// A time with an explicit offset.
pub(super) struct MomentType;

impl Describe for MomentType {
    fn describe(&self) -> String {
        "date, or time in RFC 3339 with its offset".to_owned()
    }
}

impl ValueType for MomentType {
    type Value = Timestamp;
    fn read(&self, value: Value<'_>, out: &mut Diagnostics) -> Option<Timestamp> {
        // TOML has a native date type.
        let found = if let DeValue::Datetime(time) = value.node() {
            parse(&time.to_string())
        } else {
            value.text().and_then(parse)
        };
        let help = "write it as in \"2026-12-31\" or \"2026-12-31T18:00:00Z\"";
        found.or_else(|| value.wrong(out, "not a date, nor a time with its offset from UTC", help))
    }
}

/// Parses a date, which means its start in UTC. A time of day needs an offset, or it would be ambiguous.
fn parse(text: &str) -> Option<Timestamp> {
    if text.len() == "2026-12-31".len() {
        let date: Date = text.parse().ok()?;
        return Some(date.to_zoned_datetime(TimeZone::UTC).ok()?.timestamp());
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn date_means_midnight_and_time_needs_offset() {
        let at = |text: &str| parse(text).map(|time| time.to_string());
        assert_eq!(at("2026-12-31").as_deref(), Some("2026-12-31T00:00:00Z"));
        assert_eq!(at("2026-12-31T18:00:00+02:00").as_deref(), Some("2026-12-31T16:00:00Z"));
        assert_eq!(at("2026-12-31 18:00:00Z").as_deref(), Some("2026-12-31T18:00:00Z"));
        for wrong in ["", "2026-13-01", "2026-12-31T18:00:00", "31.12.2026", "tomorrow", "12-31-2026"] {
            assert_eq!(at(wrong), None, "{wrong}");
        }
    }
}
