//! Relays bytes both ways between two sockets, until both sides have finished or something ends the flow.
//!
//! FIN is passed on as FIN after all bytes, RST as RST. Small reads go through the worker's buffer; when a read fills
//! it, the direction switches to `splice(2)`. A flow holds a pipe only while bytes are in it, and an idle flow holds
//! nothing but its two sockets.

mod close_notify;
mod direction;
mod end;
mod guard;
mod idle_timer;
mod pipes;
mod refuse;
mod scratch;

use crate::sys::event_loop::{Sleep, sleep};
use crate::sys::socket::Socket;
use crate::sys::stream;
use direction::{RelayDirection, SocketPair};
pub use end::{PendingAnswer, RelayEnd, RelayProgress, Side, SocketFailure};
pub use guard::{Guard, GuardVerdict, Guarded, NextStep, TruncationReason};
pub use idle_timer::IdleTimeouts;
use idle_timer::IdleTimer;
pub use refuse::{finishes, refuse};
pub use scratch::WorkerScratch;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// Counts bytes as they are delivered.
pub trait ByteMeter<G> {
    /// `bytes` from the client were taken by the server's socket.
    fn up(&mut self, bytes: usize);
    /// `bytes` from the server were taken by the client's socket.
    fn down(&mut self, bytes: usize);
    /// Called after the guard may have found something, which has to be taken now: there may be no later call.
    fn on_inspected(&mut self, guard: &mut G);
}

/// Relays until the flow's end. Dropping the future leaves both sockets as they are. The guard is removed once it is
/// over; otherwise it is still there at the end.
pub fn relay<'a, G: Guard>(
    client: &'a Socket,
    upstream: &'a Socket,
    scratch: &'a WorkerScratch,
    silence: &'a IdleTimeouts,
    meter: &'a mut impl ByteMeter<G>,
    guard: &'a mut Option<Box<Guarded<G>>>,
) -> impl Future<Output = RelayEnd> + 'a {
    let mut flow = RelayedFlow {
        client,
        upstream,
        up: RelayDirection::new(Side::Client),
        down: RelayDirection::new(Side::Upstream),
        watch: IdleTimer::new(silence),
        first: None,
        down_before: 0,
        broken: None,
    };
    // No `async fn`: that would hold each argument twice, for as long as the flow lives.
    poll_fn(move |cx| flow.poll(cx, scratch, meter, guard))
}

/// Time for bytes that were sent before a reset to reach the other end, before it is reset too.
const SETTLE: Duration = Duration::from_secs(10);

/// Waits until the peer has acknowledged all that was written to the socket, for [`SETTLE`] at most: the reset that
/// the caller is about to send would discard the rest.
pub async fn settle(socket: &Socket) {
    let mut pause = Duration::from_millis(1);
    let mut waited = Duration::ZERO;
    // There is no event for "everything acknowledged", so this polls with a growing pause.
    while waited < SETTLE && stream::unacknowledged(socket).is_ok_and(|bytes| bytes > 0) {
        sleep(pause).await;
        waited += pause;
        pause = (pause * 2).min(Duration::from_millis(250));
    }
}

struct RelayedFlow<'a> {
    client: &'a Socket,
    upstream: &'a Socket,
    up: RelayDirection,
    down: RelayDirection,
    watch: IdleTimer<'a>,
    first: Option<Side>,
    /// Bytes delivered to the client before its FIN was found.
    down_before: u64,
    broken: Option<Box<FailedSocket>>,
}

/// A socket that has failed. Bytes that it sent before are still to be delivered.
struct FailedSocket {
    side: Side,
    error: io::Error,
    /// Deadline for the other end to take them.
    until: Sleep,
}

impl FailedSocket {
    fn new(side: Side, error: io::Error) -> Self {
        Self { side, error, until: sleep(SETTLE) }
    }
}

