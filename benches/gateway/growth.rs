//! Cost of a new connection as sizes grow.

use crate::generator::Helper;
use crate::journal::Journal;
use crate::load::{Job, Kind};
use crate::measure::{Sample, check, window};
use crate::net::Net;
use crate::peer::{Kind as PeerKind, Peers, Size, TENANTS_CLIENTS};
use crate::scenario::Pace;

/// A size that grows, while all others stay the same.
pub struct Axis {
    pub name: &'static str,
    pub what: &'static str,
    pub steps: Vec<Step>,
    job: Job,
}

pub struct Step {
    pub label: String,
    size: Size,
    /// Connections held meanwhile.
    held: usize,
}

impl Step {
    fn new(value: usize, size: Size) -> Self {
        Self { label: crate::table::count(value), size, held: 0 }
    }
}

/// Ports of the pool that is filled, few enough for connections of this machine to use them all.
const FILLED: (u16, u16) = (30_000, 34_095);

/// Largest sizes.
pub struct Limits {
    pub held: usize,
    pub names: usize,
    pub tenants: u16,
    pub addresses: u16,
    /// Used ports of the pool, in per mille.
    pub fill: usize,
}

pub fn axes(pace: Pace, limits: &Limits) -> Vec<Axis> {
    let rate = pace.job(Kind::Rate, 64);
    let size = Size::default();
    let up_to = |values: &[usize], limit: usize| -> Vec<usize> {
        values.iter().copied().filter(|value| *value <= limit).collect()
    };
    let steps = |values: &[usize], limit, sized: &dyn Fn(usize) -> Size| -> Vec<Step> {
        up_to(values, limit).into_iter().map(|value| Step::new(value, sized(value))).collect()
    };
    let small = |value: usize| u16::try_from(value).expect("a small number");
    let ports = usize::from(FILLED.1 - FILLED.0) + 1;
    vec![
        Axis {
            name: "held",
            what: "connections held",
            steps: up_to(&[0, 1000, 3000, 9000], limits.held)
                .into_iter()
                .map(|held| Step { held, ..Step::new(held, size) })
                .collect(),
            job: rate.clone(),
        },
        Axis {
            name: "names",
            what: "names in the policy",
            steps: steps(&[10, 1000, 10_000, 100_000, 1_000_000], limits.names, &|names| Size {
                names,
                ..size
            }),
            job: rate.clone(),
        },
        Axis {
            name: "tenants",
            what: "tenants",
            steps: steps(&[1, 10, 100, 1000], limits.tenants.into(), &|tenants| Size {
                tenants: small(tenants),
                names: 10,
                ..size
            }),
            job: Job { sources: TENANTS_CLIENTS, ..rate.clone() },
        },
        Axis {
            name: "pool",
            what: "source addresses",
            steps: steps(&[1, 4, 16, 64, 256], limits.addresses.into(), &|addresses| Size {
                addresses: small(addresses),
                ..size
            }),
            job: rate.clone(),
        },
        Axis {
            name: "fill",
            what: "% of ports in use",
            steps: up_to(&[0, 500, 900, 990, 999], limits.fill)
                .into_iter()
                .map(|share| Step {
                    label: format!("{}", share as f64 / 10.0),
                    size: Size { addresses: 1, ports: FILLED, ..size },
                    held: ports * share / 1000,
                })
                .collect(),
            job: Job { connections: 1, both_families: false, ..rate.clone() },
        },
        Axis {
            name: "workers",
            what: "workers",
            steps: steps(&[1, 2], 2, &|workers| Size { workers, ..size }),
            job: rate,
        },
    ]
}

impl Axis {
    /// Measures all steps in turn, each with its own gateway.
    pub fn measure(
        &self,
        net: &Net,
        peers: &mut Peers,
        rounds: usize,
        journal: &mut Journal,
    ) -> Result<Vec<Sample>, String> {
        let mut running = Vec::new();
        for step in &self.steps {
            let peer = peers.start(&step.label, &PeerKind::Egret(step.size))?;
            check(net, &peer)?;
            let idle = Job { kind: Kind::Hold, connections: step.held, ..self.job.clone() };
            let held = peer.measured(net, || {
                let mut held = Helper::load(&net.client, &idle)?;
                held.go()?;
                held.report()?.without_failures().map(|_| held)
            });
            let held = held.map_err(|reason| peer.complaint(&reason))?;
            running.push((peer, held));
        }
        let mut samples = Vec::new();
        for round in 0..rounds {
            eprintln!("  round {} of {rounds}: {}", round + 1, self.name);
            // alternating direction, so that no step always follows the same one
            let forwards = round % 2 == 0;
            for n in 0..running.len() {
                let n = if forwards { n } else { running.len() - 1 - n };
                let (peer, _) = &mut running[n];
                let report = window(net, peer, &self.job, None);
                peer.still_runs()?;
                let sample =
                    Sample { scenario: self.name.to_owned(), peer: peer.name.clone(), round, report };
                journal.note("growth", &sample);
                samples.push(sample);
            }
        }
        Ok(samples)
    }
}
