//! Holding of a port after its flow has ended.

use std::time::Duration;

/// Longest time for which a port is held, whatever the caller asks for.
const LONGEST: Duration = Duration::from_secs(600);

/// Holding of a port after its lease has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortHold {
    /// The kernel has no state of the connection left: the port can be leased again at once.
    Free,
    /// Held for this long, at most ten minutes.
    For(Duration),
    /// The kernel may have state of the connection left: the port is held until that is gone.
    UntilGone {
        /// Time until the first query.
        first_look: Duration,
        /// Both ends used TCP timestamps (`tcpi_options & 1`): a new connection may then reuse a socket in `TIME_WAIT`.
        timestamps: bool,
    },
}

impl PortHold {
    /// For a connection whose end is unknown.
    pub const UNKNOWN: Self = Self::UntilGone { first_look: Duration::ZERO, timestamps: false };

    /// Minimum time for which the port is held.
    pub fn least(self) -> Duration {
        match self {
            Self::Free => Duration::ZERO,
            Self::For(time) | Self::UntilGone { first_look: time, .. } => time.min(LONGEST),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hold_ends() {
        let endless = PortHold::UntilGone { first_look: Duration::MAX, timestamps: true };
        for rest in [PortHold::For(Duration::MAX), endless] {
            assert_eq!(rest.least(), LONGEST);
        }
    }
}
