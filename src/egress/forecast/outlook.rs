//! Time to exhaustion at the observed growth. docs/ports.md has the rules and their reasons.
//!
//! Growth counts once it is significant, and then until its end is as significant. Noise grows with the count, so that
//! steady growth to the last port would lose its significance on the way.

use super::trend::{CountTrend, WINDOWS, WindowStatistics, chance_of};
use std::time::Duration;

/// A trend is extrapolated no further than this multiple of its window.
const CARRIED: f32 = 3.0;
/// Growth has ended when it is slower than this fraction of its last significant pace.
const ENDED: f32 = 0.5;
/// Standard deviations of chance by which it must be slower.
const SURELY: f32 = 3.0;
/// Held growth is extrapolated at no more than this multiple of its last significant pace.
const FASTEST: f32 = 1.5;

/// Growth, and the time to exhaustion that follows from it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct ExhaustionOutlook {
    /// Ports per second; `> 0`
    pub(super) growth: f32,
    /// Until no port is free.
    pub(super) exhausted_in: Duration,
}

/// The history of one count, and the growth found in it.
#[derive(Debug, Default)]
pub(super) struct GrowthForecast {
    trend: CountTrend,
    /// For each window, significant growth that has not ended since.
    held: [Option<HeldGrowth>; WINDOWS],
    /// Seconds so far, including those without a sample.
    clock: u32,
}

#[derive(Debug, Clone, Copy)]
struct HeldGrowth {
    /// The count at the beginning of the growth, as far as the window reached.
    origin: f32,
    /// Start of the growth on [`GrowthForecast::clock`].
    since: u32,
    /// Last significant pace, in ports per second.
    pace: f32,
}

impl GrowthForecast {
    /// Adds the count of the next second.
    pub(super) fn push(&mut self, count: f32) {
        self.clock = self.clock.saturating_add(1);
        self.trend.push(count);
    }

    /// Adds the first count after `seconds` without one. Windows start anew; held growth stays.
    pub(super) fn resume(&mut self, count: f32, seconds: u16) {
        self.clock = self.clock.saturating_add(seconds.into());
        self.trend = CountTrend::default();
        self.trend.push(count);
    }

    /// True while significant growth has not ended.
    pub(super) fn holds(&self) -> bool {
        self.held.iter().any(Option::is_some)
    }

    /// The earliest exhaustion by the growth of any window, current or held. To be called once for each second.
    pub(super) fn outlook(&mut self, used: u16, free: u16) -> Option<ExhaustionOutlook> {
        let readings = self.trend.readings();
        let (used, free) = (f32::from(used), f32::from(free));
        let fastest = (0..WINDOWS).map(|n| self.growth(n, &readings, used, free)).fold(0.0, f32::max);
        let exhausted_in = Duration::try_from_secs_f32(free / fastest).ok()?;
        Some(ExhaustionOutlook { growth: fastest, exhausted_in })
    }

    /// Growth by window *n*, current or held, in ports per second; 0 without any.
    fn growth(
        &mut self,
        n: usize,
        readings: &[Option<WindowStatistics>; WINDOWS],
        used: f32,
        free: f32,
    ) -> f32 {
        if let Some(reading) = &readings[n]
            && reading.certain > 0.0
            && free <= reading.certain * CARRIED
        {
            let pace = reading.certain / reading.length;
            self.hold(n, reading, pace);
            return pace;
        }
        let Some(held) = self.held[n] else { return 0.0 };
        // A full pool cannot grow: where chance can take the last ports, slower growth is no sign of its end.
        let age = seconds(self.clock - held.since);
        // Windows that lie within the growth.
        let within = |m: &usize| {
            readings[*m].filter(|reading| reading.length <= age + 1.0).map(|reading| (*m, reading))
        };
        let within: Vec<(usize, WindowStatistics)> = (n..WINDOWS).filter_map(|m| within(&m)).collect();
        if free > chance_of(used) {
            if readings[n].map_or(used, |reading| reading.lately.max(used)) < held.origin {
                self.held[n] = None;
                return 0.0;
            }
            if let Some((m, _)) = within.iter().find(|(_, reading)| held.is_slower(reading)) {
                self.held[n] = None;
                self.hold_rest(*m, readings, free);
                return 0.0;
            }
        }
        let lately = within.iter().map(|(_, reading)| reading.at_most()).fold(f32::INFINITY, f32::min);
        held.growth(self.clock, self.trend.newest(n), lately)
    }

    /// Holds growth that has become slower at its new pace, by the window that measured it.
    fn hold_rest(&mut self, m: usize, readings: &[Option<WindowStatistics>; WINDOWS], free: f32) {
        if let Some(reading) = &readings[m]
            && self.held[m].is_none()
            && reading.grown >= reading.noise
            && free <= reading.grown * CARRIED
        {
            self.hold(m, reading, reading.grown / reading.length);
        }
    }

