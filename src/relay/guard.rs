//! Inspects a client's bytes before they pass, for as long as a guard needs to.

use super::Side;
use crate::sys::event_loop::{Sleep, sleep};
use crate::sys::socket::Socket;
use crate::sys::stream;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// Decides which bytes of a flow may pass. Sees the bytes of both sides in order, except those that it lets pass
/// unseen.
pub trait Guard {
    /// A place for bytes that are held back, until dropped.
    type Place;
    /// Takes a place for bytes that cannot be judged yet; `None` if there is none.
    fn place(&self) -> Option<Self::Place>;
    /// Number of a side's next bytes that may pass unseen.
    fn free(&self, side: Side) -> u64;
    /// Notes that so many of a side's bytes pass unseen, at most [`Self::free`].
    fn passes(&mut self, side: Side, bytes: usize);
    /// Judges the client's next bytes, and may overwrite those that pass. Those that do not pass are shown again,
    /// together with those that follow.
    fn judge(&mut self, bytes: &mut [u8]) -> GuardVerdict;
    /// Observes the server's next bytes, which always pass.
    fn observe_server(&mut self, bytes: &[u8]);
    /// The server has finished: it says nothing more. By then its host had taken so many of the client's bytes.
    fn server_finished(&mut self, taken: u64);
    /// Bytes that could not be judged without more: no more came. What becomes of them.
    fn cut_off(&mut self, how: TruncationReason) -> NextStep;
    /// True if a flow that is stopped can be answered at this point. Pending while the server has more to send first.
    fn pending_answer(&self) -> Poll<bool>;
    /// True if every request that passed has its whole answer, up to now or to the server's end; `None` if unknown.
    fn is_answered(&self) -> Option<bool>;
    /// True if nothing needs to be inspected any more.
    fn is_over(&self) -> bool;
}

/// The part of the client's bytes that may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuardVerdict {
    /// Number of bytes.
    pub bytes: usize,
    /// Next step after them.
    pub next: NextStep,
}

/// Next step after the bytes that may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextStep {
    /// The remaining bytes can be judged once there are more.
    Read,
    /// The remaining bytes can be judged once the server has sent more.
    Wait,
    /// The flow ends.
    Stop,
}

/// Reason why no more bytes come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TruncationReason {
    /// It took too long.
    Late,
    /// The client has finished.
    Finished,
    /// There is no place to hold the bytes.
    Crowded,
}

/// A guard, and the bytes that it has held back.
pub struct Guarded<G: Guard> {
    guard: G,
    /// Bytes read and not judged: empty unless a head or a hello comes in pieces or has to wait.
    kept: Vec<u8>,
    /// There while `kept` is not empty.
    place: Option<G::Place>,
    next: NextStep,
    patience: Duration,
    /// Deadline for `kept`.
    late: Option<Sleep>,
}

/// Bytes of a read that may pass.
pub(super) enum ForwardableBytes {
    /// This number of bytes, unchanged from the read.
    Read(usize),
    /// These bytes, which begin with ones read before.
    Kept(Box<[u8]>),
}

impl<G: Guard> Guarded<G> {
    /// Bytes that cannot be judged without more have `patience` to be completed, or for the server to say what they wait
    /// for.
    pub fn new(guard: G, patience: Duration) -> Self {
        Self { guard, kept: Vec::new(), place: None, next: NextStep::Read, patience, late: None }
    }

    /// The guard itself.
    pub(super) fn guard(&mut self) -> &mut G {
        &mut self.guard
    }

    /// Number of a side's next bytes that may be moved unseen.
    pub(super) fn free(&self, side: Side) -> u64 {
        if side == Side::Client && !self.kept.is_empty() { 0 } else { self.guard.free(side) }
    }

    /// Notes that so many were moved unseen, at most [`Self::free`].
    pub(super) fn passes(&mut self, side: Side, bytes: usize) {
        self.guard.passes(side, bytes);
    }

    /// True if nothing may be read from the client now.
    pub(super) fn is_closed(&self) -> bool {
        self.next != NextStep::Read
    }

