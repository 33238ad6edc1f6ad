//! Life-cycle stage and health of the gateway.

use arc_swap::ArcSwapOption;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Life-cycle stage and health of the gateway. Shared: a clone is the same value.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<ReadinessState>);

#[derive(Debug, Default)]
struct ReadinessState {
    stage: AtomicU8,
    stalled: ArcSwapOption<String>,
    unsteered: ArcSwapOption<String>,
}

/// A stage of the gateway's life cycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifecycle {
    /// Not every worker listens yet.
    Starting,
    /// Every worker listens.
    Ready,
    /// No new flows are accepted; live ones may finish.
    Draining,
}

impl Readiness {
    /// Starts as [`Lifecycle::Starting`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Advances to a stage; never goes back, so that a late `Ready` does not undo a `Draining`.
    pub fn advance(&self, stage: Lifecycle) {
        self.0.stage.fetch_max(stage as u8, Ordering::AcqRel);
    }

    /// Returns the current stage.
    pub fn stage(&self) -> Lifecycle {
        match self.0.stage.load(Ordering::Acquire) {
            0 => Lifecycle::Starting,
            1 => Lifecycle::Ready,
            _ => Lifecycle::Draining,
        }
    }

    /// Sets the problem of a part that does not work any more; `None`: all parts work.
    pub fn stalled(&self, problem: Option<String>) {
        self.0.stalled.store(problem.map(Arc::new));
    }

    /// Sets the reason why no traffic is steered to the gateway; `None`: traffic is steered.
    pub fn set_unsteered(&self, why: Option<String>) {
        self.0.unsteered.store(why.map(Arc::new));
    }

    /// Returns the reason why no traffic is steered to the gateway.
    pub fn unsteered(&self) -> Option<Arc<String>> {
        self.0.unsteered.load_full()
    }

    /// Returns the problem of a part that does not work any more.
    pub fn problem(&self) -> Option<Arc<String>> {
        self.0.stalled.load_full()
    }
}

impl fmt::Display for Lifecycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting: not every worker listens yet",
            Self::Ready => "ready",
            Self::Draining => "draining: no new flows are taken",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_stage_never_regresses() {
        let readiness = Readiness::new();
        assert_eq!(readiness.stage(), Lifecycle::Starting);
        for (to, then) in [
            (Lifecycle::Ready, Lifecycle::Ready),
            (Lifecycle::Starting, Lifecycle::Ready),
            (Lifecycle::Draining, Lifecycle::Draining),
            (Lifecycle::Ready, Lifecycle::Draining),
        ] {
            readiness.clone().advance(to);
            assert_eq!(readiness.stage(), then);
        }
    }
}
