//! How long a port rests after its flow, before Linux lets the same 4-tuple connect again.

use std::time::Duration;

/// `TCP_TIMEWAIT_LEN`, 60 s, by a timer that is late by up to 512 ticks at that distance (kernel/time/timer.c): 2.05 s
/// with 250 ticks a second, where 60.0 to 62.0 s are measured; 5.12 s with 100; with 1000 up to 4096 ticks, 4.1 s.
const TIME_WAIT: Duration = Duration::from_secs(66);
/// A socket closed before the server's FIN: orphaned for `tcp_fin_timeout` (60 s by default), and if the FIN comes at
/// the end of that, in `TIME_WAIT` for 60 s more; both timers may be late. An unacknowledged FIN is given up within that time too.
const ORPHANED: Duration = Duration::from_secs(131);
/// The shortest time allowed for the last ACK of a close to come back: where the path takes no time, a busy machine does.
const LAST_ACK: Duration = Duration::from_millis(50);
/// No rest is longer, whatever the caller says.
const LONGEST: Duration = Duration::from_mins(10);

/// What becomes of a port when its lease ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// It can be leased again at once.
    Free,
    /// It is held for this long, at most ten minutes.
    For(Duration),
    /// It is held as long as a `TIME_WAIT` that will not be taken over: 66 s.
    TimeWait,
    /// How the connection ended is not known: it is held for 131 s, longer than Linux keeps any closed socket in
    /// `FIN_WAIT1`, `FIN_WAIT2` and `TIME_WAIT` with default sysctls.
    Unknown,
}

/// How the connection from the leased port ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamEnd {
    /// There was none: refused, unreachable, timed out, given up, or not even tried.
    NeverConnected,
    /// By RST, either way. Closing with `SO_LINGER` 0 or with unread data sends one.
    Reset,
    /// The server's FIN was read before ours was sent.
    ServerFirst,
    /// Our FIN was sent first and the server's came after it.
    GatewayFirst,
    /// Both FINs crossed: `tcpi_state` is CLOSING, or who was first is not known.
    Crossed,
    /// The socket was closed, without RST, before the server's FIN came.
    Abandoned,
}

impl Rest {
    /// What Linux asks for after such an end. `timestamps`: both ends used them (`tcpi_options & 1` of the connection).
    /// `round_trip`: the connection's smoothed round-trip time, at which the last ACK of a close is waited for.
    pub fn after(end: UpstreamEnd, timestamps: bool, round_trip: Duration) -> Self {
        let last_ack = Self::For(round_trip.saturating_mul(2).max(LAST_ACK));
        match (end, timestamps) {
            (UpstreamEnd::NeverConnected | UpstreamEnd::Reset, _) | (UpstreamEnd::GatewayFirst, true) => {
                Self::Free
            }
            // LAST_ACK, or CLOSING, until the server has acknowledged our FIN; then free, or a TIME_WAIT that a new
            // connection takes over
            (UpstreamEnd::ServerFirst, _) | (UpstreamEnd::Crossed | UpstreamEnd::Abandoned, true) => last_ack,
            (UpstreamEnd::GatewayFirst | UpstreamEnd::Crossed, false) => Self::TimeWait,
            (UpstreamEnd::Abandoned, false) => Self::Unknown,
        }
    }

    /// For how long the port is held.
    pub fn duration(self) -> Duration {
        match self {
            Self::Free => Duration::ZERO,
            Self::For(duration) => duration.min(LONGEST),
            Self::TimeWait => TIME_WAIT,
            Self::Unknown => ORPHANED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_rests_as_linux_asks() {
        use UpstreamEnd::{Abandoned, Crossed, GatewayFirst, NeverConnected, Reset, ServerFirst};
        let round_trip = Duration::from_millis(40);
        let acknowledged = Rest::For(Duration::from_millis(80));
        for (end, with_timestamps, without) in [
            (NeverConnected, Rest::Free, Rest::Free),
            (Reset, Rest::Free, Rest::Free),
            (ServerFirst, acknowledged, acknowledged),
            (GatewayFirst, Rest::Free, Rest::TimeWait),
            (Crossed, acknowledged, Rest::TimeWait),
            (Abandoned, acknowledged, Rest::Unknown),
        ] {
            assert_eq!(Rest::after(end, true, round_trip), with_timestamps, "{end:?}");
            assert_eq!(Rest::after(end, false, round_trip), without, "{end:?}");
        }
    }

    #[test]
    fn a_rest_is_never_too_short_for_an_ack_and_never_endless() {
        let rest = Rest::after(UpstreamEnd::ServerFirst, true, Duration::ZERO);
        assert_eq!(rest.duration(), LAST_ACK);
        assert_eq!(Rest::For(Duration::MAX).duration(), LONGEST);
    }
}
