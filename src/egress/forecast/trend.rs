//! Whether a count grows, how fast, and how far that may be carried. docs/ports.md has the formula and its reasons.

use std::time::Duration;

/// Points of a window: sixteen steps, four in each quarter.
const POINTS: usize = 17;
const STEPS: f32 = 16.0;
/// Windows of 16 s, 32 s … 8,192 s.
const WINDOWS: usize = 10;
/// A trend is carried no further than so many times the window that it was seen in.
const CARRIED: f32 = 3.0;
/// How many standard deviations of chance the growth over a window must exceed.
const CERTAIN: f32 = 5.0;
/// From a median absolute deviation to the standard deviation of a normal distribution.
const SIGMA_PER_MAD: f32 = 1.4826;

/// The past of one count, sampled once a second: the last seconds finely, the last hours coarsely, in 800 bytes.
#[derive(Debug, Default)]
pub(super) struct Trend {
    windows: [Window; WINDOWS],
}

/// What a trend says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Outlook {
    /// Per second; `> 0`
    pub(super) growth: f32,
    /// Until nothing is free any more.
    pub(super) exhausted_in: Duration,
}

/// Window *n*: means over 2ⁿ seconds each.
#[derive(Debug, Default)]
struct Window {
    /// The oldest first; those from `len` on are unused.
    points: [f32; POINTS],
    /// `<= POINTS`
    len: usize,
    /// A point that waits for the next, to be one point together in the window above.
    waiting: Option<f32>,
    /// By how much it grows from point to point; 0 without a trend.
    step: f32,
}

impl Trend {
    /// The count, one second after the one before.
    pub(super) fn push(&mut self, count: f32) {
        let mut point = count;
        for window in &mut self.windows {
            window.push(point);
            let Some(first) = window.waiting.take() else {
                window.waiting = Some(point);
                return;
            };
            point = f32::midpoint(first, point);
        }
    }

    /// The earliest exhaustion that a window has grounds for.
    pub(super) fn outlook(&self, free: u16) -> Option<Outlook> {
        let mut seconds = 1.0; // per point
        let mut growth = 0.0_f32;
        for window in &self.windows {
            let rate = window.step / seconds;
            if f32::from(free) <= rate * CARRIED * STEPS * seconds {
                growth = growth.max(rate);
            }
            seconds *= 2.0;
        }
        let exhausted_in = Duration::try_from_secs_f32(f32::from(free) / growth).ok()?;
        Some(Outlook { growth, exhausted_in })
    }
}

impl Window {
    fn push(&mut self, point: f32) {
        if self.len == POINTS {
            self.points.copy_within(1.., 0);
            self.len -= 1;
        }
        self.points[self.len] = point;
        self.len += 1;
        if self.len == POINTS {
            self.step = trend(&self.points);
        }
    }
}

/// By how much the points grow from one to the next, if they do so all along and by more than chance; otherwise 0.
fn trend(points: &[f32; POINTS]) -> f32 {
    let whole = median_slope(points);
    // half of the pace, over four steps
    let steady = points.windows(5).step_by(4).all(|quarter| quarter[4] - quarter[0] >= 2.0 * whole);
    if whole <= 0.0 || !steady || whole * STEPS < CERTAIN * chance(points) {
        return 0.0;
    }
    // what slows down is not carried on at the pace that it had
    whole.min(median_slope(&points[POINTS / 2..])).max(0.0)
}

/// The standard deviation of the growth over a window in which nothing changes: what independent flows that come and
/// go amount to (the difference of two Poisson counts), or what the steps show, if that is more.
fn chance(points: &[f32; POINTS]) -> f32 {
    let mut steps: Vec<f32> = points.windows(2).map(|two| two[1] - two[0]).collect();
    let middle = median(&mut steps);
    for step in &mut steps {
        *step = (*step - middle).abs();
    }
    let shown = SIGMA_PER_MAD * median(&mut steps) * STEPS.sqrt();
    let most = points.iter().copied().fold(0.0, f32::max);
    shown.max((2.0 * most).sqrt())
}

/// Theil–Sen: the median over the slopes of all pairs, which up to 29 % of outliers cannot move at will.
fn median_slope(points: &[f32]) -> f32 {
    let mut slopes = Vec::with_capacity(POINTS * (POINTS - 1) / 2);
    for (n, first) in points.iter().enumerate() {
        let mut distance = 0.0;
        for second in &points[n + 1..] {
            distance += 1.0;
            slopes.push((second - first) / distance);
        }
    }
    median(&mut slopes)
}

/// Of a list that is not empty.
fn median(values: &mut [f32]) -> f32 {
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f32::total_cmp).1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(counts: impl IntoIterator<Item = f32>) -> Trend {
        let mut trend = Trend::default();
        counts.into_iter().for_each(|count| trend.push(count));
        trend
    }

    fn seconds(n: u16) -> impl Iterator<Item = f32> {
        (0..n).map(f32::from)
    }

    #[test]
    fn a_straight_line_is_carried_to_its_end() {
        let trend = after(seconds(600).map(|t| 1000.0 + 40.0 * t));
        let outlook = trend.outlook(10_000).unwrap();
        assert!((outlook.growth - 40.0).abs() < 0.1, "{outlook:?}");
        assert!((outlook.exhausted_in.as_secs_f32() - 250.0).abs() < 1.0, "{outlook:?}");
    }

    #[test]
    fn a_trend_is_not_carried_further_than_three_windows() {
        // 33 points fill the window of 16 s, not that of 32 s
        let trend = after(seconds(32).map(|t| 500.0 * t));
        assert!(trend.outlook(500 * 48).is_some());
        assert_eq!(trend.outlook(500 * 48 + 100), None);
    }

    #[test]
    fn what_stands_still_falls_or_jumps_has_no_outlook() {
        let still = seconds(600).map(|_| 30_000.0);
        let falling = seconds(600).map(|t| 30_000.0 - 20.0 * t);
        // 30,000 more within eleven seconds, looked at at every moment of it and after
        let jumping =
            |until: u16| seconds(until).map(|t| 1000.0 + 30_000.0 * ((t - 300.0) / 11.0).clamp(0.0, 1.0));
        assert_eq!(after(still).outlook(1000), None);
        assert_eq!(after(falling).outlook(1000), None);
        for until in 300..700 {
            assert_eq!(after(jumping(until)).outlook(34_000), None, "after {until} s");
        }
    }

    #[test]
    fn growth_that_ends_is_forgotten_within_its_own_length() {
        let trend = |until| after(seconds(until).map(|t| 1000.0 + 100.0 * t.clamp(200.0, 400.0)));
        assert!(trend(400).outlook(20_000).is_some());
        assert_eq!(trend(600).outlook(20_000), None);
    }

    #[test]
    fn a_count_that_is_too_small_to_tell_from_chance_has_no_outlook() {
        assert_eq!(after(seconds(16)).outlook(1), None, "16 ports, one more each second");
    }
}
