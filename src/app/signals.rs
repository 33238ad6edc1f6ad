//! What operators ask of a running gateway by signals.

use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What an operator's signal asks for.
pub(super) enum Order {
    /// End the gateway, or its drain.
    Stop,
    /// Open the logs anew: they were rotated.
    Reopen,
    /// The same, and read the configuration anew.
    Reload,
}

/// SIGTERM and SIGINT stop; SIGHUP reloads; SIGUSR1 opens the logs anew, and nothing else.
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

    /// Waits for the next one. Dropping the future loses none.
    pub(super) async fn next(&mut self) -> Order {
        tokio::select! {
            _ = self.terminate.recv() => Order::Stop,
            _ = self.interrupt.recv() => Order::Stop,
            _ = self.hangup.recv() => Order::Reload,
            _ = self.user1.recv() => Order::Reopen,
        }
    }
}
