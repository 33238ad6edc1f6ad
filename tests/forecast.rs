//! The promises of docs/ports.md about the forecast, tested by simulated flows through the real ledger.

#[path = "../examples/port_simulation/world.rs"]
mod world;

use egret::egress::PortHold;
use std::f64::consts::TAU;
use std::time::Duration;
use world::{Report, Scenario, play};

const DAY: u32 = 86_400;
/// More seeds are played by `examples/port_simulation`.
const SEED: u64 = 1;

/// The alarm precedes the first refusal by `most` seconds or half of the available time, and its forecast has the right
/// order of magnitude; the first warning precedes it by five minutes or half of the available time.
fn assert_warned_in_time(scenario: &Scenario, most: u32) {
    let starts = 300;
    let report = play(scenario, SEED);
    let end = report.exhausted.unwrap_or_else(|| panic!("{} is never exhausted", scenario.name));
    let (page, left) = report.warned.unwrap_or_else(|| panic!("{}: no warning before {end}", scenario.name));
    let wanted = most.min((end - starts) / 2);
    assert!(page + wanted <= end, "{}: warned at {page}, exhausted at {end}", scenario.name);
    // The first warning: the alarm, or a level reached before it.
    let word = report.levels.into_iter().flatten().chain([page]).min().unwrap_or(page);
    let wanted = 300.min((end - starts) / 2);
    assert!(word + wanted <= end, "{}: first word at {word}, exhausted at {end}", scenario.name);
    assert!(page >= starts, "{}: warned at {page}, before it began", scenario.name);
    let real = f64::from(end - page);
    let close = left < real * 3.0 && left > real / 3.0;
    assert!(close, "{}: {left} s were said to be left, and {real} were", scenario.name);
}

fn quiet(seed: u64, scenario: &Scenario) -> Report {
    let report = play(scenario, seed);
    let is_quiet = (report.pages, report.soon) == (0, 0);
    assert!(is_quiet, "{}, of {} ports: {report:?}", scenario.name, scenario.capacity);
    report
}

#[test]
fn ramps_are_forecast() {
    for over in [90.0, 300.0, 900.0, 3600.0, 14_400.0] {
        assert_warned_in_time(&Scenario::ramp("a ramp", 4096, over, 120.0), 300);
    }
    assert_warned_in_time(&Scenario::ramp("a ramp in a small pool", 1000, 1200.0, 60.0), 150);
}

#[test]
fn leaks_are_forecast() {
    for over in [90.0, 300.0, 900.0, 3600.0] {
        assert_warned_in_time(&Scenario::leak("a leak", 4096, over), 300);
    }
    // So slow that fluctuation of the other flows takes the last ports long before the leak does.
    assert_warned_in_time(&Scenario::leak("a slow leak", 4096, 14_400.0), 150);
    assert_warned_in_time(&Scenario::leak("a leak in a small pool", 1000, 1200.0), 150);
}

#[test]
fn linear_leaks_stay_announced() {
    let (mut leaks, mut announced) = (0, 0);
    for (capacity, seeds, longest) in
        [(200, 2_u32, 3600.0), (300, 2, 3600.0), (500, 2, 3600.0), (1000, 1, 1200.0), (4096, 1, 600.0)]
    {
        for part in [0.0, 1.0 / 3.0, 0.6] {
            let slopes = [60.0, 90.0, 140.0, 196.0, 300.0, 600.0, 1200.0, 3600.0];
            for over in slopes.into_iter().filter(|over| *over <= longest) {
                for seed in 0..seeds {
                    let start = 100.0 + f64::from(seed) * 37.0;
                    let name = format!("a leak over {over} s from {part:.2}");
                    let report = play(&Scenario::leak_from(&name, capacity, part, start, over), seed.into());
                    let what = format!("{name} of {capacity} ports, seed {seed}: {report:?}");
                    assert!(report.exhausted.is_some() && report.unforeseen.is_empty(), "{what}");
                    // A small pool may be full for a moment long before, by fluctuation.
                    let is_before = |back| report.foreseen.is_none_or(|from| back < from);
                    assert!(report.taken_back.is_none_or(is_before), "{what}");
                    leaks += 1;
                    announced += u32::from(report.foreseen.is_some() && report.foreseen < report.exhausted);
                }
            }
        }
    }
    assert!(announced * 3 > leaks * 2, "{announced} of {leaks} were announced");
}

#[test]
fn ended_leaks_clear_the_alarm() {
    for capacity in [1000, 4096] {
        // From a third to two thirds of the ports.
        let all = f64::from(capacity);
        let leak = move |t: f64| if (300.0..500.0).contains(&t) { all / 3.0 / 200.0 } else { 0.0 };
        let steady = Scenario::new("a leak that ends", capacity, 1800, move |_| all / 3.0);
        let report = play(&Scenario { leak: Box::new(leak), ..steady }, SEED);
        assert!(report.foreseen.is_some() && report.exhausted.is_none(), "{report:?}");
        assert!(report.soon > 0 && report.soon < 600, "{report:?}");
        assert!(report.taken_back.is_some(), "{report:?}");
    }
}

#[test]
fn steady_load_raises_no_alarm() {
    // A day each: one seed for each capacity.
    for (seed, capacity) in [(1, 200), (2, 1000)] {
        let open = 0.6 * f64::from(capacity);
        let steady = Scenario::new("steady", capacity, DAY, move |_| open);
        let report = quiet(seed, &Scenario { duration: 300.0, ..steady });
        assert!(report.exhausted.is_none() && report.flows > 30_000);
    }
}

#[test]
fn daily_peak_raises_no_alarm() {
    let open = |t: f64| (0.40 - 0.25 * (TAU * t / f64::from(DAY)).cos()) * 1000.0;
    let report = quiet(2, &Scenario::new("diurnal", 1000, DAY, open));
    assert!(f64::from(report.peak) > 600.0);
}

/// Rises from 30 % to `peak` within `over` seconds, stays for a minute, and falls back.
fn burst(peak: f64, over: f64) -> Scenario {
    let open = move |t: f64| {
        let risen = ((t - 900.0) / over).clamp(0.0, 1.0);
        8192.0 * if t > 960.0 + over { 0.3 } else { 0.3 + (peak - 0.3) * risen }
    };
    Scenario { duration: 30.0, ..Scenario::new("burst", 8192, 2400, open) }
}

#[test]
fn ten_second_bursts_raise_no_alarm() {
    for peak in [0.4, 0.6, 0.8, 0.9] {
        quiet(SEED, &burst(peak, 10.0));
    }
}

#[test]
fn small_bursts_raise_no_alarm() {
    for over in [20.0, 30.0, 60.0, 120.0, 300.0] {
        quiet(SEED, &burst(0.3 + 0.7 * 0.18, over));
    }
}

#[test]
fn reconnect_storm_raises_no_alarm() {
    let calm = Scenario::new("storm", 8192, 2400, |_| 0.4 * 8192.0);
    let rest = PortHold::For(Duration::from_secs(66));
    let report = quiet(SEED, &Scenario { storm: Some(900), duration: 600.0, rest, ..calm });
    assert!(report.peak > 6000 && report.exhausted.is_none());
}
