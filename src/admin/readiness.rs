//! Whether the gateway takes flows.

use arc_swap::ArcSwapOption;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// Where the gateway is in its life. Shared: a clone is the same value.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<State>);

#[derive(Debug, Default)]
struct State {
    stage: AtomicU8,
    stalled: ArcSwapOption<String>,
    unsteered: ArcSwapOption<String>,
}

/// A part of the gateway's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Not every worker listens yet.
    Starting,
    /// Every worker listens.
    Ready,
    /// No new flows are taken; those that live may finish.
    Draining,
}

impl Readiness {
    /// Starts as [`Stage::Starting`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves on to a stage; there is no way back, so that a late `Ready` does not undo a `Draining`.
    pub fn advance(&self, stage: Stage) {
        self.0.stage.fetch_max(stage as u8, Ordering::AcqRel);
    }

    /// The stage now.
    pub fn stage(&self) -> Stage {
        match self.0.stage.load(Ordering::Acquire) {
            0 => Stage::Starting,
            1 => Stage::Ready,
            _ => Stage::Draining,
        }
    }

    /// Says that a part of the gateway does not work any more, or that all of it does.
    pub fn stalled(&self, problem: Option<String>) {
        self.0.stalled.store(problem.map(Arc::new));
    }

    /// No traffic comes here, for this reason; `None`: it does.
    pub fn set_unsteered(&self, why: Option<String>) {
        self.0.unsteered.store(why.map(Arc::new));
    }

    /// Why no traffic comes here.
    pub fn unsteered(&self) -> Option<Arc<String>> {
        self.0.unsteered.load_full()
    }

    /// What does not work any more.
    pub fn problem(&self) -> Option<Arc<String>> {
        self.0.stalled.load_full()
    }
}

impl fmt::Display for Stage {
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
    fn a_stage_never_goes_back() {
        let readiness = Readiness::new();
        assert_eq!(readiness.stage(), Stage::Starting);
        for (to, then) in [
            (Stage::Ready, Stage::Ready),
            (Stage::Starting, Stage::Ready),
            (Stage::Draining, Stage::Draining),
            (Stage::Ready, Stage::Draining),
        ] {
            readiness.clone().advance(to);
            assert_eq!(readiness.stage(), then);
        }
    }
}
