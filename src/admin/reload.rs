//! `POST /v1/reload`: reloads the configuration and waits for the result.

use crate::audit::ConfigDifference;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Result of a reload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadAnswer {
    /// True if the files' content is now in force.
    pub reloaded: bool,
    /// Hash of the configuration in force; the previous one if it was not reloaded.
    pub config: String,
    /// Differences from the previous one; `null` if it was not reloaded.
    pub difference: Option<ConfigDifference>,
    /// Live flows reset because the new configuration does not allow them.
    pub revoked: u64,
    /// Live flows that continue only if their address or their server's certificate proves to match their name: the new
    /// rules require that, and it was never checked.
    pub unproved: u64,
    /// Change of the packet rules and routes, made or still to be made: one sentence; `null` if unchanged.
    #[serde(default)]
    pub steering: Option<String>,
    /// Findings on the files, as of `egret check`: errors if it was not reloaded, else warnings.
    pub findings: Vec<String>,
}

/// A connection lives 30 s at most, which leaves time to answer that the reload takes longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(25);
