//! Finds a clock that was set back.

use crate::cli::findings::CheckFinding;
use crate::control::last_monitor_end;
use jiff::Timestamp;
use std::path::Path;

/// The finding about a clock that is before a date that has come, as the gateway's state directory has it.
pub(super) fn set_back(state: &Path, now: Timestamp) -> Option<CheckFinding> {
    let date = last_monitor_end(state).ok()?.filter(|date| now < *date)?;
    Some(CheckFinding::warn(
        "clock",
        format!("it is {now:.0}, which is before {date}, a `monitor_until` that has come"),
        "tenants whose date that was go on enforcing; times in logs are wrong, and certificates and DNSSEC may fail",
        "set the clock (`timedatectl`); or if it was wrong when the date came, set a later `monitor_until`",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn clock_before_a_reached_date_is_told() {
        let state = tempfile::tempdir().unwrap();
        let [before, date] = ["2026-12-30T00:00:00Z", "2026-12-31T00:00:00Z"].map(|at| at.parse().unwrap());
        assert!(set_back(state.path(), before).is_none(), "nothing is known");
        fs::write(state.path().join("monitor-ended"), "2026-12-31T00:00:00Z").unwrap();
        assert!(set_back(state.path(), date).is_none());
        assert!(set_back(state.path(), before).unwrap().found.contains("before 2026-12-31T00:00:00Z"));
    }
}
