//! The only place that reads the machine's clocks. Everything below the composition root is given its `Instant`s,
//! so that tests can control time.

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

/// Serialises a timestamp as the logs have it: RFC 3339 in UTC, six digits of a second.
pub(crate) fn microseconds<S: serde::Serializer>(time: &jiff::Timestamp, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(&format_args!("{time:.6}"))
}

/// The wall-clock time, for records that people read.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}
