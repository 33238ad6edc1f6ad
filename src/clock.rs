//! The only place that reads the machine's clocks. Everything below the composition root is given its `Instant`s,
//! so that tests can control time.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Instant, SystemTime};

/// The monotonic time.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn now() -> Instant {
    Instant::now()
}

/// The wall-clock time, for dates.
pub fn timestamp() -> jiff::Timestamp {
    // A clock beyond the year 9999 was never set.
    wall().try_into().unwrap_or_default()
}

/// High-water mark of the dates of policy (`until` of rules and of monitor mode) that have come, in microseconds since 1970,
/// rounded up; `i64::MIN` before the first. What has expired must not come back to life when the clock is set back, so
/// policy is judged at this moment at the earliest. Process-wide like the clock that it corrects; over restarts
/// `control/monitoring.rs` keeps it.
static REACHED: AtomicI64 = AtomicI64::new(i64::MIN);

/// Notes that a date of policy has come: it stays past, also when the clock is set back. Later calls with earlier dates change
/// nothing.
pub fn note_reached(date: jiff::Timestamp) {
    let up = i64::from(date.subsec_nanosecond() % 1000 != 0);
    REACHED.fetch_max(date.as_microsecond() + up, Ordering::Relaxed);
}

/// The wall-clock time by which dates of policy are judged.
pub fn policy_time() -> jiff::Timestamp {
    not_before_reached(timestamp())
}

/// The time, or the latest date of policy that has come if the clock was set back before it.
pub fn not_before_reached(time: jiff::Timestamp) -> jiff::Timestamp {
    later(time, REACHED.load(Ordering::Relaxed))
}

fn later(time: jiff::Timestamp, reached: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_microsecond(reached).map_or(time, |reached| reached.max(time))
}

/// Serialises a timestamp as the logs have it: RFC 3339 in UTC, six digits of a second.
pub(crate) fn microseconds<S: serde::Serializer>(time: &jiff::Timestamp, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(&format_args!("{time:.6}"))
}

/// The wall-clock time, for records that people read.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reached_dates_stay_past() {
        let date: jiff::Timestamp = "2026-12-31T00:00:00Z".parse().unwrap();
        let hour = jiff::SignedDuration::from_hours(1);
        for (time, expected) in [(date - hour, date), (date, date), (date + hour, date + hour)] {
            assert_eq!(later(time, date.as_microsecond()), expected);
            assert_eq!(later(time, i64::MIN), time);
        }
    }
}
