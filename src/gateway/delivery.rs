//! The outcome of a relayed flow: `closed` if the answer was delivered before the end, whatever reset came after.
//!
//! For HTTP/1 whose messages are followed, the framing tells which requests have their answers. For everything else
//! only TCP tells: FINs, acknowledged bytes, and bytes that came later.

use super::flow_end::FlowEnd;
use super::leftover::FIN;
use crate::outcome::Outcome;
use crate::relay::{self, RelayProgress, Side, WorkerScratch};
use crate::sys::socket::Socket;
use crate::sys::stream::{self, Undelivered};
use std::time::Duration;

/// A reset by one side, with what is known of the flow.
#[derive(Debug, Clone, Copy)]
pub(super) struct SideReset {
    pub(super) side: Side,
    pub(super) progress: RelayProgress,
    /// True if every HTTP request has its whole answer; `None` if that is not known.
    pub(super) answered: Option<bool>,
}

/// Most bytes that a server may send to a client that has closed without changing the outcome: an HTTP/2 GOAWAY and
/// TLS's `close_notify`.
const LAST_WORDS: u32 = 64;

/// Full segments that a receiver may have received and not acknowledged (RFC 9293 §3.8.6.3).
const UNACKNOWLEDGED: u32 = 2;

/// Time for the server to finish after a client that sent FIN and then reset.
const AFTER_FIN: Duration = Duration::from_secs(1);

/// Time for the server to finish after a client that reset without a FIN: only a server that was about to finish does.
const WITHOUT_FIN: Duration = Duration::from_millis(50);

const CUT_SHORT: FlowEnd = FlowEnd {
    outcome: Outcome::UpstreamReset,
    detail: Some("the server finished before it had answered every request in full"),
};
const LEFT: FlowEnd = FlowEnd {
    outcome: Outcome::ClientReset,
    detail: Some("the client closed before it had its answer in full"),
};

/// The outcome after FINs of both sides, `first` being the side of the first one, with everything delivered.
pub(super) fn at_the_end(first: Side, answered: Option<bool>) -> FlowEnd {
    match (answered, first) {
        (Some(false), Side::Upstream) => CUT_SHORT,
        (Some(false), Side::Client) => LEFT,
        (Some(true) | None, _) => Outcome::Closed.into(),
    }
}

/// The outcome after FINs of both sides if not everything could be delivered, because of `why`; `Ok` if that is no
/// failure. A client that has closed its socket resets on late bytes, which is harmless if they were the server's last
/// words. So is a reset by the server, which has sent its whole answer.
pub(super) fn after_the_end(why: FlowEnd, client: &Socket, answered: Option<bool>) -> Result<(), FlowEnd> {
    let most = undelivered_limit(answered) + FIN;
    let has_all = || stream::outstanding(client).is_ok_and(|left| left <= most);
    if why.outcome == Outcome::UpstreamReset || why.outcome == Outcome::ClientReset && has_all() {
        return Ok(());
    }
    Err(if why.outcome == Outcome::ClientReset { LEFT } else { why })
}

/// The outcome after a reset by one side. Returns once the other side has received what was sent before it.
pub(super) async fn at_reset(
    reset: SideReset,
    client: &Socket,
    upstream: &Socket,
    scratch: &WorkerScratch,
) -> FlowEnd {
    let SideReset { side, progress, answered } = reset;
    let finished = progress.finished;
    if side == Side::Upstream {
        relay::settle(client).await;
    }
    let delivered = match (answered, finished) {
        (Some(false), Some(Side::Upstream)) => {
            relay::settle(if side == Side::Upstream { client } else { upstream }).await;
            return CUT_SHORT;
        }
        (Some(false), Some(Side::Client) | None) => false,
        (Some(true) | None, _) => match side {
            Side::Client => reset.client_had_its_answer(client, upstream, scratch).await,
            Side::Upstream => reset.server_had_answered(client),
        },
    };
    if side == Side::Client {
        relay::settle(upstream).await;
    }
    match (delivered, side) {
        (true, _) => Outcome::Closed.into(),
        (false, Side::Client) => Outcome::ClientReset.into(),
        (false, Side::Upstream) => Outcome::UpstreamReset.into(),
    }
}

impl SideReset {
    /// True if the client had its answer when it reset.
    async fn client_had_its_answer(
        &self,
        client: &Socket,
        upstream: &Socket,
        scratch: &WorkerScratch,
    ) -> bool {
        let Self { progress, answered, .. } = *self;
        let Ok(left) = stream::undelivered(client) else { return false };
        // What was read and could not be written is like what still waits to be read.
        let Some(more) = undelivered_limit(answered).checked_sub(progress.held) else { return false };
        let (has_all, patience) = match progress.finished {
            Some(Side::Upstream) => return is_delivered(left),
            // The client had closed: only what came before could reach it.
            Some(Side::Client) => (left.bytes <= more + FIN, AFTER_FIN),
            None => (is_delivered(left), WITHOUT_FIN),
        };
        if !has_all || progress.down == 0 {
            return false;
        }
        // Otherwise the answer was whole if the server finishes now.
        answered == Some(true)
            || progress.notified
            || relay::finishes(upstream, more as usize, patience, scratch).await
    }

    /// True if the server had delivered its answer when it reset.
    fn server_had_answered(&self, client: &Socket) -> bool {
        let Self { progress, answered, .. } = *self;
        let Ok(left) = stream::undelivered(client) else { return false };
        if progress.held > 0 {
            return false;
        }
        match (progress.finished, answered) {
            // A client that has closed takes nothing that came after.
            (Some(Side::Client), None) if progress.down_since > 0 => {
                left.bytes <= LAST_WORDS && (left.over || progress.notified)
            }
            (Some(Side::Client), None) => progress.down > 0 && is_delivered(left),
            (Some(Side::Upstream), _) | (Some(Side::Client) | None, Some(_)) => is_delivered(left),
            (None, None) => progress.notified && is_delivered(left),
        }
    }
}

/// Most bytes that may be undelivered to a client that has finished. HTTP/1 has no last words.
fn undelivered_limit(answered: Option<bool>) -> u32 {
    if answered.is_some() { 0 } else { LAST_WORDS }
}

/// True if the client has, or may have received without acknowledging, everything that was sent to it. The FIN counts
/// as a byte.
fn is_delivered(left: Undelivered) -> bool {
    left.bytes <= 1 || left.over && left.unsent == 0 && left.bytes <= UNACKNOWLEDGED * left.segment + 1
}
