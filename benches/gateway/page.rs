//! Renders the results as tables, and docs/performance.md around them.

use crate::memory::second_and_last_quarter;
use crate::plot::{self, Panel};
use crate::results::{Group, Results};
use crate::scenario::{Scenario, Unit};
use crate::stats::{Spread, spread as spread_of};
use crate::table::{Table, count, median, number, spread};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;

const PEERS: [&str; 5] = ["route", "nat", "bare", "haproxy", "egret"];

/// Introduction of the page, and description of the method.
const HEAD: &str = include_str!("page/head.md");
const METHOD: &str = include_str!("page/method.md");

/// Writes the page and its plots below this folder.
pub fn write(results: &Results, root: &Path) -> Result<(), String> {
    let folder = root.join("docs/performance");
    let put = |path: &Path, text: &str| fs::write(path, text).map_err(|e| format!("{}: {e}", path.display()));
    fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    put(&root.join("docs/performance.md"), &format!("{HEAD}\n{}\n{METHOD}", tables(results)))?;
    put(&folder.join("throughput.svg"), &throughput_plot(results))?;
    put(&folder.join("cost.svg"), &cost_plot(results))?;
    put(&folder.join("growth.svg"), &growth_plot(results))?;
    put(&folder.join("memory.svg"), &memory_plot(results))
}

/// Renders every part that was measured.
pub fn tables(results: &Results) -> String {
    let mut text = about(results);
    if !results.side.scenarios.is_empty() {
        text += &side(&results.side);
    }
    if !results.crowded.scenarios.is_empty() {
        text += &crowded(&results.crowded);
    }
    if !results.idle.is_empty() || !results.waves.is_empty() {
        text += &memory(results);
    }
    if !results.calls.is_empty() {
        text += &calls(results);
    }
    if !results.growth.is_empty() {
        text += &growth(results);
    }
    text
}

fn about(results: &Results) -> String {
    let about = &results.about;
    let mut table = Table::new(["", ""]);
    for (what, value) in [
        ("date", about.date.clone()),
        ("machine", format!("{} × {}", about.processors, about.processor)),
        ("kernel", about.kernel.clone()),
        ("Egret", about.egret.clone()),
        ("haproxy", about.haproxy.clone()),
        ("rounds", format!("{} windows of {} ms for each number", about.rounds, about.window_ms)),
        ("took", format!("{} s", about.seconds)),
    ] {
        table.row([what.into(), value]);
    }
    format!("## This run\n\n{table}")
}

fn side(group: &Group) -> String {
    let mut summary = Table::new([
        "scenario",
        "what",
        "Egret ÷ haproxy",
        "Egret ÷ bare relay",
        "Egret ÷ kernel NAT",
        "CPU: Egret ÷ haproxy",
        "CPU: Egret ÷ bare relay",
        "CPU: Egret ÷ kernel NAT",
    ]);
    let mut details = String::new();
    for scenario in &group.scenarios {
        let [route, nat, bare, haproxy, egret] = PEERS.map(|peer| group.of(scenario, peer));
        summary.row([
            scenario.name.into(),
            scenario.what.into(),
            spread(egret.rate_ratio(&haproxy)),
            spread(egret.rate_ratio(&bare)),
            spread(egret.rate_ratio(&nat)),
            spread(egret.cost_ratio(&haproxy)),
            spread(egret.cost_ratio(&bare)),
            spread(egret.cost_ratio(&nat)),
        ]);
        let mut table = Table::new([
            "",
            scenario.unit.rate(),
            scenario.unit.cost(),
            "added over route",
            "p50 µs",
            "p99 µs",
        ]);
        for (name, peer) in PEERS.iter().zip([&route, &nat, &bare, &haproxy, &egret]) {
            let latency = |value: Option<Spread>| {
                if scenario.unit == Unit::Byte { "–".into() } else { median(value) }
            };
            table.row([
                (*name).into(),
                spread(peer.rate()),
                spread(peer.cost()),
                if *name == "route" { "0".into() } else { median(peer.added(&route)) },
                latency(peer.p50()),
                latency(peer.p99()),
            ]);
        }
        let _ = write!(details, "\n### {}: {}\n\n{table}", scenario.name, scenario.what);
    }
    format!(
        "\n## Side by side\n\n{summary}\n\
         ![Throughput as a share of plain routing](performance/throughput.svg)\n\n\
         ![Processor time per unit, as a multiple of plain routing](performance/cost.svg)\n{details}"
    )
}

