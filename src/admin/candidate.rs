//! `/v1/candidate`: a second policy, judged beside the one in force.

use crate::audit::Difference;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

/// The body of `POST /v1/candidate/load`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadOrder {
    /// A main file, absolute, as the gateway itself can read it.
    pub file: PathBuf,
    /// Share of clients that it is enforced for, 1 to 100; `None`: it is judged alone.
    pub percent: Option<u8>,
    /// Most flows of these clients, in percent, that may be denied by the candidate alone before it is enforced no more;
    /// 0 to 100. Means nothing without `percent`.
    pub max_denials: f64,
}

impl LoadOrder {
    /// What is wrong with it, in words for people.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.percent.is_some_and(|percent| !(1..=100).contains(&percent)) {
            return Err("`percent` is 1 to 100");
        }
        check_bound(self.max_denials)?;
        if self.file.is_absolute() { Ok(()) } else { Err("`file` is an absolute path") }
    }
}

fn check_bound(max_denials: f64) -> Result<(), &'static str> {
    if (0.0..=100.0).contains(&max_denials) { Ok(()) } else { Err("`max_denials` is 0 to 100") }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadAnswer {
    /// Whether it is loaded now. If not, the one before it stays, if there was one.
    pub loaded: bool,
    /// The hash that its configuration will have once it is in force; empty if it is not loaded.
    pub version: String,
    /// How it differs from the configuration in force; `null` if it is not loaded.
    pub difference: Option<Difference>,
    /// Live flows that were reset: another candidate had let them out, and nobody does any more.
    pub revoked: u64,
    /// What is to be said of the files, as `egret check` says it: errors if it is not loaded, else warnings.
    pub findings: Vec<String>,
}

/// The answer to `POST /v1/candidate/drop`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropAnswer {
    /// The hash of what was dropped.
    pub version: Arc<str>,
    /// Live flows that were reset: it had let them out, and the policy in force does not.
    pub revoked: u64,
}

/// The body of `POST /v1/candidate/share`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareOrder {
    /// Share of clients that it is enforced for from now on, 0 to 100; 0: it is judged alone.
    pub percent: u8,
    /// As in [`LoadOrder`]; `None`: as it was, or [`MAX_DENIALS`](Self::MAX_DENIALS).
    pub max_denials: Option<f64>,
}

impl ShareOrder {
    /// What `max_denials` is where nobody says so.
    pub const MAX_DENIALS: f64 = 1.0;

    /// What is wrong with it, in words for people.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.percent > 100 {
            return Err("`percent` is 0 to 100");
        }
        check_bound(self.max_denials.unwrap_or(Self::MAX_DENIALS))
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShareAnswer {
    /// The candidate's hash.
    pub version: Arc<str>,
    /// Of the clients.
    pub percent: u8,
    /// Of their flows, in percent.
    pub max_denials: f64,
    /// Live flows that were reset: it had let them out, and the policy that holds for their clients now does not.
    pub revoked: u64,
}

/// The answer to `GET /v1/candidate/files`: what a promotion has to write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promotion {
    /// What it was loaded from.
    pub candidate: FileSet,
    /// What the configuration in force was loaded from.
    pub running: FileSet,
    /// Live flows that it would reset.
    #[serde(default)]
    pub revokes: u64,
    /// Live flows that it would ask about first, and reset if their name cannot be verified.
    #[serde(default)]
    pub asks: u64,
}

/// The files of a configuration, by absolute paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSet {
    /// The main file.
    pub main: PathBuf,
    /// All of them.
    pub files: Vec<FileRead>,
}

/// One file, as it was when it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRead {
    /// Where it is.
    pub path: PathBuf,
    /// FNV-1a of its bytes, 64 bits.
    pub digest: u64,
}

/// The answer to `GET /v1/candidate`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CandidateReport {
    /// `null` if none is loaded.
    pub candidate: Option<CandidateStatus>,
}

/// A loaded candidate, and what it came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CandidateStatus {
    /// The main file.
    pub file: PathBuf,
    /// The hash that its configuration will have once it is in force.
    pub version: Arc<str>,
    /// When it was loaded.
    pub loaded: jiff::Timestamp,
    /// `observing`, `canary` or `fell_back`.
    pub state: String,
    /// The share of clients that it was loaded to be enforced for, and by what bound.
    pub canary: Option<Canary>,
    /// Flows that it was judged on since, and their later requests, by the tenant in force.
    pub tenants: Vec<TenantChanges>,
    /// What it would change, by rules and reason; the most frequent first.
    pub changes: Vec<ChangedFlows>,
    /// Changed flows and requests that are in `tenants` alone, there being too many kinds.
    pub beyond: u64,
}

/// The terms of a canary, and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Canary {
    /// Of the clients.
    pub percent: u8,
    /// Of their flows, in percent.
    pub max_denials: f64,
    /// Why it is no longer enforced for anybody.
    pub fell_back: Option<FellBack>,
}

/// Too many denials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FellBack {
    /// When.
    pub time: jiff::Timestamp,
    /// Flows of the share's clients that the candidate alone denied.
    pub denied: u32,
    /// Their flows in all.
    pub flows: u32,
    /// Within so many seconds, or less.
    pub within_seconds: u64,
}

/// Flows of one tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantChanges {
    /// In force; `unknown` for clients that belong to none.
    pub tenant: Arc<str>,
    /// Decided alike.
    pub same: u64,
    /// Let out, and the candidate would not.
    pub would_deny: u64,
    /// Denied, and the candidate would not.
    pub would_allow: u64,
    /// One policy decides before the client has said anything, and the other would listen.
    pub unjudged: u64,
    /// Of later HTTP requests on connections that were let out.
    pub requests: RequestChanges,
}

/// Later HTTP requests of one tenant's flows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestChanges {
    /// Decided alike.
    pub same: u64,
    /// Let through, and the candidate would not.
    pub would_deny: u64,
    /// Denied, and the candidate would not.
    pub would_allow: u64,
}

/// Flows that would change alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedFlows {
    /// The tenant in force.
    pub tenant: Arc<str>,
    /// `would_deny` or `would_allow`.
    pub change: String,
    /// Why the one policy denies.
    pub reason: String,
    /// The rule in force that decides, if one does.
    pub rule: Option<Arc<str>>,
    /// The candidate's rule that decides, if one does.
    pub candidate_rule: Option<Arc<str>>,
    /// How many.
    pub flows: u64,
    /// Later HTTP requests that would change alike.
    pub requests: u64,
    /// Some of the targets, the latest first.
    pub examples: Vec<Example>,
}

/// Flows to one target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// The name asked for, if any.
    pub hostname: Option<String>,
    /// The address and port dialled last.
    pub destination: SocketAddr,
    /// Who dialled last.
    pub client: IpAddr,
    /// How many, since it is among the examples.
    pub flows: u64,
    /// Later HTTP requests, likewise.
    pub requests: u64,
    /// When the last one came.
    pub last: jiff::Timestamp,
}
