//! The load generator: one single-threaded process in the client's namespace for each job.
//!
//! It takes the job as an argument, prints `ready` when its connections are established, starts at a line on its
//! standard input, and answers with one [`Report`] as JSON.

mod bulk;
mod dial;
mod exchange;
mod hold;
mod rate;
mod window;

use crate::wire::{ALLOWED, Service};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Job of one process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    pub kind: Kind,
    /// Concurrent connections.
    pub connections: usize,
    /// Number of connections or requests after which it stops, whatever the time.
    pub count: Option<u64>,
    /// Time before the measurement.
    pub warm_up: Duration,
    /// Time of the measurement.
    pub window: Duration,
    /// Number of client addresses, used in turn.
    pub sources: u16,
    /// Requested name.
    pub name: String,
    /// True if every second connection is IPv6; otherwise none.
    pub both_families: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Connect, hello, reply, close, repeatedly.
    Rate,
    /// A request on each connection, its response, and the next one.
    Exchange,
    /// Bytes from the server.
    Down,
    /// Bytes to the server.
    Up,
    /// Idle connections until the next line; then none, until the next line.
    Hold,
}

impl Default for Job {
    fn default() -> Self {
        Self {
            kind: Kind::Rate,
            connections: 64,
            count: None,
            warm_up: Duration::from_millis(120),
            window: Duration::from_millis(500),
            sources: 32,
            name: ALLOWED.into(),
            both_families: true,
        }
    }
}

impl Kind {
    pub fn service(self) -> Service {
        match self {
            Self::Rate | Self::Exchange | Self::Hold => Service::Exchange,
            Self::Down => Service::Source,
            Self::Up => Service::Sink,
        }
    }
}

/// Result of a job.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Connections, requests or bytes.
    pub units: u64,
    pub seconds: f64,
    /// Processor time of the whole machine.
    pub busy_seconds: f64,
    /// Latency of a connection up to its reply, or of a request up to its response; in µs.
    pub p50: f64,
    pub p99: f64,
    /// Number of failed connections, and the reason of the first failure.
    pub failures: u64,
    pub failure: Option<String>,
    /// Bytes of each connection, for jobs that count bytes.
    pub shares: Vec<u64>,
}

impl Report {
    /// Fails if any connection failed.
    pub fn without_failures(self) -> Result<Self, String> {
        match self.failure {
            None => Ok(self),
            Some(failure) => Err(format!("{} connections failed, the first: {failure}", self.failures)),
        }
    }
}

/// Runs the job. The error is printed for the user.
pub fn run(job: &Job) -> Result<(), String> {
    match job.kind {
        Kind::Rate => {
            rate::run(job);
            Ok(())
        }
        Kind::Exchange => exchange::run(job),
        Kind::Down | Kind::Up => bulk::run(job),
        Kind::Hold => hold::run(job),
    }
}

/// Prints `ready`, and waits for the order to start; false if none will come.
fn ready() -> bool {
    println!("ready");
    next_order()
}

fn next_order() -> bool {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).is_ok_and(|length| length > 0)
}

fn tell(report: &Report) {
    println!("{}", serde_json::to_string(report).expect("numbers"));
}