fn crowded(group: &Group) -> String {
    let mut table = Table::new(["scenario", "", "haproxy", "egret", "egret ÷ haproxy"]);
    for scenario in &group.scenarios {
        let [haproxy, egret] = ["haproxy", "egret"].map(|peer| group.of(scenario, peer));
        let mut row = |what: &str, haproxy: Option<Spread>, egret: Option<Spread>, ratio: String| {
            table.row([scenario.name.into(), what.into(), spread(haproxy), spread(egret), ratio]);
        };
        if scenario.unit == Unit::Byte {
            row("GB/s", haproxy.rate(), egret.rate(), spread(egret.rate_ratio(&haproxy)));
            row("evenness (Jain's index)", haproxy.evenness(), egret.evenness(), "–".into());
        } else {
            row("requests/s", haproxy.rate(), egret.rate(), spread(egret.rate_ratio(&haproxy)));
            row("p50 µs", haproxy.p50(), egret.p50(), "–".into());
            row("p99 µs", haproxy.p99(), egret.p99(), spread(egret.p99_ratio(&haproxy)));
        }
    }
    let mut what = String::new();
    for scenario in &group.scenarios {
        let _ = writeln!(what, "- **{}**: {}", scenario.name, scenario.what);
    }
    format!(
        "\n## On one worker\n\nhaproxy with one thread, Egret with one worker. Latencies are of the \
         requests that were answered: a peer that answers few may have a low median.\n\n{what}\n{table}"
    )
}

fn memory(results: &Results) -> String {
    let mut text = String::from("\n## Memory\n");
    if !results.idle.is_empty() {
        let mut table =
            Table::new(["", "connections", "RSS KiB/connection", "descriptors/connection", "RSS MiB before"]);
        for peer in ["haproxy", "egret"] {
            let of = |value: &dyn Fn(&crate::memory::Idle) -> f64| {
                spread_of(results.idle.iter().filter(|idle| idle.peer == peer).map(value).collect())
            };
            table.row([
                peer.into(),
                median(of(&|idle| idle.connections as f64)),
                spread(of(&|idle| idle.each_kib())),
                median(of(&|idle| idle.descriptors)),
                median(of(&|idle| idle.before_kib as f64 / 1024.0)),
            ]);
        }
        let _ =
            write!(text, "\nConnections without traffic, in a process that has had none before:\n\n{table}");
    }
    if let Some([second, last]) = second_and_last_quarter(&results.waves) {
        let mib = |kib: u64| number(kib as f64 / 1024.0);
        let _ = write!(
            text,
            "\n{} waves of {} connections, each held together and then closed. Resident after a wave, in the second quarter \
             of them: {} to {} MiB; in the last quarter: {} to {} MiB. What leaks would be in the least, which changed by \
             {:+.1} %; in the most is what the allocator keeps for later.\n\n\
             ![Resident memory after each wave](performance/memory.svg)\n",
            results.waves.len(),
            count(results.waves[0].connections),
            mib(second.least_kib),
            mib(second.most_kib),
            mib(last.least_kib),
            mib(last.most_kib),
            (last.least_kib as f64 / second.least_kib as f64 - 1.0) * 100.0,
        );
    }
    text
}

