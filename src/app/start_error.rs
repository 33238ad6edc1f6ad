//! Errors of starting the gateway.

use super::{limits, listeners};
use crate::control::BuildError;
use std::io;

/// Error of starting the gateway. Each message names the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener could not be opened.
    #[error(transparent)]
    Listen(#[from] listeners::ListenError),
    /// The descriptor limit is too low for any use.
    #[error(transparent)]
    Limits(#[from] limits::LimitError),
    /// The configuration could not be brought into force.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// A thread, a runtime or a signal handler could not be set up.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
    /// A thread panicked.
    #[error("a thread panicked; this is a bug, please report it")]
    Panic,
}
