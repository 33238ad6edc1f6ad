//! What becomes of a port when its flow has ended.

use std::time::Duration;

/// No rest is longer, whatever the caller says.
const LONGEST: Duration = Duration::from_mins(10);

/// What becomes of a port when its lease ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// The kernel has nothing left of the connection: the port can be leased again at once.
    Free,
    /// It is held for this long, at most ten minutes.
    For(Duration),
    /// The kernel may have something left of the connection: the port is held until it says that it has not.
    UntilGone {
        /// When to ask it first.
        first_look: Duration,
        /// Both ends used TCP timestamps (`tcpi_options & 1`): then a new connection takes a `TIME_WAIT` over.
        timestamps: bool,
    },
}

impl Rest {
    /// Nothing is known of how the connection ended.
    pub const UNKNOWN: Self = Self::UntilGone { first_look: Duration::ZERO, timestamps: false };

    /// The least time for which the port is held.
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
    fn no_rest_is_endless() {
        let endless = Rest::UntilGone { first_look: Duration::MAX, timestamps: true };
        for rest in [Rest::For(Duration::MAX), endless] {
            assert_eq!(rest.least(), LONGEST);
        }
    }
}
