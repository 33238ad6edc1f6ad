//! Signals from operators.

use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Action requested by a signal.
pub(super) enum SignalAction {
    /// Stop the gateway, or cut its drain short.
    Stop,
    /// Reopen the logs after rotation.
    Reopen,
    /// Reopen the logs and reload the configuration.
    Reload,
}

/// SIGTERM and SIGINT stop; SIGHUP reloads; SIGUSR1 only reopens the logs.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user1: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
        })
    }

    /// Waits for the next signal. Cancel-safe.
    pub(super) async fn next(&mut self) -> SignalAction {
        tokio::select! {
            _ = self.terminate.recv() => SignalAction::Stop,
            _ = self.interrupt.recv() => SignalAction::Stop,
            _ = self.hangup.recv() => SignalAction::Reload,
            _ = self.user1.recv() => SignalAction::Reopen,
        }
    }
}
