//! System call counts, by strace.

use crate::generator::Helper;
use crate::journal::Journal;
use crate::load::{Job, Kind};
use crate::machine::descriptors;
use crate::net::Net;
use crate::peer::{Peer, may_fail};
use crate::wait::wait_until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// System calls per unit of work.
#[derive(Debug, Serialize)]
pub struct Calls {
    pub peer: String,
    /// Unit: `connection`, `request`, `GB`.
    pub unit: &'static str,
    /// Calls per unit, by name.
    pub each: BTreeMap<String, f64>,
}

impl Calls {
    pub fn total(&self) -> f64 {
        self.each.values().sum()
    }
}

/// Amount of work to trace.
pub struct Amount {
    pub connections: u64,
    pub requests: u64,
    pub seconds: f64,
}

pub fn count(
    net: &Net,
    peer: &Peer,
    amount: &Amount,
    folder: &Path,
    journal: &mut Journal,
) -> Result<Vec<Calls>, String> {
    // ended by the count or the time
    let job = |kind, connections, count, seconds| Job {
        kind,
        connections,
        count,
        warm_up: Duration::ZERO,
        window: Duration::from_secs_f64(seconds),
        ..Job::default()
    };
    let jobs = [
        ("connection", 1.0, job(Kind::Rate, 64, Some(amount.connections), 60.0)),
        ("request", 1.0, job(Kind::Exchange, 16, Some(amount.requests), 60.0)),
        ("GB", 1e9, job(Kind::Down, 8, None, amount.seconds)),
    ];
    let mut all = Vec::new();
    for (unit, scale, job) in jobs {
        let (calls, units) = peer.measured(net, || counted(net, peer, &job, &folder.join("strace")))?;
        let each = |(name, calls): (String, u64)| (name, calls as f64 * scale / units as f64);
        let calls = Calls { peer: peer.name.clone(), unit, each: calls.into_iter().map(each).collect() };
        journal.note("calls", &calls);
        all.push(calls);
    }
    Ok(all)
}

/// Returns the process's calls from start to end of the job, and the job's units.
fn counted(net: &Net, peer: &Peer, job: &Job, file: &Path) -> Result<(BTreeMap<String, u64>, u64), String> {
    let pid = peer.pid();
    let before = descriptors(pid);
    let mut load = Helper::load(&net.client, job)?;
    let mut strace = attach(pid, file)?;
    load.go()?;
    let mut report = load.report()?;
    if !may_fail(&peer.name) || report.failures * 100 > report.units {
        report = report.without_failures().map_err(|failure| peer.complaint(&failure))?;
    }
    if job.kind == Kind::Rate {
        wait_until("the gateway to be done with the connections", || descriptors(pid) <= before + 8);
    }
    // detaches from the process and prints its counts
    let _ = kill(Pid::from_raw(strace.id().cast_signed()), Signal::SIGINT);
    let _ = strace.wait();
    let summary = fs::read_to_string(file).map_err(|e| format!("what strace counted: {e}"))?;
    Ok((parse(&summary), report.units))
}

fn attach(pid: u32, file: &Path) -> Result<Child, String> {
    let mut strace = Command::new("strace")
        .args(["-f", "-c", "-U", "calls,name", "-p", &pid.to_string(), "-o"])
        .arg(file)
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("strace: {e}; if it is missing: apt-get install strace"))?;
    let mut messages = BufReader::new(strace.stderr.take().expect("a pipe"));
    let mut line = String::new();
    messages.read_line(&mut line).map_err(|e| format!("strace: {e}"))?;
    if !line.contains("attached") {
        return Err(format!("strace cannot attach to a process: {line}"));
    }
    // strace stops if its output is not read
    std::thread::spawn(move || messages.lines().count());
    Ok(strace)
}

fn parse(summary: &str) -> BTreeMap<String, u64> {
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        let (calls, name) = (words.next()?.parse().ok()?, words.next()?);
        (name != "total").then(|| (name.to_owned(), calls))
    };
    summary.lines().filter_map(row).collect()
}
