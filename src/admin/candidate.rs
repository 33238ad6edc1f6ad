//! `/v1/candidate`: a candidate (shadow) policy, evaluated beside the policy in force.

use crate::audit::ConfigDifference;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

/// Error of what takes a loaded candidate.
pub const NO_CANDIDATE: &str = "no candidate is loaded; `egret candidate load FILE` loads one";

/// The body of `POST /v1/candidate/load`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadOrder {
    /// Absolute path of the main file; the gateway must be able to read it.
    pub file: PathBuf,
    /// Canary: the percentage of clients that the candidate is enforced for, 1 to 100; `None`: shadow evaluation only.
    pub percent: Option<u8>,
    /// Rollback bound: the percentage of these clients' flows that the candidate alone may deny, 0 to 100. Ignored
    /// without `percent`.
    pub max_denials: f64,
}

impl LoadOrder {
    /// Validates the order; the error is a message for people.
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

/// Result of a load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadAnswer {
    /// True if it was loaded. Otherwise, any candidate loaded before stays.
    pub loaded: bool,
    /// Hash that the configuration will have once in force; empty if it was not loaded.
    pub version: String,
    /// Differences from the configuration in force; `null` if it was not loaded.
    pub difference: Option<ConfigDifference>,
    /// Live flows reset: a previous candidate had allowed them, and no policy does now.
    pub revoked: u64,
    /// Findings on the files, as of `egret check`: errors if it was not loaded, else warnings.
    pub findings: Vec<String>,
}

/// The answer to `POST /v1/candidate/drop`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropAnswer {
    /// Hash of the dropped configuration.
    pub version: Arc<str>,
    /// Live flows reset: the candidate had allowed them, and the policy in force does not.
    pub revoked: u64,
}

/// The body of `POST /v1/candidate/share`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShareOrder {
    /// New percentage of clients that it is enforced for, 0 to 100; 0: shadow evaluation only.
    pub percent: u8,
    /// As in [`LoadOrder`]; `None`: unchanged, or [`MAX_DENIALS`](Self::MAX_DENIALS) if none was set.
    pub max_denials: Option<f64>,
}

impl ShareOrder {
    /// Default of `max_denials`.
    pub const MAX_DENIALS: f64 = 1.0;

    /// Validates the order; the error is a message for people.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.percent > 100 {
            return Err("`percent` is 0 to 100");
        }
        check_bound(self.max_denials.unwrap_or(Self::MAX_DENIALS))
    }
}

/// The body of `POST /v1/candidate/promote`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PromoteOrder {
    /// Promotes even a candidate that was rolled back.
    pub force: bool,
}

/// Result of a change of the share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShareAnswer {
    /// The candidate's hash.
    pub version: Arc<str>,
    /// Percentage of clients that it is enforced for.
    pub percent: u8,
    /// Rollback bound, as a percentage of their flows.
    pub max_denials: f64,
    /// Live flows reset: the candidate had allowed them, and the policy that now applies to their clients does not.
    pub revoked: u64,
}

/// The answer to `GET /v1/candidate/files`: the files that a promotion reads and writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromotionFiles {
    /// Files that the candidate was loaded from.
    pub candidate: FileSet,
    /// Files that the configuration in force was loaded from.
    pub running: FileSet,
    /// Live flows that a promotion would reset.
    #[serde(default)]
    pub revokes: u64,
    /// Live flows that it would verify first, and reset if their name cannot be verified.
    #[serde(default)]
    pub asks: u64,
    /// Rollback of the candidate, if it was rolled back and has not been enforced again since.
    #[serde(default)]
    pub fell_back: Option<RollbackReport>,
}

/// Files of a configuration, by absolute path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSet {
    /// The main file.
    pub main: PathBuf,
    /// All files, including the main one.
    pub files: Vec<FileRead>,
}

/// One file, as it was when read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRead {
    /// Path of the file.
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

/// A loaded candidate and its results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CandidateStatus {
    /// The main file.
    pub file: PathBuf,
    /// Hash that its configuration will have once in force.
    pub version: Arc<str>,
    /// Time of loading.
    pub loaded: jiff::Timestamp,
    /// `observing`, `canary` or `fell_back`.
    pub state: String,
    /// Terms of the canary; `null` if the candidate is only evaluated.
    pub canary: Option<CanaryStatus>,
    /// Flows and later requests evaluated since loading, by the tenant in force.
    pub tenants: Vec<TenantChanges>,
    /// Flows that the candidate would decide differently, by rules and reason; the most frequent first.
    pub changes: Vec<ChangedFlows>,
    /// Changed flows and requests that are only counted in `tenants`, because there are too many kinds.
    pub beyond: u64,
}

/// Terms of a canary, and its rollback if there was one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CanaryStatus {
    /// Percentage of clients to enforce the candidate for.
    pub percent: u8,
    /// Rollback bound, as a percentage of their flows.
    pub max_denials: f64,
    /// Reason for the rollback; `null` if there was none.
    pub fell_back: Option<RollbackReport>,
}

/// Rollback of a canary because of too many denials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollbackReport {
    /// Time of the rollback.
    pub time: jiff::Timestamp,
    /// Flows of the canary's clients that the candidate alone denied.
    pub denied: u32,
    /// All flows of these clients.
    pub flows: u32,
    /// Length of the window in seconds; the flows counted may span less.
    pub within_seconds: u64,
}

/// Flows of one tenant, by outcome of the comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantChanges {
    /// Tenant in force; `unknown` for clients that belong to none.
    pub tenant: Arc<str>,
    /// Decided alike by both policies.
    pub same: u64,
    /// Allowed; the candidate would deny.
    pub would_deny: u64,
    /// Denied; the candidate would allow.
    pub would_allow: u64,
    /// Not comparable: one policy decides before the client sends anything, the other would inspect.
    pub unjudged: u64,
    /// Later HTTP requests on allowed connections.
    pub requests: RequestChanges,
}

/// Later HTTP requests of one tenant's flows, by outcome of the comparison.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestChanges {
    /// Decided alike by both policies.
    pub same: u64,
    /// Allowed; the candidate would deny.
    pub would_deny: u64,
    /// Denied; the candidate would allow.
    pub would_allow: u64,
}

/// Flows that would change in the same way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedFlows {
    /// The tenant in force.
    pub tenant: Arc<str>,
    /// `would_deny` or `would_allow`.
    pub change: String,
    /// Reason of the policy that denies.
    pub reason: String,
    /// Deciding rule of the policy in force, if any.
    pub rule: Option<Arc<str>>,
    /// Deciding rule of the candidate, if any.
    pub candidate_rule: Option<Arc<str>>,
    /// Denial that monitor mode waives, in the policy that lets these flows out; `null` if a rule allows them.
    #[serde(default)]
    pub waived: Option<String>,
    /// Number of flows.
    pub flows: u64,
    /// Number of later HTTP requests that would change in the same way.
    pub requests: u64,
    /// Some of the targets, the most recent first.
    pub examples: Vec<ExampleFlows>,
}

/// Flows to one target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExampleFlows {
    /// Requested name, if any.
    pub hostname: Option<String>,
    /// Address and port last dialled.
    pub destination: SocketAddr,
    /// Client of the last flow.
    pub client: IpAddr,
    /// Flows since it became an example.
    pub flows: u64,
    /// Later HTTP requests since it became an example.
    pub requests: u64,
    /// Time of the last one.
    pub last: jiff::Timestamp,
}