impl<'a> RelayedFlow<'a> {
    fn ways(&self) -> (SocketPair<'a>, SocketPair<'a>) {
        let (client, upstream) = (self.client, self.upstream);
        (SocketPair { from: client, to: upstream }, SocketPair { from: upstream, to: client })
    }

    fn poll<G: Guard>(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &WorkerScratch,
        meter: &mut impl ByteMeter<G>,
        guard: &mut Option<Box<Guarded<G>>>,
    ) -> Poll<RelayEnd> {
        if let Some(broken) = self.broken.take() {
            return self.poll_after_failure(broken, cx, scratch, meter, guard);
        }
        let end = self.poll_both(cx, scratch, meter, guard);
        if end.is_pending()
            && self.broken.is_none()
            && let closed = guard.as_ref().is_some_and(|guarded| guarded.is_closed())
            && let Poll::Ready((side, error)) = self.poll_failure(cx, closed)
        {
            return self.poll_after_failure(
                Box::new(FailedSocket::new(side, error)),
                cx,
                scratch,
                meter,
                guard,
            );
        }
        end
    }

    fn poll_both<G: Guard>(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &WorkerScratch,
        meter: &mut impl ByteMeter<G>,
        guard: &mut Option<Box<Guarded<G>>>,
    ) -> Poll<RelayEnd> {
        let (up, down) = self.ways();
        // The server's first: what it has said may be what the client's bytes wait for, and its end, if that has come, came
        // before any request that has not passed. But nothing is read for a client that has reset.
        let reset = self.client.has_failed();
        let mut moved = Poll::Pending;
        if !reset {
            moved = self.down.poll(down, cx, scratch, guard.as_deref_mut(), |n| meter.down(n));
        }
        if !matches!(moved, Poll::Ready(Err(_))) {
            moved = self.up.poll(up, cx, scratch, guard.as_deref_mut(), |n| meter.up(n));
        }
        if reset && !matches!(moved, Poll::Ready(Err(_))) {
            moved = self.down.poll(down, cx, scratch, guard.as_deref_mut(), |n| meter.down(n));
        }
        if let Some(guarded) = guard {
            meter.on_inspected(guarded.guard());
        }
        if let Poll::Ready(Err((side, error))) = moved {
            return self.poll_after_failure(
                Box::new(FailedSocket::new(side, error)),
                cx,
                scratch,
                meter,
                guard,
            );
        }
        self.pass_on_ends();
        let mut waits = false;
        if let Some(guarded) = guard {
            if guarded.is_stopped() {
                return self.poll_pending_answer(cx, guarded).map(RelayEnd::Stopped);
            }
            waits = guarded.waits();
            if guarded.is_over() {
                *guard = None;
            }
        }
        match self.first {
            Some(first) if self.up.is_done() && self.down.is_done() => {
                Poll::Ready(RelayEnd::Finished { first })
            }
            half_open => {
                let moved = self.up.moved().wrapping_add(self.down.moved());
                // A client that waits for the server is not read from, so its end would not be found.
                self.watch.poll(cx, moved, half_open.is_some() || waits)
            }
        }
    }

    /// Sends the FINs that are due. If a peer has reset in between, its own direction finds that.
    ///
    /// Upstream a FIN is sent even if it is the last step here, because the socket's state after it tells whether its
    /// port is held; to a client that has finished too, closing the socket sends it.
    fn pass_on_ends(&mut self) {
        match (self.first, self.up.is_done(), self.down.is_done()) {
            // If both ends are found in one poll, the client's counts as the first: by then ours has followed it
            // upstream, perhaps before the server's arrived.
            (None, true, _) => {
                self.first = Some(Side::Client);
                self.down_before = self.down.moved();
                self.upstream.finish();
            }
            (None, false, true) => {
                self.first = Some(Side::Upstream);
                self.client.finish();
            }
            (Some(Side::Upstream), true, _) => {
                self.upstream.finish();
            }
            (None, false, false) | (Some(_), _, _) => {}
        }
    }

