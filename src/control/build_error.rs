//! Errors of bringing a configuration into force.

use std::io;

/// Error of building what runs from a checked configuration. Each message names the remedy.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A thread or a socket could not be set up.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
    /// The policy could not be built, which a checked configuration rules out.
    #[error("cannot start: {0}; this is a bug, please report it")]
    Bug(String),
}
