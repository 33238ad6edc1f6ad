//! Memory use of connections, and its release.

use crate::generator::Helper;
use crate::journal::Journal;
use crate::load::{Job, Kind};
use crate::machine::descriptors;
use crate::net::Net;
use crate::peer::{Kind as PeerKind, Peers};
use crate::process::resident_kib;
use crate::wait::wait_until;
use serde::Serialize;

/// Memory use of idle connections in a new process.
#[derive(Debug, Serialize)]
pub struct Idle {
    pub peer: String,
    pub connections: usize,
    /// Resident memory without and with them.
    pub before_kib: u64,
    pub with_kib: u64,
    /// Descriptors per connection.
    pub descriptors: f64,
    /// Connections that failed and were retried.
    pub failures: u64,
}

impl Idle {
    /// Resident memory per connection.
    pub fn each_kib(&self) -> f64 {
        (self.with_kib as f64 - self.before_kib as f64) / self.connections as f64
    }
}

/// Memory after one wave of connections.
#[derive(Debug, Serialize)]
pub struct Wave {
    pub number: usize,
    pub connections: usize,
    pub resident_kib: u64,
}

pub fn idle(
    net: &Net,
    peers: &mut Peers,
    name: &str,
    kind: &PeerKind,
    connections: usize,
    journal: &mut Journal,
) -> Result<Idle, String> {
    let peer = peers.start(name, kind)?;
    let pid = peer.pid();
    let measured = peer.measured(net, || {
        let (before_kib, descriptors_before) = (resident_kib(pid), descriptors(pid));
        let mut held = Helper::load(&net.client, &hold(connections))?;
        held.go()?;
        let failures = held.report()?.failures;
        let idle = Idle {
            peer: name.to_owned(),
            connections,
            before_kib,
            with_kib: resident_kib(pid),
            failures,
            descriptors: (descriptors(pid) - descriptors_before) as f64 / connections as f64,
        };
        journal.note("idle", &idle);
        Ok(idle)
    });
    measured.map_err(|reason: String| peer.complaint(&reason))
}

/// Repeatedly opens many connections at once, holds them, and closes them.
pub fn waves(
    net: &Net,
    peers: &mut Peers,
    kind: &PeerKind,
    (waves, connections): (usize, usize),
    journal: &mut Journal,
) -> Result<Vec<Wave>, String> {
    let peer = peers.start("egret", kind)?;
    let pid = peer.pid();
    let measured = peer.measured(net, || {
        let without = descriptors(pid);
        let mut load = Helper::load(&net.client, &hold(connections))?;
        let mut all = Vec::new();
        for number in 1..=waves {
            // one order to connect, the next to close
            for _ in 0..2 {
                load.go()?;
                load.report()?.without_failures()?;
            }
            wait_until("the gateway to be done with a wave", || descriptors(pid) <= without + SPARE);
            let wave = Wave { number, connections, resident_kib: resident_kib(pid) };
            if number % 10 == 0 || number == waves {
                eprintln!("  wave {number} of {waves}: {} KiB", wave.resident_kib);
            }
            journal.note("wave", &wave);
            all.push(wave);
        }
        Ok(all)
    });
    measured.map_err(|reason: String| peer.complaint(&reason))
}

/// Descriptors that a gateway may keep for reuse: pipes.
const SPARE: usize = 64;

/// Least and most memory after a range of the waves.
pub struct Range {
    pub least_kib: u64,
    pub most_kib: u64,
}

/// Ranges of the second quarter of the waves, when every buffer has its size, and of the last.
pub fn second_and_last_quarter(waves: &[Wave]) -> Option<[Range; 2]> {
    let quarter = waves.len() / 4;
    let range = |part: &[Wave]| {
        let sizes = || part.iter().map(|wave| wave.resident_kib);
        Some(Range { least_kib: sizes().min()?, most_kib: sizes().max()? })
    };
    Some([range(&waves[quarter..2 * quarter])?, range(&waves[waves.len() - quarter..])?])
}

fn hold(connections: usize) -> Job {
    Job { kind: Kind::Hold, connections, ..Job::default() }
}
