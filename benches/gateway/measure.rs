//! Measures several peers in turn, so that they share the machine's fluctuations.

use crate::generator::{self, Helper};
use crate::journal::Journal;
use crate::load::{Job, Report};
use crate::net::Net;
use crate::peer::Peer;
use crate::scenario::{Scenario, Unit};
use crate::stats::{Spread, spread};
use crate::wire::{ALLOWED, DENIED};
use rand::seq::SliceRandom;
use serde::Serialize;
use std::time::Duration;

/// Result of one window.
#[derive(Clone, Debug, Serialize)]
pub struct Sample {
    pub scenario: String,
    pub peer: String,
    pub round: usize,
    pub report: Report,
}

/// Measures one window of one peer. Failures are part of the report.
pub fn window(net: &Net, peer: &Peer, job: &Job, beside: Option<&Job>) -> Report {
    let work = || {
        let mut other = beside.map(|job| Helper::load(&net.client, job)).transpose()?;
        if let Some(other) = &mut other {
            other.go()?;
        }
        let report = generator::run(&net.client, job)?;
        if report.units == 0 && report.failure.is_none() {
            return Err("nothing at all came through".into());
        }
        Ok(report)
    };
    let report: Result<_, String> = peer.measured(net, work);
    let mut report =
        report.unwrap_or_else(|failure| Report { failures: 1, failure: Some(failure), ..Report::default() });
    report.failure = report.failure.map(|failure| peer.complaint(&failure));
    report
}

/// Runs all scenarios in rounds; within a round the peers of a scenario follow each other in random order.
pub fn rounds(
    net: &Net,
    peers: &mut [Peer],
    scenarios: &[Scenario],
    rounds: usize,
    journal: &mut Journal,
) -> Result<Vec<Sample>, String> {
    let mut samples = Vec::new();
    for round in 0..rounds {
        for scenario in scenarios {
            eprintln!("  round {} of {rounds}: {}", round + 1, scenario.name);
            peers.shuffle(&mut rand::rng());
            for peer in &mut *peers {
                let report = window(net, peer, &scenario.job, scenario.beside.as_ref());
                peer.still_runs()?;
                let (scenario, peer) = (scenario.name.to_owned(), peer.name.clone());
                let sample = Sample { scenario, peer, round, report };
                journal.note("window", &sample);
                samples.push(sample);
            }
        }
    }
    Ok(samples)
}

/// Checks that it passes permitted traffic in both families, and, if it judges names, nothing else.
pub fn check(net: &Net, peer: &Peer) -> Result<(), String> {
    let job = |name: &str| Job {
        connections: 2,
        count: Some(4),
        warm_up: Duration::ZERO,
        window: Duration::from_secs(10),
        name: name.to_owned(),
        ..Job::default()
    };
    let allowed = window(net, peer, &job(ALLOWED), None);
    if allowed.units != 4 {
        let why = allowed.failure.unwrap_or_else(|| peer.complaint("too late"));
        return Err(format!("{} of 4 allowed connections came through. {why}", allowed.units));
    }
    if peer.judges {
        let denied = window(net, peer, &job(DENIED), None);
        if denied.units != 0 {
            return Err(format!("{} lets {} of 4 denied connections through", peer.name, denied.units));
        }
    }
    Ok(())
}

/// Results of one scenario and peer.
pub struct Measured<'a> {
    unit: Unit,
    samples: Vec<&'a Sample>,
}

impl<'a> Measured<'a> {
    pub fn of(samples: &'a [Sample], scenario: &str, peer: &str, unit: Unit) -> Self {
        let wanted =
            |sample: &&Sample| sample.scenario == scenario && sample.peer == peer && sample.report.units > 0;
        Self { unit, samples: samples.iter().filter(wanted).collect() }
    }

    fn each(&self, value: impl Fn(&Report) -> f64) -> Option<Spread> {
        spread(self.samples.iter().map(|sample| value(&sample.report)).collect())
    }

    /// Units per second.
    pub fn rate(&self) -> Option<Spread> {
        self.each(|report| rate(report) / self.unit.scale())
    }

    /// Processor time of the machine per unit.
    pub fn cost(&self) -> Option<Spread> {
        let scale = self.unit.scale() * self.unit.cost_scale();
        self.each(|report| cost(report) * scale)
    }

    pub fn p50(&self) -> Option<Spread> {
        self.each(|report| report.p50)
    }

    pub fn p99(&self) -> Option<Spread> {
        self.each(|report| report.p99)
    }

    pub fn evenness(&self) -> Option<Spread> {
        self.each(|report| crate::stats::evenness(&report.shares))
    }

    /// Cost beyond that of the other peer, round by round.
    pub fn added(&self, other: &Self) -> Option<Spread> {
        let scale = self.unit.scale() * self.unit.cost_scale();
        self.pairs(other, |mine, theirs| (cost(mine) - cost(theirs)) * scale)
    }

    pub fn rate_ratio(&self, other: &Self) -> Option<Spread> {
        self.pairs(other, |mine, theirs| rate(mine) / rate(theirs))
    }

    pub fn cost_ratio(&self, other: &Self) -> Option<Spread> {
        self.pairs(other, |mine, theirs| cost(mine) / cost(theirs))
    }

    pub fn p99_ratio(&self, other: &Self) -> Option<Spread> {
        self.pairs(other, |mine, theirs| mine.p99 / theirs.p99)
    }

    /// Compares windows of the same round only, because the machine's speed varies over minutes.
    fn pairs(&self, other: &Self, value: impl Fn(&Report, &Report) -> f64) -> Option<Spread> {
        let in_round = |round| other.samples.iter().find(|sample| sample.round == round);
        let pairs = self.samples.iter().filter_map(|mine| Some((mine, in_round(mine.round)?)));
        spread(pairs.map(|(mine, theirs)| value(&mine.report, &theirs.report)).collect())
    }
}

fn rate(report: &Report) -> f64 {
    report.units as f64 / report.seconds
}

fn cost(report: &Report) -> f64 {
    report.busy_seconds / report.units as f64
}