    fn hold(&mut self, n: usize, reading: &WindowStatistics, pace: f32) {
        let (origin, age) = reading.first;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most some hours")]
        let since = self.clock.saturating_sub(age.round() as u32);
        self.held[n] = Some(HeldGrowth { origin, since, pace });
    }
}

impl HeldGrowth {
    /// True if a window within the growth shows significantly less than half of its pace.
    fn is_slower(&self, reading: &WindowStatistics) -> bool {
        reading.grown + SURELY * reading.noise < ENDED * self.pace * reading.length
    }

    /// The average since its start, limited by recent growth, and by the bounds for held growth.
    fn growth(&self, clock: u32, newest: Option<(f32, f32)>, lately: f32) -> f32 {
        let average = newest.map_or(self.pace, |(count, age)| {
            (count - self.origin) / (seconds(clock - self.since) - age).max(1.0)
        });
        average.min(lately).clamp(ENDED * self.pace, FASTEST * self.pace)
    }
}

impl WindowStatistics {
    /// Upper estimate of the pace: the median slope and one standard deviation of chance.
    fn at_most(&self) -> f32 {
        (self.grown + self.noise) / self.length
    }
}

#[expect(clippy::cast_precision_loss, reason = "whole up to half a year, and then still close")]
fn seconds(count: u32) -> f32 {
    count as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The outlook after these counts, one each second, of a pool with `capacity` ports.
    fn after(counts: impl IntoIterator<Item = f32>, capacity: u16) -> Option<ExhaustionOutlook> {
        let (mut forecast, mut said) = (GrowthForecast::default(), None);
        for count in counts {
            forecast.push(count);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "of a test")]
            let used = (count as u16).min(capacity);
            said = forecast.outlook(used, capacity - used);
        }
        said
    }

    fn seconds(n: u16) -> impl Iterator<Item = f32> {
        (0..n).map(f32::from)
    }

    #[test]
    fn linear_growth_is_extrapolated() {
        let outlook = after(seconds(600).map(|t| 1000.0 + 40.0 * t), 34_960).unwrap();
        assert!((outlook.growth - 40.0).abs() < 0.1, "{outlook:?}");
        assert!((outlook.exhausted_in.as_secs_f32() - 250.0).abs() < 1.0, "{outlook:?}");
    }

    #[test]
    fn trends_extrapolate_three_windows() {
        // 33 points fill the window of 16 s, not that of 32 s
        let line = || seconds(32).map(|t| 500.0 * t);
        assert!(after(line(), 500 * (31 + 48)).is_some());
        assert_eq!(after(line(), 500 * (31 + 49)), None);
    }

    #[test]
    fn flat_falling_and_noisy_have_no_outlook() {
        let still = seconds(600).map(|_| 30_000.0);
        let falling = seconds(600).map(|t| 30_000.0 - 20.0 * t);
        // 30,000 more within eleven seconds, checked at every second of it and after
        let jumping =
            |until: u16| seconds(until).map(|t| 1000.0 + 30_000.0 * ((t - 300.0) / 11.0).clamp(0.0, 1.0));
        assert_eq!(after(still, 31_000), None);
        assert_eq!(after(falling, 31_000), None);
        for until in 300..700 {
            assert_eq!(after(jumping(until), 65_000), None, "after {until} s");
        }
    }

    #[test]
    fn ended_growth_is_forgotten_within_its_length() {
        let outlook = |until| after(seconds(until).map(|t| 1000.0 + 100.0 * t.clamp(200.0, 400.0)), 61_000);
        assert!(outlook(400).is_some());
        assert_eq!(outlook(600), None);
    }

    #[test]
    fn lost_growth_ends_within_a_quarter() {
        // the leaking client is restarted at second 600, which ends all its flows
        let outlook =
            |until| after(seconds(until).map(|t| 1000.0 + if t < 600.0 { 20.0 * t } else { 0.0 }), 20_000);
        assert!(outlook(600).is_some());
        assert_eq!(outlook(600 + 512 / 4 + 64), None);
    }

    #[test]
    fn slower_growth_stays_extrapolated() {
        // a third of the pace from second 600 on, with 7,000 of 20,000 ports left
        let count = |t: f32| 1000.0 + 20.0 * t.min(600.0) + 20.0 / 3.0 * (t - 600.0).max(0.0);
        for until in (600..1600).step_by(10) {
            let outlook =
                after(seconds(until).map(count), 20_000).unwrap_or_else(|| panic!("none at {until}"));
            let real = (20_000.0 - count(f32::from(until))) * 3.0 / 20.0;
            assert!(outlook.exhausted_in.as_secs_f32() < real * 1.1, "{outlook:?} at {until}");
        }
    }

    #[test]
    fn small_counts_have_no_outlook() {
        assert_eq!(after(seconds(16), 16), None, "16 ports, one more each second");
    }
}
