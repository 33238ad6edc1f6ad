//! Problems that last, which readiness mentions.

use arc_swap::ArcSwapOption;
use std::sync::Arc;

/// The reason why a log or a listener does not work; none while it does. A clone is the same value.
#[derive(Debug, Clone, Default)]
pub struct StandingProblem(Arc<ArcSwapOption<String>>);

impl StandingProblem {
    /// Replaces the reason.
    pub fn set(&self, reason: Option<String>) {
        if reason.is_some() || self.0.load().is_some() {
            self.0.store(reason.map(Arc::new));
        }
    }

    /// The reason at present.
    pub fn reason(&self) -> Option<String> {
        self.0.load().as_deref().cloned()
    }
}