fn calls(results: &Results) -> String {
    let mut text = String::from("\n## System calls\n\nOf the gateway's process, as strace counts them.\n");
    for unit in ["connection", "request", "GB"] {
        let of = |peer| results.calls.iter().find(|calls| calls.peer == peer && calls.unit == unit);
        let (Some(bare), Some(haproxy), Some(egret)) = (of("bare"), of("haproxy"), of("egret")) else {
            continue;
        };
        let all = [bare, haproxy, egret];
        let mut table = Table::new(["call", "bare", "haproxy", "egret"]);
        let [bare, haproxy, egret] = all.map(|calls| format!("**{}**", number(calls.total())));
        table.row([format!("**all, per {unit}**"), bare, haproxy, egret]);
        let names: BTreeSet<_> = all.iter().flat_map(|calls| calls.each.keys()).collect();
        let each = |name: &String| all.map(|calls| calls.each.get(name).copied().unwrap_or(0.0));
        let mut names: Vec<_> = names.into_iter().collect();
        names.sort_by(|a, b| f64::total_cmp(&each(b).iter().sum(), &each(a).iter().sum()));
        // calls below one in a hundred of all are not shown
        let least = all.map(crate::calls::Calls::total).into_iter().fold(0.0, f64::max) / 100.0;
        for name in names.into_iter().filter(|name| each(name).iter().any(|calls| *calls > least)) {
            let [bare, haproxy, egret] = each(name).map(number);
            table.row([name.clone(), bare, haproxy, egret]);
        }
        let _ = write!(text, "\n{table}");
    }
    text
}

fn growth(results: &Results) -> String {
    let mut text = String::from(
        "\n## What grows\n\nProcessor time of the machine for a new connection, both end hosts included, as one thing grows and \
         everything else stays.\n\n![Processor time per connection, as sizes grow](performance/growth.svg)\n",
    );
    for (axis, samples) in &results.growth {
        let mut table =
            Table::new([axis.what, "CPU µs/connection", "÷ the first", "connections/s", "p50 µs"]);
        let of = |label: &str| crate::measure::Measured::of(samples, axis.name, label, Unit::Connection);
        for step in &axis.steps {
            let (first, this) = (of(&axis.steps[0].label), of(&step.label));
            table.row([
                step.label.clone(),
                spread(this.cost()),
                median(this.cost_ratio(&first)),
                median(this.rate()),
                median(this.p50()),
            ]);
        }
        let _ = write!(text, "\n{table}");
    }
    text
}

/// For each scenario, and each peer except plain routing, the median of its ratios to plain routing.
fn beside_routing(
    results: &Results,
    ratio: impl Fn(&Group, &Scenario, &str) -> Option<Spread>,
) -> Vec<(String, Vec<Option<f64>>)> {
    let group = &results.side;
    let bars = |scenario: &Scenario| {
        let values = PEERS[1..].iter().map(|peer| ratio(group, scenario, peer).map(|spread| spread.median));
        (scenario.name.to_owned(), values.collect())
    };
    group.scenarios.iter().map(bars).collect()
}

fn throughput_plot(results: &Results) -> String {
    let groups = beside_routing(results, |group, scenario, peer| {
        group.of(scenario, peer).rate_ratio(&group.of(scenario, "route"))
    });
    plot::bars("Throughput, plain routing = 1", &PEERS[1..], &groups)
}

fn cost_plot(results: &Results) -> String {
    let groups = beside_routing(results, |group, scenario, peer| {
        group.of(scenario, peer).cost_ratio(&group.of(scenario, "route"))
    });
    plot::bars("Processor time of the machine per unit, plain routing = 1", &PEERS[1..], &groups)
}

fn growth_plot(results: &Results) -> String {
    let panels: Vec<Panel> = results
        .growth
        .iter()
        .map(|(axis, samples)| Panel {
            title: axis.what.to_owned(),
            labels: axis.steps.iter().map(|step| step.label.clone()).collect(),
            values: axis
                .steps
                .iter()
                .map(|step| {
                    crate::measure::Measured::of(samples, axis.name, &step.label, Unit::Connection).cost()
                })
                .collect(),
            points: true,
        })
        .collect();
    plot::lines("CPU µs per new connection, by", &panels)
}

fn memory_plot(results: &Results) -> String {
    let waves = &results.waves;
    let tenth = (waves.len() / 5).max(1);
    let label = |number: usize| if number.is_multiple_of(tenth) { number.to_string() } else { String::new() };
    let value = |kib: u64| {
        let mib = kib as f64 / 1024.0;
        Some(Spread { low: mib, median: mib, high: mib })
    };
    let panel = Panel {
        title: "after each wave".into(),
        labels: waves.iter().map(|wave| label(wave.number)).collect(),
        values: waves.iter().map(|wave| value(wave.resident_kib)).collect(),
        points: false,
    };
    plot::lines("Resident memory, MiB", &[panel])
}
