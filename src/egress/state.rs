//! Whether a source address gives out ports.

use serde::Serialize;

/// Whether a source address gives out ports. Flows that have one finish in any state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceState {
    /// It does.
    #[default]
    Available,
    /// An operator takes it out of use: no new leases.
    Draining,
    /// The host does not have it: no new leases.
    Withdrawn,
}

impl SourceState {
    /// The word in metrics and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Draining => "draining",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// Why an address may be out of use; each reason comes and goes without the others.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Standing {
    /// The configuration says `drain`.
    pub(super) drained_by_config: bool,
    drained: bool,
    withdrawn: bool,
}

impl Standing {
    pub(super) fn new(drained_by_config: bool) -> Self {
        Self { drained_by_config, ..Self::default() }
    }

    pub(super) fn state(self) -> SourceState {
        if self.withdrawn {
            SourceState::Withdrawn
        } else if self.drained || self.drained_by_config {
            SourceState::Draining
        } else {
            SourceState::Available
        }
    }

    /// As [`super::Pools::set_state`] says.
    pub(super) fn set(&mut self, state: SourceState) {
        match state {
            SourceState::Withdrawn => self.withdrawn = true,
            SourceState::Draining => self.drained = true,
            SourceState::Available if self.withdrawn => self.withdrawn = false,
            SourceState::Available => self.drained = false,
        }
    }
}
