//! The loaded candidate.

mod status;

use crate::admin::FileSet;
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
pub(super) struct SharedCandidate(pub(super) Arc<ArcSwapOption<LoadedCandidate>>);

impl SharedCandidate {
    /// Labels of the candidate for the metrics.
    pub(super) fn info(&self) -> Option<CandidateInfo> {
        let loaded = self.0.load();
        let loaded = loaded.as_deref()?;
        Some(CandidateInfo { version: Arc::clone(&loaded.version), state: loaded.state() })
    }
}

/// A loaded candidate and its origin.
pub(super) struct LoadedCandidate {
    pub(super) candidate: Arc<Candidate>,
    pub(super) files: FileSet,
    /// Names to resolve in advance while it is enforced.
    pub(super) names: HashSet<NameKey>,
    pub(super) version: Arc<str>,
    pub(super) time: Timestamp,
    pub(super) told_of_its_fall: AtomicBool,
    /// Its `[policy] on_reload`.
    pub(super) revokes: bool,
}

impl LoadedCandidate {
    pub(super) fn subject(&self) -> String {
        self.files.main.display().to_string()
    }

    pub(super) fn has_just_rolled_back(&self) -> bool {
        self.candidate.rollback().is_some() && !self.told_of_its_fall.swap(true, Ordering::Relaxed)
    }
}

/// Reason why a promotion took no effect.
#[derive(Debug, Clone, Copy, thiserror::Error)]
pub(super) enum PromotionError {
    /// It was dropped.
    #[error("no candidate is loaded")]
    NoneLoaded,
    /// Another candidate was loaded, or the files were changed.
    #[error("what the files of the running configuration say is not the candidate that is loaded")]
    Other,
}
