//! Ends of a relay.

use crate::sys::failure::Failure;
use std::fmt;
use std::io;

/// The end of a relay.
#[derive(Debug)]
pub enum RelayEnd {
    /// Both sides finished and every byte was delivered.
    Finished {
        /// Side of the FIN found first: if the server's, its 4-tuple never enters TIME_WAIT here.
        first: Side,
    },
    /// A socket failed; the other one is to be reset.
    Failed(Box<SocketFailure>),
    /// [`IdleTimeouts::idle`](super::IdleTimeouts::idle) passed.
    Idle,
    /// [`IdleTimeouts::half_open`](super::IdleTimeouts::half_open) passed.
    HalfOpen,
    /// The guard has stopped it.
    Stopped(PendingAnswer),
}

/// Displays as traces of flows have it.
impl fmt::Display for RelayEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finished { first } => write!(f, "both sides finished, the {} first", first.as_str()),
            Self::Failed(failed) => {
                write!(f, "the {}'s socket failed: {}", failed.side.as_str(), failed.error)
            }
            Self::Idle => f.write_str("idle for too long"),
            Self::HalfOpen => f.write_str("one side finished, the other one did not"),
            Self::Stopped(_) => f.write_str("refused"),
        }
    }
}

impl RelayEnd {
    /// Side and cause of the failure, if a socket failed.
    pub fn failure(&self) -> Option<(Side, Failure)> {
        match self {
            Self::Failed(failed) => Some((failed.side, Failure::of_connected(&failed.error))),
            Self::Finished { .. } | Self::Idle | Self::HalfOpen | Self::Stopped(_) => None,
        }
    }
}

/// One of the two ends of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The end that opened the flow.
    Client,
    /// The end that was dialled.
    Upstream,
}

impl Side {
    fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "server",
        }
    }
}

/// A failed socket, and the state of its flow at that moment.
#[derive(Debug)]
pub struct SocketFailure {
    /// The side of the socket.
    pub side: Side,
    /// The error that the kernel reported.
    pub error: io::Error,
    /// Progress of the flow.
    pub progress: RelayProgress,
}

/// Progress of a flow when a socket failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayProgress {
    /// Side that had finished, with every byte of its delivered; never both.
    pub finished: Option<Side>,
    /// Bytes from the server that the client's socket took.
    pub down: u64,
    /// Those of `down` that it took after the client's FIN.
    pub down_since: u64,
    /// Bytes from the server that were read and that the client's socket has not taken.
    pub held: u32,
    /// The server's last bytes were TLS's `close_notify`, as far as its length tells.
    pub notified: bool,
}

/// State of a client whose flow the guard has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PendingAnswer {
    /// It can receive an answer.
    Answer,
    /// It has all of the server's bytes, and its FIN.
    Finished,
    /// It is in the middle of a message, so only a reset is left.
    Reset,
}
