//! The loaded candidate.

mod status;

use crate::admin::{FileSet, NO_CANDIDATE};
use crate::config::ReadFile;
use crate::gateway::Candidate;
use crate::telemetry::CandidateInfo;
use crate::verify::NameKey;
use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The loaded candidate, if any. Shared with all that report on it.
#[derive(Clone, Default)]
pub(crate) struct SharedCandidate(pub(crate) Arc<ArcSwapOption<LoadedCandidate>>);

impl SharedCandidate {
    /// Labels of the candidate for the metrics.
    pub(crate) fn info(&self) -> Option<CandidateInfo> {
        let loaded = self.0.load();
        let loaded = loaded.as_deref()?;
        Some(CandidateInfo { version: Arc::clone(&loaded.version), state: loaded.state() })
    }
}

/// A loaded candidate and its origin.
pub(crate) struct LoadedCandidate {
    pub(crate) candidate: Arc<Candidate>,
    pub(crate) files: FileSet,
    /// Files in force when it was loaded: a promotion replaces these and no others.
    pub(crate) replaces: Arc<[ReadFile]>,
    /// Names to resolve in advance while it is enforced.
    pub(crate) names: HashSet<NameKey>,
    pub(crate) version: Arc<str>,
    pub(crate) time: Timestamp,
    pub(crate) reported_rollback: AtomicBool,
    /// Its `[policy] on_reload`.
    pub(crate) revokes: bool,
}

impl LoadedCandidate {
    pub(crate) fn subject(&self) -> String {
        self.files.main.display().to_string()
    }

    /// True once after each rollback.
    pub(crate) fn has_just_rolled_back(&self) -> bool {
        self.candidate.rollback().is_some() && !self.reported_rollback.swap(true, Ordering::Relaxed)
    }
}

/// Reason why a promotion took no effect.
#[derive(Debug, Clone, Copy, thiserror::Error)]
pub(crate) enum PromotionError {
    /// It was dropped.
    #[error("{NO_CANDIDATE}")]
    NoneLoaded,
    /// Another candidate was loaded, or the files were changed.
    #[error(
        "what the files of the running configuration say is not the candidate that is loaded; `egret candidate status` names its \
         file, and `egret candidate load FILE` loads what is to be promoted"
    )]
    OtherVersion,
    /// It was rolled back, and the order does not force it.
    #[error(
        "the candidate fell back, when it alone denied {denied} of the {flows} flows of its clients; `egret candidate status` \
         says which, and `egret candidate promote --force` promotes it all the same"
    )]
    RolledBack {
        /// Flows that it alone denied.
        denied: u32,
        /// Flows of the clients that it was enforced for.
        flows: u32,
    },
}
