//! Availability of a source address.

use serde::Serialize;

/// Availability of a source address. Flows that have a port finish in any state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceState {
    /// Gives out ports.
    #[default]
    Available,
    /// Taken out of use by an operator: no new leases.
    Draining,
    /// Not an address of the host: no new leases.
    Withdrawn,
}

impl SourceState {
    /// Text in metrics and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Draining => "draining",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// Reasons why an address may be out of use; each is set and cleared independently.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct OutOfUseReasons {
    /// Drained by the configuration.
    pub(super) drained_by_config: bool,
    drained: bool,
    withdrawn: bool,
}

impl OutOfUseReasons {
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

    /// See [`super::Pools::set_state`].
    pub(super) fn set(&mut self, state: SourceState) {
        match state {
            SourceState::Withdrawn => self.withdrawn = true,
            SourceState::Draining => self.drained = true,
            SourceState::Available if self.withdrawn => self.withdrawn = false,
            SourceState::Available => self.drained = false,
        }
    }
}
