//! `mode` and `monitor_until` of a tenant.

use super::catalogue::tenant;
use super::diagnostic::Diagnostics;
use super::kinds::{Describe, Kind};
use super::value::{Table, Value};
use crate::policy::Mode;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use toml::de::DeValue;

/// Time before a tenant begins to enforce at which `check` starts to warn.
const NEAR: SignedDuration = SignedDuration::from_hours(7 * 24);

/// A time with an explicit offset.
pub(super) struct Moment;

impl Describe for Moment {
    fn describe(&self) -> String {
        "date, or time in RFC 3339 with its offset".to_owned()
    }
}

impl Kind for Moment {
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

/// Reads the tenant's mode, and warns where it has no effect or soon will have none.
pub(super) fn read(table: &Table<'_>, now: Timestamp, out: &mut Diagnostics) -> Mode {
    let mode = table.read(&tenant::MODE, out).unwrap_or_default();
    let Some(until) = table.read(&tenant::MONITOR_UNTIL, out) else { return mode };
    let at = table.place_of(&tenant::MONITOR_UNTIL);
    match mode {
        Mode::Enforce => {
            let help = "remove it, or set `mode = \"monitor\"`";
            out.warning(at, "`monitor_until` changes nothing: the tenant enforces", help);
        }
        Mode::Monitor { .. } if until <= now => {
            let help = "set `mode = \"enforce\"` and remove it, or set a later one";
            out.warning(at, format!("`monitor_until`: {until} is past, and the tenant enforces"), help);
        }
        Mode::Monitor { .. } if until <= now + NEAR => {
            let days = until.duration_since(now).as_hours() / 24;
            let left = match days {
                0 => "less than a day".to_owned(),
                1 => "a day".to_owned(),
                days => format!("{days} days"),
            };
            let help = "look at `egret_would_deny_total` before, or set a later one";
            out.warning(at, format!("`monitor_until`: the tenant enforces in {left}"), help);
        }
        Mode::Monitor { .. } => {}
    }
    if mode == Mode::Enforce { mode } else { Mode::Monitor { until: Some(until) } }
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
