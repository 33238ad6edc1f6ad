//! Rate limit of the looks at the network: at once after a change, and a tenth of a core in the long run.

use std::time::{Duration, Instant};

/// Shortest pause between two looks, so that changes made together are seen together.
const PAUSE: Duration = Duration::from_millis(10);
/// Elapsed time for each unit of looking, in the long run: a million routes take a second to read.
const SHARE: u32 = 10;
/// Looking without more than the shortest pause: single changes are each seen at once.
const BURST: Duration = Duration::from_millis(200);

/// Token bucket of looking time.
#[derive(Debug)]
pub(super) struct LookBudget {
    spent: Duration,
    at: Instant,
}

impl LookBudget {
    pub(super) fn new(now: Instant) -> Self {
        Self { spent: Duration::ZERO, at: now }
    }

    /// The pause after a look.
    pub(super) fn pause(&mut self, start: Instant, end: Instant) -> Duration {
        let refilled = start.saturating_duration_since(self.at) / SHARE;
        self.spent = self.spent.saturating_sub(refilled) + end.saturating_duration_since(start);
        self.at = end;
        PAUSE.max(self.spent.saturating_sub(BURST).saturating_mul(SHARE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks one after the other for a minute, each of which takes so long: how many, and the pauses of the first ten.
    fn looks(took: Duration) -> (u32, Vec<Duration>) {
        let mut now = crate::clock::now();
        let (end, mut pace, mut pauses) = (now + Duration::from_secs(60), LookBudget::new(now), Vec::new());
        while now < end {
            let start = now;
            now += took;
            let pause = pace.pause(start, now);
            now += pause;
            pauses.push(pause);
        }
        (u32::try_from(pauses.len()).unwrap(), pauses.into_iter().take(10).collect())
    }

    #[test]
    fn single_changes_are_handled_at_once() {
        let (_, pauses) = looks(Duration::from_millis(5));
        assert_eq!(pauses, [PAUSE; 10]);
    }

    #[test]
    fn constant_change_is_rate_limited() {
        for took in [5, 40, 500, 3000].map(Duration::from_millis) {
            let (count, _) = looks(took);
            let share = (took * count).as_secs_f64() / 60.0;
            assert!((0.05..0.2).contains(&share), "{took:?}: {share}");
        }
    }
}