    /// Ready when a socket has failed that is not being read, because its bytes wait for the other end, or it has
    /// finished, or the guard has closed: no read would find the failure.
    fn poll_failure(&self, cx: &Context<'_>, closed: bool) -> Poll<(Side, io::Error)> {
        if self.up.is_reading() && self.down.is_reading() && !closed {
            return Poll::Pending;
        }
        let (side, socket) = match (self.client.poll_failed(cx), self.upstream.poll_failed(cx)) {
            (Poll::Ready(()), _) => (Side::Client, self.client),
            (Poll::Pending, Poll::Ready(())) => (Side::Upstream, self.upstream),
            (Poll::Pending, Poll::Pending) => return Poll::Pending,
        };
        let error = match socket.take_error() {
            Ok(Some(error)) | Err(error) => error,
            // The error was taken by a call in between; the event is proof that there was one.
            Ok(None) => io::ErrorKind::ConnectionReset.into(),
        };
        Poll::Ready((side, error))
    }

    /// Waits for the rest of the server's bytes to a client whose next bytes the guard refused.
    fn poll_pending_answer<G: Guard>(
        &mut self,
        cx: &mut Context<'_>,
        guard: &Guarded<G>,
    ) -> Poll<PendingAnswer> {
        if self.down.is_done() {
            return Poll::Ready(PendingAnswer::Finished);
        }
        match guard.pending_answer() {
            Poll::Ready(false) => Poll::Ready(PendingAnswer::Reset),
            Poll::Ready(true) if self.down.holds_nothing() => Poll::Ready(PendingAnswer::Answer),
            Poll::Ready(true) | Poll::Pending => {
                let moved = self.up.moved().wrapping_add(self.down.moved());
                self.watch.poll(cx, moved, true).map(|_| PendingAnswer::Reset)
            }
        }
    }

    /// Continues in the one direction that the failure leaves open: a server that refuses an upload answers, and resets
    /// because it will not read the rest. A client that is still writing must not lose the answer.
    fn poll_after_failure<G: Guard>(
        &mut self,
        mut broken: Box<FailedSocket>,
        cx: &mut Context<'_>,
        scratch: &WorkerScratch,
        meter: &mut impl ByteMeter<G>,
        guard: &mut Option<Box<Guarded<G>>>,
    ) -> Poll<RelayEnd> {
        let guarded = guard.as_deref_mut();
        let (up, down) = self.ways();
        match broken.side {
            Side::Client => self.up.breaks(),
            Side::Upstream => self.down.breaks(),
        }
        let rest = match broken.side {
            Side::Client => self.up.poll(up, cx, scratch, guarded, |n| meter.up(n)),
            Side::Upstream => self.down.poll(down, cx, scratch, guarded, |n| meter.down(n)),
        };
        // Once the guard has closed, no more of a failed client's bytes pass.
        let mut closed = false;
        if let Some(guarded) = guard {
            meter.on_inspected(guarded.guard());
            closed = broken.side == Side::Client && guarded.is_closed() && self.up.holds_nothing();
        }
        if rest.is_pending() && !closed && Pin::new(&mut broken.until).poll(cx).is_pending() {
            self.broken = Some(broken);
            return Poll::Pending;
        }
        self.pass_on_ends();
        if let Some(first) = self.first
            && self.up.is_done()
            && self.down.is_done()
        {
            return Poll::Ready(RelayEnd::Finished { first });
        }
        let FailedSocket { side, error, until: _ } = *broken;
        Poll::Ready(RelayEnd::Failed(Box::new(SocketFailure { side, error, progress: self.progress() })))
    }

    fn progress(&self) -> RelayProgress {
        let down = self.down.moved();
        RelayProgress {
            finished: self.first,
            down,
            down_since: if self.first == Some(Side::Client) { down - self.down_before } else { 0 },
            held: u32::try_from(self.down.held()).unwrap_or(u32::MAX),
            notified: self.down.is_notified(),
        }
    }
}

#[cfg(test)]
mod tests;
