//! State of a flow.

use std::sync::atomic::{AtomicU8, Ordering};

/// State of a flow, in the order that a flow passes through them; it may skip some.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum FlowState {
    /// Accepted; its client's first bytes are awaited, and its checks are made.
    Inspecting,
    /// Permitted; a source port was asked for, and the server's answer is awaited.
    Dialling,
    /// Bytes pass both ways.
    Relaying,
    /// It is over but for what its client and server are still sent.
    Ending,
    /// Its record is finished; it leaves the table.
    Closed,
}

impl FlowState {
    const ALL: [Self; 5] = [Self::Inspecting, Self::Dialling, Self::Relaying, Self::Ending, Self::Closed];
}

/// A flow's state as its one writer sets it and anybody reads it.
#[derive(Debug)]
pub(super) struct StateCell(AtomicU8);

impl StateCell {
    pub(super) fn new(state: FlowState) -> Self {
        Self(AtomicU8::new(state as u8))
    }

    pub(super) fn get(&self) -> FlowState {
        let index = usize::from(self.0.load(Ordering::Relaxed));
        FlowState::ALL.get(index).copied().unwrap_or(FlowState::Closed)
    }

    pub(super) fn set(&self, state: FlowState) {
        self.0.store(state as u8, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_survives_its_cell() {
        for state in FlowState::ALL {
            assert_eq!(StateCell::new(state).get(), state);
        }
    }
}
