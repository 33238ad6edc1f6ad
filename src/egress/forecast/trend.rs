//! Growth of a count over windows of several lengths, with its significance. docs/ports.md has the formula and its reasons.

/// Points of a window: sixteen steps, four in each quarter.
const POINTS: usize = 17;
const STEPS: f32 = 16.0;
/// Number of windows: 16 s, 32 s … 8,192 s.
pub(super) const WINDOWS: usize = 10;
/// Standard deviations of chance that significant growth over a window exceeds.
const CERTAIN: f32 = 5.0;
/// From a median absolute deviation to the standard deviation of a normal distribution.
const SIGMA_PER_MAD: f32 = 1.4826;

/// The history of one count, sampled once a second: the last seconds finely, the last hours coarsely, in 1 KB.
#[derive(Debug, Default)]
pub(super) struct CountTrend {
    windows: [TrendWindow; WINDOWS],
    /// Samples so far.
    seconds: u32,
}

/// Window *n*: means over 2ⁿ seconds each.
#[derive(Debug, Default)]
struct TrendWindow {
    /// Oldest first; unused from `len` on.
    points: [f32; POINTS],
    /// `<= POINTS`
    len: usize,
    /// A point that will be averaged with the next one, for the next longer window.
    waiting: Option<f32>,
    growth: WindowGrowth,
}

/// Growth of the count from the first to the last point of a full window; all zero before the window is full.
#[derive(Debug, Clone, Copy, Default)]
struct WindowGrowth {
    /// By the median slope.
    whole: f32,
    /// Growth to extrapolate: 0 unless it is even and significant.
    certain: f32,
    /// Standard deviation of the growth that chance alone causes.
    noise: f32,
}

/// The statistics of one full window, in seconds and in ports over its whole length.
#[derive(Debug, Clone, Copy)]
pub(super) struct WindowStatistics {
    /// From the first point to the last.
    pub(super) length: f32,
    /// Growth by the median slope, significant or not.
    pub(super) grown: f32,
    /// Growth if it is significant and even; otherwise 0.
    pub(super) certain: f32,
    /// Standard deviation of the growth that chance alone causes.
    pub(super) noise: f32,
    /// The oldest point, and how many seconds ago that was.
    pub(super) first: (f32, f32),
    /// The greatest point of the last quarter.
    pub(super) lately: f32,
}

impl CountTrend {
    /// Adds the count of the next second.
    pub(super) fn push(&mut self, count: f32) {
        self.seconds = self.seconds.saturating_add(1);
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

    /// The windows, the shortest first; `None` for one that is not full yet.
    pub(super) fn readings(&self) -> [Option<WindowStatistics>; WINDOWS] {
        std::array::from_fn(|n| self.windows[n].reading(self.seconds, n))
    }

    /// The newest point of a window or, while that has none, of the longest shorter one that has; and its age in seconds.
    pub(super) fn newest(&self, window: usize) -> Option<(f32, f32)> {
        let windows = self.windows[..=window].iter().enumerate().rev();
        windows.filter(|(_, window)| window.len > 0).map(|(n, window)| window.newest(self.seconds, n)).next()
    }
}

impl TrendWindow {
    fn push(&mut self, point: f32) {
        if self.len == POINTS {
            self.points.copy_within(1.., 0);
            self.len -= 1;
        }
        self.points[self.len] = point;
        self.len += 1;
        if self.len == POINTS {
            self.growth = growth(&self.points);
        }
    }

    fn reading(&self, seconds: u32, n: usize) -> Option<WindowStatistics> {
        if self.len < POINTS {
            return None;
        }
        let WindowGrowth { whole, certain, noise } = self.growth;
        let length = STEPS * length_of_point(n);
        let (_, age) = self.newest(seconds, n);
        let lately = self.points[POINTS - 4..].iter().copied().fold(0.0, f32::max);
        Some(WindowStatistics {
            length,
            grown: whole,
            certain,
            noise,
            first: (self.points[0], age + length),
            lately,
        })
    }

    /// The window must have a point.
    fn newest(&self, seconds: u32, n: usize) -> (f32, f32) {
        let since = seconds % (1 << n);
        #[expect(clippy::cast_precision_loss, reason = "below 2^10")]
        let age = since as f32 + (length_of_point(n) - 1.0) / 2.0;
        (self.points[self.len - 1], age)
    }
}

/// Seconds that a point of window *n* is the mean of.
fn length_of_point(n: usize) -> f32 {
    f32::from(1_u16 << n)
}

fn growth(points: &[f32; POINTS]) -> WindowGrowth {
    let step = median_slope(points);
    let (whole, noise) = (step * STEPS, chance(points));
    // half of the pace, over four steps
    let even = points.windows(5).step_by(4).all(|quarter| quarter[4] - quarter[0] >= 2.0 * step);
    let is_certain = step > 0.0 && even && whole >= CERTAIN * noise;
    // growth that slows down is extrapolated at its newer pace
    let carried = || step.min(median_slope(&points[POINTS / 2..])).max(0.0) * STEPS;
    WindowGrowth { whole, certain: if is_certain { carried() } else { 0.0 }, noise }
}

/// The standard deviation of the growth over a window without a trend: that of independent flows that come and go (the
/// difference of two Poisson counts), or that of the steps, if it is larger.
fn chance(points: &[f32; POINTS]) -> f32 {
    let mut steps: Vec<f32> = points.windows(2).map(|two| two[1] - two[0]).collect();
    let middle = median(&mut steps);
    for step in &mut steps {
        *step = (*step - middle).abs();
    }
    let shown = SIGMA_PER_MAD * median(&mut steps) * STEPS.sqrt();
    let most = points.iter().copied().fold(0.0, f32::max);
    shown.max(chance_of(most))
}

/// The standard deviation of the difference between two counts of that many independent flows.
pub(super) fn chance_of(count: f32) -> f32 {
    (2.0 * count).sqrt()
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

/// Median of a list that is not empty.
fn median(values: &mut [f32]) -> f32 {
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f32::total_cmp).1
}
