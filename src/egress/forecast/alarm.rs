//! Alarm levels with hysteresis: each crossing is reported once, however the count fluctuates around it.

use std::time::{Duration, Instant};

/// A level of a destination's port usage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum UsageLevel {
    /// 70 % in use.
    Percent70,
    /// 85 % in use.
    Percent85,
    /// 95 % in use.
    Percent95,
    /// At the current trend, no port is free in less than ten minutes.
    ExhaustedSoon,
}

const SOON: Duration = Duration::from_secs(600);
/// Time to exhaustion above which [`UsageLevel::ExhaustedSoon`] ends.
const LATER: Duration = Duration::from_secs(1200);
/// Percentage points below a level at which it ends.
const MARGIN: u32 = 5;
/// Time that a count must stay below a level's end.
const CALM_BELOW: Duration = Duration::from_secs(60);
/// Time without signs of exhaustion after which [`UsageLevel::ExhaustedSoon`] ends.
const CALM_OUTLOOK: Duration = Duration::from_secs(120);

impl UsageLevel {
    /// Every level, the least first.
    pub const ALL: [Self; 4] = [Self::Percent70, Self::Percent85, Self::Percent95, Self::ExhaustedSoon];

    /// As in the log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Percent70 => "70 %",
            Self::Percent85 => "85 %",
            Self::Percent95 => "95 %",
            Self::ExhaustedSoon => "exhausted in less than 10 minutes",
        }
    }

    /// The percentage in use, for levels that have one.
    fn percent(self) -> Option<u32> {
        match self {
            Self::Percent70 => Some(70),
            Self::Percent85 => Some(85),
            Self::Percent95 => Some(95),
            Self::ExhaustedSoon => None,
        }
    }

    fn is_reached(self, state: &UsageSample) -> bool {
        match self.percent() {
            Some(percent) => state.percent_reached(percent),
            None => state.exhausted_in.is_some_and(|left| left < SOON),
        }
    }

    /// True if the usage is clear of the level. A pool that is nearly full cannot grow, which must not end the alarm.
    fn is_left(self, state: &UsageSample) -> bool {
        match self.percent() {
            Some(percent) => !state.percent_reached(percent - MARGIN),
            None => state.exhausted_in.is_none_or(|left| left > LATER) && !state.percent_reached(95),
        }
    }

    fn calm(self) -> Duration {
        if self.percent().is_some() { CALM_BELOW } else { CALM_OUTLOOK }
    }
}

/// The usage that is compared with the levels.
#[derive(Debug, Clone, Copy)]
pub(super) struct UsageSample {
    pub(super) used: u16,
    pub(super) capacity: u16,
    pub(super) exhausted_in: Option<Duration>,
}

impl UsageSample {
    fn percent_reached(&self, percent: u32) -> bool {
        u32::from(self.used) * 100 >= percent * u32::from(self.capacity)
    }
}

/// The state of every level for one destination.
#[derive(Debug, Default)]
pub(super) struct DestinationAlarm {
    levels: [LevelPhase; UsageLevel::ALL.len()],
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
enum LevelPhase {
    #[default]
    Clear,
    Raised,
    /// Still raised, and clear of the level since then.
    Calming(Instant),
}

impl DestinationAlarm {
    /// Updates the levels and returns those that were crossed; true if upwards.
    pub(super) fn crossed(
        &mut self,
        state: &UsageSample,
        now: Instant,
    ) -> impl Iterator<Item = (UsageLevel, bool)> {
        let phases = self.levels.iter_mut().zip(UsageLevel::ALL);
        phases.filter_map(move |(phase, level)| {
            let before = *phase;
            *phase = match before {
                LevelPhase::Clear if level.is_reached(state) => LevelPhase::Raised,
                LevelPhase::Clear => LevelPhase::Clear,
                LevelPhase::Raised | LevelPhase::Calming(_) if !level.is_left(state) => LevelPhase::Raised,
                LevelPhase::Raised => LevelPhase::Calming(now),
                LevelPhase::Calming(since) if now.duration_since(since) >= level.calm() => LevelPhase::Clear,
                LevelPhase::Calming(since) => LevelPhase::Calming(since),
            };
            let (was, is) = (before != LevelPhase::Clear, *phase != LevelPhase::Clear);
            (was != is).then_some((level, is))
        })
    }

    /// True while any level is raised.
    pub(super) fn is_raised(&self) -> bool {
        self.levels.iter().any(|phase| *phase != LevelPhase::Clear)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alarm_level_ends_after_calm_minute() {
        let mut alarm = DestinationAlarm::default();
        let start = crate::clock::now();
        let mut seen = Vec::new();
        let mut at = |second, used| {
            let state = UsageSample { used, capacity: 1000, exhausted_in: None };
            let now = start + Duration::from_secs(second);
            seen.extend(alarm.crossed(&state, now).map(|(level, rising)| (second, level.as_str(), rising)));
        };
        (0..10).for_each(|second| at(second, 699 + (second % 2) as u16)); // trembles
        at(10, 651); // not below the end
        at(200, 649);
        at(259, 649);
        at(260, 650); // not calm for a whole minute
        at(270, 640);
        at(330, 640);
        at(331, 960);
        assert_eq!(
            seen,
            [
                (1, "70 %", true),
                (330, "70 %", false),
                (331, "70 %", true),
                (331, "85 %", true),
                (331, "95 %", true)
            ]
        );
    }

    #[test]
    fn alarm_ends_after_two_calm_minutes() {
        let mut alarm = DestinationAlarm::default();
        let start = crate::clock::now();
        let mut at = |second, used, minutes: Option<u64>| {
            let state = UsageSample {
                used,
                capacity: 1000,
                exhausted_in: minutes.map(|minutes| Duration::from_secs(minutes * 60)),
            };
            let soon = |&(level, _): &(UsageLevel, bool)| level == UsageLevel::ExhaustedSoon;
            alarm.crossed(&state, start + Duration::from_secs(second)).find(soon).map(|(_, rising)| rising)
        };
        assert_eq!(at(0, 100, Some(11)), None);
        assert_eq!(at(1, 100, Some(9)), Some(true));
        assert_eq!(at(2, 100, Some(19)), None);
        assert_eq!(at(300, 100, Some(19)), None, "19 minutes are not later");
        assert_eq!(at(301, 990, None), None);
        assert_eq!(at(501, 990, None), None, "nearly full");
        assert_eq!(at(502, 500, Some(21)), None);
        assert_eq!(at(622, 500, None), Some(false));
    }
}
