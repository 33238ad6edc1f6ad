//! All results of one run.

use crate::calls::{self, Calls};
use crate::generator::Helper;
use crate::growth::{self, Axis};
use crate::journal::Journal;
use crate::machine;
use crate::measure::{Measured, Sample, check, rounds};
use crate::memory::{self, Idle, Wave};
use crate::net::{Net, nat_rules};
use crate::peer::{Kind, Peer, Peers, Size, may_fail};
use crate::plan::{Part, Plan};
use crate::scenario::{Scenario, crowded, side_by_side};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::Command;

pub struct Results {
    pub about: About,
    pub side: Group,
    pub crowded: Group,
    pub idle: Vec<Idle>,
    pub waves: Vec<Wave>,
    pub calls: Vec<Calls>,
    pub growth: Vec<(Axis, Vec<Sample>)>,
}

/// Place, time and versions of the run.
#[derive(Serialize)]
pub struct About {
    pub date: String,
    pub processor: String,
    pub processors: usize,
    pub kernel: String,
    pub egret: String,
    pub haproxy: String,
    pub rounds: usize,
    pub window_ms: u128,
    pub seconds: u64,
}

/// Scenarios with all their windows.
#[derive(Default)]
pub struct Group {
    pub scenarios: Vec<Scenario>,
    samples: Vec<Sample>,
}

impl Group {
    pub fn of(&self, scenario: &Scenario, peer: &str) -> Measured<'_> {
        Measured::of(&self.samples, scenario.name, peer, scenario.unit)
    }
}

impl Results {
    pub fn measure(plan: &Plan, folder: &Path, journal: &mut Journal) -> Result<Self, String> {
        let began = egret::clock::now();
        let egret =
            std::env::var_os("EGRET").map_or_else(|| env!("CARGO_BIN_EXE_egret").into(), PathBuf::from);
        let mut results = Self {
            about: About::new(plan, &egret)?,
            side: Group::default(),
            crowded: Group::default(),
            idle: Vec::new(),
            waves: Vec::new(),
            calls: Vec::new(),
            growth: Vec::new(),
        };
        journal.note("about", &results.about);
        let net = Net::new();
        let _servers = Helper::servers(&net.server)?;
        let mut peers = Peers::new(&net, egret, folder.to_owned());
        let usual = Kind::Egret(Size::default());
        for part in &plan.parts {
            eprintln!("{part:?}, after {} s", began.elapsed().as_secs());
            match part {
                Part::Side => {
                    let mut running =
                        vec![Peer::kernel("route", String::new()), Peer::kernel("nat", nat_rules())];
                    for peer in &running {
                        check(&net, peer)?;
                    }
                    running.extend(start(&net, &mut peers, &relays())?);
                    let scenarios = side_by_side(plan.pace);
                    let samples = rounds(&net, &mut running, &scenarios, plan.rounds, journal)?;
                    results.side = Group { scenarios, samples };
                }
                Part::Crowded => {
                    let kinds = [
                        ("haproxy", Kind::Haproxy { threads: 1 }),
                        ("egret", Kind::Egret(Size { workers: 1, ..Size::default() })),
                    ];
                    let mut running = start(&net, &mut peers, &kinds)?;
                    let scenarios = crowded(plan.crowded);
                    let samples = rounds(&net, &mut running, &scenarios, plan.rounds, journal)?;
                    results.crowded = Group { scenarios, samples };
                }
                Part::Idle => {
                    for _ in 0..plan.idle_rounds {
                        for (name, kind) in proxies() {
                            let idle = memory::idle(&net, &mut peers, name, &kind, plan.idle, journal)?;
                            results.idle.push(idle);
                        }
                    }
                }
                Part::Waves => {
                    results.waves = memory::waves(&net, &mut peers, &usual, plan.waves, journal)?;
                }
                Part::Calls => {
                    for peer in start(&net, &mut peers, &relays())? {
                        results.calls.extend(calls::count(&net, &peer, &plan.calls, folder, journal)?);
                    }
                }
                Part::Growth => {
                    for axis in growth::axes(plan.growth, &plan.limits) {
                        let samples = axis.measure(&net, &mut peers, plan.growth_rounds, journal)?;
                        results.growth.push((axis, samples));
                    }
                }
            }
        }
        results.about.seconds = began.elapsed().as_secs();
        Ok(results)
    }

    /// Fails if Egret failed in any measurement. Failures of haproxy are only reported.
    pub fn verdict(&self) -> Result<(), String> {
        let growth = self.growth.iter().flat_map(|(_, samples)| samples);
        let samples = self.side.samples.iter().chain(&self.crowded.samples).chain(growth);
        let idle = self.idle.iter().filter(|idle| idle.failures > 0).map(|idle| {
            (&*idle.peer, format!("  idle connections of {}: {} failures", idle.peer, idle.failures))
        });
        let windows = samples.filter(|sample| sample.report.failures > 0).map(
            |Sample { scenario, peer, round, report }| {
                let why = report.failure.as_deref().unwrap_or("no reason");
                let failures = report.failures;
                let round = round + 1;
                (
                    &**peer,
                    format!("  {scenario} of {peer}, round {round}: {failures} failures, the first: {why}"),
                )
            },
        );
        let (theirs, ours): (Vec<_>, Vec<_>) = windows.chain(idle).partition(|(peer, _)| may_fail(peer));
        for (_, failure) in theirs {
            eprintln!("{failure}");
        }
        let ours: Vec<_> = ours.into_iter().map(|(_, failure)| failure).collect();
        if ours.is_empty() { Ok(()) } else { Err(format!("not all went well:\n{}", ours.join("\n"))) }
    }
}

fn relays() -> [(&'static str, Kind); 3] {
    let [haproxy, egret] = proxies();
    [("bare", Kind::Bare { threads: 2 }), haproxy, egret]
}

fn proxies() -> [(&'static str, Kind); 2] {
    [("haproxy", Kind::Haproxy { threads: 2 }), ("egret", Kind::Egret(Size::default()))]
}

fn start(net: &Net, peers: &mut Peers, kinds: &[(&str, Kind)]) -> Result<Vec<Peer>, String> {
    let start = |(name, kind): &(&str, Kind)| {
        let peer = peers.start(name, kind)?;
        check(net, &peer)?;
        Ok(peer)
    };
    kinds.iter().map(start).collect()
}

impl About {
    fn new(plan: &Plan, egret: &Path) -> Result<Self, String> {
        let first_line = |program: &Path, argument: &str, package: &str| {
            let output = Command::new(program).arg(argument).output();
            let output = output.map_err(|e| {
                format!("{}: {e}; if it is missing: apt-get install {package}", program.display())
            })?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            Ok::<_, String>(text.lines().next().unwrap_or_default().to_owned())
        };
        let haproxy = first_line(Path::new("haproxy"), "-v", "haproxy")?;
        Ok(Self {
            date: jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
            processor: machine::processor(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: first_line(Path::new("uname"), "-sr", "coreutils")?,
            egret: first_line(egret, "--version", "")?,
            haproxy: haproxy.split_whitespace().take(3).collect::<Vec<_>>().join(" "),
            rounds: plan.rounds,
            window_ms: plan.pace.window.as_millis(),
            seconds: 0,
        })
    }
}
