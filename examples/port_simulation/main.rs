//! When the forecast warns, and when the ports are exhausted: arrival patterns on a clock of their own, through the real
//! ledger and forecaster. `cargo run --release --example port_simulation [SEED]`

mod world;

use egret::egress::PortHold;
use std::f64::consts::TAU;
use std::time::Duration;
use world::{Report, Scenario};

/// 1024 to 65535.
const LARGE: u16 = 64_512;
const HOUR: u32 = 3600;

fn main() {
    let seed = std::env::args().nth(1).and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("seed {seed}; times since the start; a page is \"exhausted in less than 10 minutes\"\n");
    println!(
        "{:<34} {:>8} {:>9} {:>7}  {:>8} {:>8} {:>8}  {:>9} {:>9} {:>9}  {:>5} {:>5}",
        "pattern",
        "capacity",
        "flows",
        "peak",
        "70 %",
        "85 %",
        "95 %",
        "page",
        "exhausted",
        "ahead",
        "pages",
        "false"
    );
    for scenario in scenarios() {
        print(&scenario, &world::play(&scenario, seed));
    }
}

fn scenarios() -> Vec<Scenario> {
    let level = |part: f64, capacity: u16| move |_: f64| part * f64::from(capacity);
    let large = f64::from(LARGE);
    let burst = |peak: f64, over: f64| {
        move |t: f64| {
            let (since, until) = (900.0, 900.0 + over);
            let risen = ((t - since) / over).clamp(0.0, 1.0);
            let open = if t > until + 60.0 { 0.3 } else { 0.3 + (peak - 0.3) * risen };
            open * large
        }
    };
    let diurnal = |t: f64| (0.40 - 0.25 * (TAU * t / 86_400.0).cos()) * 4096.0;
    let weekly = |t: f64| (0.60 - 0.45 * (TAU * t / 86_400.0).cos()) * 4096.0;
    let storm = |name, part, seconds| Scenario {
        storm: Some(900),
        rest: PortHold::For(Duration::from_secs(66)),
        duration: 600.0,
        ..Scenario::new(name, LARGE, seconds, level(part, LARGE))
    };
    vec![
        Scenario::new("steady 60 %, 24 h", 4096, 24 * HOUR, level(0.6, 4096)),
        Scenario::new("steady 60 %, 24 h", 1000, 24 * HOUR, level(0.6, 1000)),
        Scenario {
            duration: 900.0,
            ..Scenario::new("steady 60 %, 24 h, long flows", LARGE, 24 * HOUR, level(0.6, LARGE))
        },
        Scenario::new("diurnal, 15 to 65 %, 24 h", 4096, 24 * HOUR, diurnal),
        Scenario::new("diurnal, 15 to 105 %, 24 h", 4096, 24 * HOUR, weekly),
        Scenario::ramp("ramp over 90 s", LARGE, 90.0, 60.0),
        Scenario::ramp("ramp over 5 min", LARGE, 300.0, 60.0),
        Scenario::ramp("ramp over 30 min", LARGE, 1800.0, 120.0),
        Scenario::ramp("ramp over 3 h", LARGE, 10_800.0, 300.0),
        Scenario::ramp("ramp over 30 min", 1000, 1800.0, 120.0),
        Scenario::leak("leak over 5 min", LARGE, 300.0),
        Scenario::leak("leak over 1 h", LARGE, 3600.0),
        Scenario::leak("leak over 8 h", LARGE, 28_800.0),
        Scenario::leak("leak over 2 h", 4096, 7200.0),
        Scenario {
            duration: 30.0,
            ..Scenario::new("burst 30 to 80 % in 10 s", LARGE, HOUR, burst(0.8, 10.0))
        },
        Scenario {
            duration: 30.0,
            ..Scenario::new("burst 30 to 45 % in 60 s", LARGE, HOUR, burst(0.45, 60.0))
        },
        Scenario {
            duration: 30.0,
            ..Scenario::new("burst 30 to 80 % in 60 s", LARGE, HOUR, burst(0.8, 60.0))
        },
        storm("reconnect storm of 40 %", 0.4, HOUR),
        storm("reconnect storm of 55 %", 0.55, HOUR),
    ]
}

fn print(scenario: &Scenario, report: &Report) {
    let [seventy, eighty_five, ninety_five] = report.levels.map(clock);
    let ahead = report.warned.zip(report.exhausted).map_or(String::from("–"), |((page, _), end)| {
        if end >= page { clock(Some(end - page)) } else { format!("-{}", clock(Some(page - end))) }
    });
    println!(
        "{:<34} {:>8} {:>9} {:>7}  {seventy:>8} {eighty_five:>8} {ninety_five:>8}  {:>9} {:>9} {ahead:>9}  {:>5} {:>5}",
        scenario.name,
        scenario.capacity,
        report.flows,
        report.peak,
        clock(report.warned.map(|(page, _)| page)),
        clock(report.exhausted),
        report.pages,
        report.false_pages,
    );
}

fn clock(second: Option<u32>) -> String {
    second.map_or(String::from("–"), |s| format!("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60))
}
