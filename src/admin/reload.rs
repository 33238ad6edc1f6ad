//! `POST /v1/reload`: has the configuration read anew, and waits for what comes of it.

use crate::audit::Difference;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What came of a reload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadAnswer {
    /// Whether what the files say is in force now.
    pub reloaded: bool,
    /// The hash of the configuration in force, which is the one before if it was not reloaded.
    pub config: String,
    /// How it differs from the one before; `null` if it was not reloaded.
    pub difference: Option<Difference>,
    /// Live flows that were reset, because it does not allow them any more.
    pub revoked: u64,
    /// Live flows that go on only if their address, or their server's certificate, is found to be their name's: nobody had
    /// asked for that before, and now the rules do.
    pub unproved: u64,
    /// What became of the packet rules and routes, or is to be done for them: one sentence; `null` if they are as they were.
    #[serde(default)]
    pub steering: Option<String>,
    /// What is to be said of the files, as `egret check` says it: errors if it was not reloaded, else warnings.
    pub findings: Vec<String>,
}

/// A connection may be open for 30 s; so there is time left to say that it takes longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(25);