    /// True if the server has to send something before more of the client's bytes may pass.
    pub(super) fn waits(&self) -> bool {
        self.next == NextStep::Wait
    }

    /// True if no more of the client's bytes may pass.
    pub(super) fn is_stopped(&self) -> bool {
        self.next == NextStep::Stop
    }

    /// True if the guard can be removed.
    pub(super) fn is_over(&self) -> bool {
        self.kept.is_empty() && !self.is_stopped() && self.guard.is_over()
    }

    /// See [`Guard::is_answered`].
    pub fn is_answered(&self) -> Option<bool> {
        self.guard.is_answered()
    }

    /// See [`Guard::pending_answer`].
    pub(super) fn pending_answer(&self) -> Poll<bool> {
        self.guard.pending_answer()
    }

    /// Returns the part of the bytes just read from a side that may pass.
    pub(super) fn look(&mut self, side: Side, read: &mut [u8]) -> ForwardableBytes {
        if !read.is_empty() && self.free(side) >= read.len() as u64 {
            self.guard.passes(side, read.len());
            return ForwardableBytes::Read(read.len());
        }
        if side == Side::Upstream {
            self.guard.observe_server(read);
            return ForwardableBytes::Read(read.len());
        }
        let fresh = self.kept.is_empty();
        let passage = if fresh {
            self.guard.judge(read)
        } else {
            self.kept.extend_from_slice(read);
            self.guard.judge(&mut self.kept)
        };
        self.next = passage.next;
        let passing = if fresh && self.is_stopped() {
            ForwardableBytes::Read(passage.bytes)
        } else if fresh {
            self.kept = read[passage.bytes..].to_vec();
            ForwardableBytes::Read(passage.bytes)
        } else {
            let rest = self.kept.split_off(passage.bytes);
            // Bytes that never pass take no memory while the client is answered.
            let rest = if self.is_stopped() { Vec::new() } else { rest };
            ForwardableBytes::Kept(std::mem::replace(&mut self.kept, rest).into())
        };
        if passage.bytes > 0 || self.kept.is_empty() || self.is_stopped() {
            self.late = None;
        }
        if self.kept.is_empty() || self.is_stopped() {
            self.place = None;
        } else if self.place.is_none() {
            self.place = self.guard.place();
            if self.place.is_none() && self.cut_off(TruncationReason::Crowded).is_some() {
                return ForwardableBytes::Read(read.len());
            }
        }
        passing
    }

    /// Returns held bytes that may pass now, as time has passed or the server has sent more.
    pub(super) fn poll_kept(&mut self, cx: &mut Context<'_>) -> Option<Box<[u8]>> {
        if self.kept.is_empty() || self.is_stopped() {
            return None;
        }
        if self.waits() || self.guard.is_over() {
            if let ForwardableBytes::Kept(bytes) = self.look(Side::Client, &mut [])
                && !bytes.is_empty()
            {
                return Some(bytes);
            }
            if self.kept.is_empty() || self.is_stopped() {
                return None;
            }
        }
        let late = self.late.get_or_insert_with(|| sleep(self.patience));
        if Pin::new(late).poll(cx).is_ready() { self.cut_off(TruncationReason::Late) } else { None }
    }

    /// The server has finished. What waits for it is judged when it is asked about next.
    pub(super) fn server_finished(&mut self, server: &Socket) {
        // Asked only where it matters.
        let taken = match self.guard.is_answered() {
            Some(false) => stream::acknowledged(server).unwrap_or(u64::MAX),
            Some(true) | None => u64::MAX,
        };
        self.guard.server_finished(taken);
    }

    /// Ends the client's side. Returns the bytes to deliver before its FIN; `None` if the flow ends instead.
    pub(super) fn finish(&mut self) -> Option<Box<[u8]>> {
        if self.kept.is_empty() { Some(Box::default()) } else { self.cut_off(TruncationReason::Finished) }
    }

    fn cut_off(&mut self, how: TruncationReason) -> Option<Box<[u8]>> {
        self.late = None;
        self.next = self.guard.cut_off(how);
        let kept = std::mem::take(&mut self.kept);
        self.place = None;
        (self.next == NextStep::Read).then(|| kept.into())
    }
}
