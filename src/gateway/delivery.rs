//! Whether the answer was delivered when a flow ended: if it was, the flow is `closed`, whatever reset came after.
//!
//! Of HTTP/1 that is followed it is known which requests have their answers. Of everything else only what TCP tells: whose
//! FIN had come, what is acknowledged, and how much came after.

use crate::outcome::Outcome;
use crate::relay::{self, Progress, Scratch, Side};
use crate::sys::socket::Socket;
use crate::sys::stream::{self, Undelivered};
use std::time::Duration;

/// A relayed flow's outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Delivery {
    pub(super) outcome: Outcome,
    pub(super) detail: Option<&'static str>,
}

/// One end has reset.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reset {
    pub(super) side: Side,
    pub(super) progress: Progress,
    /// Whether every HTTP request has its whole answer; `None` where nobody can tell.
    pub(super) answered: Option<bool>,
}

/// What a server may still say to a client that has closed: TLS's `close_notify`, and HTTP/2's GOAWAY before it.
const LAST_WORDS: u32 = 64;

/// Full segments that a receiver may have without having acknowledged them (RFC 9293 §3.8.6.3), when it resets.
const UNACKNOWLEDGED: u32 = 2;

/// How long a server has to finish whose client has finished and then reset.
const AFTER_FIN: Duration = Duration::from_secs(1);

/// How long a server has whose client has reset without a FIN: it was about to finish, or is not.
const WITHOUT_FIN: Duration = Duration::from_millis(50);

const CUT_SHORT: Delivery = Delivery {
    outcome: Outcome::UpstreamReset,
    detail: Some("the server finished before it had answered every request in full"),
};
const LEFT: Delivery = Delivery {
    outcome: Outcome::ClientReset,
    detail: Some("the client closed before it had its answer in full"),
};

impl From<Outcome> for Delivery {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, detail: None }
    }
}

/// The outcome after the FINs of both sides, `first`'s before the other's, with everything delivered.
pub(super) fn at_the_end(first: Side, answered: Option<bool>) -> Delivery {
    match (answered, first) {
        (Some(false), Side::Upstream) => CUT_SHORT,
        (Some(false), Side::Client) => LEFT,
        (Some(true) | None, _) => Outcome::Closed.into(),
    }
}

/// The same where not everything could be delivered, and `why`. A client that has closed, and not just finished sending,
/// answers what still comes by a reset: nothing is wrong if that was a server's last words. Nor if the server did so: it has had its
/// say.
pub(super) fn after_the_end(why: Delivery, client: &Socket, answered: Option<bool>) -> Result<(), Delivery> {
    let has_all = || stream::outstanding(client).is_ok_and(|left| left <= last_words(answered));
    if why.outcome == Outcome::UpstreamReset || why.outcome == Outcome::ClientReset && has_all() {
        return Ok(());
    }
    Err(if why.outcome == Outcome::ClientReset { LEFT } else { why })
}

/// The outcome of a flow of which one end has reset. Returns when the other has taken what was sent before.
pub(super) async fn at_reset(
    reset: Reset,
    client: &Socket,
    upstream: &Socket,
    scratch: &Scratch,
) -> Delivery {
    let Reset { side, progress, answered } = reset;
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
            Side::Client => reset.by_client_is_late(client, upstream, scratch).await,
            Side::Upstream => reset.by_server_is_late(client),
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

impl Reset {
    /// Whether a client had its answer when it reset.
    async fn by_client_is_late(&self, client: &Socket, upstream: &Socket, scratch: &Scratch) -> bool {
        let Self { progress, answered, .. } = *self;
        let Ok(left) = stream::undelivered(client) else { return false };
        if progress.holds {
            return false;
        }
        let (has_all, patience) = match progress.finished {
            Some(Side::Upstream) => return is_delivered(left),
            // It had closed: all that could reach it is what came before.
            Some(Side::Client) => (left.bytes <= last_words(answered), AFTER_FIN),
            None => (is_delivered(left), WITHOUT_FIN),
        };
        if !has_all || progress.down == 0 {
            return false;
        }
        // With nothing more to say, the server finishes, too.
        answered == Some(true)
            || progress.notified
            || relay::finishes(upstream, LAST_WORDS as usize, patience, scratch).await
    }

    /// Whether a server had delivered its answer when it reset.
    fn by_server_is_late(&self, client: &Socket) -> bool {
        let Self { progress, answered, .. } = *self;
        let Ok(left) = stream::undelivered(client) else { return false };
        match (progress.finished, answered) {
            // A client that has closed takes nothing more.
            (Some(Side::Client), None) if progress.down_since > 0 => {
                left.bytes <= LAST_WORDS && (left.over || progress.notified)
            }
            (Some(Side::Client), None) => progress.down > 0 && is_delivered(left),
            (Some(Side::Upstream), _) | (Some(Side::Client) | None, Some(_)) => is_delivered(left),
            (None, None) => progress.notified && is_delivered(left),
        }
    }
}

/// Bytes that may remain undelivered to a client that has finished, with one for a FIN: in HTTP/1 there are no last words.
fn last_words(answered: Option<bool>) -> u32 {
    if answered.is_some() { 1 } else { LAST_WORDS + 1 }
}

/// Whether the client has, or may have and not acknowledged when it reset, all that was sent to it. The FIN counts for one.
fn is_delivered(left: Undelivered) -> bool {
    left.bytes <= 1 || left.over && left.unsent == 0 && left.bytes <= UNACKNOWLEDGED * left.segment + 1
}
