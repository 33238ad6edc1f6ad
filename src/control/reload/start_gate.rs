//! Holds the reload thread back until the gateway has started.

use std::sync::mpsc::{self, Receiver, SyncSender};

/// Lets the thread begin. If it is dropped, since the start has failed, the thread ends: what is kept as a fallback must stay
/// as it is.
pub(crate) struct StartGate(SyncSender<()>);

impl StartGate {
    pub(super) fn new() -> (Self, StartWaiter) {
        let (gate, waiter) = mpsc::sync_channel(1);
        (Self(gate), StartWaiter(waiter))
    }

    /// To be called once the gateway has started.
    pub(crate) fn open(self) {
        // The thread waits for it.
        let _ = self.0.send(());
    }
}

/// The thread's side of [`StartGate`].
pub(super) struct StartWaiter(Receiver<()>);

impl StartWaiter {
    /// Runs `work` once the gateway has started, and not at all if it does not.
    pub(super) fn then(self, work: impl FnOnce()) {
        if self.0.recv().is_ok() {
            work();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_start_keeps_no_configuration() {
        let (gate, waiter) = StartGate::new();
        drop(gate);
        waiter.then(|| panic!("the start has failed"));
        let (gate, waiter) = StartGate::new();
        gate.open();
        let mut kept = false;
        waiter.then(|| kept = true);
        assert!(kept);
    }
}
