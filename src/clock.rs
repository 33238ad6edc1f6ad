//! The one place that asks the machine for the time. Everything below the composition root is handed its `Instant`s,
//! so that tests can drive time.

use std::time::{Instant, SystemTime};

/// The monotonic time.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn now() -> Instant {
    Instant::now()
}

/// The time of day, for records that people read.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}
