//! One direction of a flow.

use super::guard::{ForwardableBytes, Guard, Guarded};
use super::pipes::FilledPipe;
use super::scratch::{COPY, WorkerScratch};
use super::{Side, close_notify};
use crate::sys::event_loop::{defer_bulk, is_bulk_turn};
use crate::sys::socket::Socket;
use crate::sys::stream;
use std::io;
use std::task::{Context, Poll, ready};

/// Most bytes that a direction moves in one poll, and at most a pipe more, before others get their turn. Large enough
/// that bulk pays little for yielding; short messages wait for one such turn at most, half a millisecond or so.
const TURN: usize = 512 * 1024;

/// Bytes requested by one splice; a pipe holds no more.
const SPLICE: usize = 512 * 1024;

/// Bytes that any path takes in one segment: the least MTU of IPv6, less headers and options.
const ONE_SEGMENT: usize = 1280 - 40 - 60;

/// The two sockets of a direction.
#[derive(Clone, Copy)]
pub(super) struct SocketPair<'a> {
    pub(super) from: &'a Socket,
    pub(super) to: &'a Socket,
}

/// One direction: bytes in order, none lost. `held` is delivered before more is read.
#[expect(clippy::struct_excessive_bools, reason = "independent facts of a direction, in a byte each")]
pub(super) struct RelayDirection {
    /// Side that the bytes come from.
    side: Side,
    held: HeldBytes,
    state: ReadState,
    /// True if reads splice instead of copying.
    splicing: bool,
    /// True if the other side's socket sends at once what it is given (`TCP_NODELAY`).
    prompt: bool,
    /// True if the last bytes read were a TLS peer's `close_notify`.
    notified: bool,
    /// True if the side's socket has failed.
    broken: bool,
    moved: u64,
}

/// Bytes taken from one side and not yet taken by the other.
enum HeldBytes {
    Nothing,
    /// `0 < rest.len()`
    Bytes(Box<[u8]>),
    Pipe(FilledPipe),
}

#[derive(PartialEq, Eq)]
enum ReadState {
    Open,
    /// The side has finished; `held` is still to be delivered.
    Ending,
    Done,
}

/// Side of the failed socket, and its error.
type FailedSide = (Side, io::Error);

/// Ready while the turn is not used up; otherwise yields to other tasks until the next.
fn poll_turn(left: usize) -> Poll<()> {
    if left > 0 {
        return Poll::Ready(());
    }
    defer_bulk();
    Poll::Pending
}

impl RelayDirection {
    pub(super) fn new(side: Side) -> Self {
        Self {
            side,
            held: HeldBytes::Nothing,
            state: ReadState::Open,
            splicing: false,
            // Accepted sockets inherit it from the listener.
            prompt: side == Side::Upstream,
            notified: false,
            broken: false,
            moved: 0,
        }
    }

    /// True if the side has finished and every byte was delivered.
    pub(super) fn is_done(&self) -> bool {
        self.state == ReadState::Done
    }

    /// True if this direction waits for a read, which finds any end of the side.
    pub(super) fn is_reading(&self) -> bool {
        self.state == ReadState::Open && matches!(self.held, HeldBytes::Nothing)
    }

    /// Notes that the side's socket has failed: reads end where its bytes do, with or without a FIN.
    pub(super) fn breaks(&mut self) {
        self.broken = true;
    }

    /// Bytes delivered so far.
    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    /// True if the last bytes read were TLS's `close_notify`, judged by length.
    pub(super) fn is_notified(&self) -> bool {
        self.notified
    }

    fn other(&self) -> Side {
        match self.side {
            Side::Client => Side::Upstream,
            Side::Upstream => Side::Client,
        }
    }

    /// True if no bytes wait to be delivered.
    pub(super) fn holds_nothing(&self) -> bool {
        matches!(self.held, HeldBytes::Nothing)
    }

    /// Bytes that were read and wait to be delivered.
    pub(super) fn held(&self) -> usize {
        match &self.held {
            HeldBytes::Nothing => 0,
            HeldBytes::Bytes(rest) => rest.len(),
            HeldBytes::Pipe(filled) => filled.bytes(),
        }
    }

    /// Moves what can be moved and may pass; ready when that was all. The FIN that is to follow is the caller's.
    pub(super) fn poll<G: Guard>(
        &mut self,
        way: SocketPair<'_>,
        cx: &mut Context<'_>,
        scratch: &WorkerScratch,
        mut guard: Option<&mut Guarded<G>>,
        mut delivered: impl FnMut(usize),
    ) -> Poll<Result<(), FailedSide>> {
        // Bulk waits for its turn. Small messages do not, and a new direction may be either.
        let mut turn = if self.splicing && !is_bulk_turn() { 0 } else { TURN };
        while self.state != ReadState::Done {
            // Deliver before reading more.
            if !self.holds_nothing() {
                ready!(way.to.poll_writable(cx));
                ready!(poll_turn(turn));
            }
            let drained = self.poll_deliver(way.to, cx, scratch, &mut |n| {
                turn = turn.saturating_sub(n);
                delivered(n);
            });
            ready!(drained).map_err(|error| (self.other(), error))?;
            if self.state == ReadState::Ending {
                self.state = ReadState::Done;
                break;
            }
            if self.side == Side::Client
                && let Some(guard) = guard.as_deref_mut()
            {
                if let Some(bytes) = guard.poll_kept(cx) {
                    self.held = HeldBytes::Bytes(bytes);
                    continue;
                }
                if guard.is_closed() {
                    return Poll::Pending;
                }
            }
            ready!(way.from.poll_readable(cx));
            ready!(poll_turn(turn));
            self.take(way, scratch, guard.as_deref_mut(), &mut |n| {
                turn = turn.saturating_sub(n);
                delivered(n);
            })?;
        }
        Poll::Ready(Ok(()))
    }

    /// Sets `TCP_NODELAY` before it makes a difference: data that fits one segment is sent at once as long as nothing
    /// before it is unacknowledged (RFC 9293 §3.7.4).
    fn be_prompt(&mut self, to: &Socket, bytes: usize) {
        if !self.prompt && (self.moved > 0 || bytes > ONE_SEGMENT) {
            self.prompt = true;
            // It fails on a socket that is dead, as the write will.
            let _ = stream::set_nodelay(to);
        }
    }

    /// Delivers all of `held`.
    fn poll_deliver(
        &mut self,
        to: &Socket,
        cx: &mut Context<'_>,
        scratch: &WorkerScratch,
        delivered: &mut impl FnMut(usize),
    ) -> Poll<io::Result<()>> {
        loop {
            if matches!(self.held, HeldBytes::Nothing) {
                return Poll::Ready(Ok(()));
            }
            ready!(to.poll_writable(cx));
            self.be_prompt(to, COPY);
            let wrote = to.try_write(|| match &self.held {
                HeldBytes::Bytes(rest) => stream::write(to, rest),
                HeldBytes::Pipe(filled) => filled.drain(to),
                HeldBytes::Nothing => Ok(0),
            });
            match wrote {
                Ok(n) => {
                    self.moved += n as u64;
                    delivered(n);
                    self.drop_delivered(scratch, n);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn drop_delivered(&mut self, scratch: &WorkerScratch, n: usize) {
        self.held = match std::mem::replace(&mut self.held, HeldBytes::Nothing) {
            HeldBytes::Bytes(rest) if n < rest.len() => HeldBytes::Bytes(rest[n..].into()),
            HeldBytes::Pipe(filled) => match filled.delivered(n) {
                Ok(still_filled) => HeldBytes::Pipe(still_filled),
                Err(empty) => {
                    scratch.pipes.put_back(empty);
                    HeldBytes::Nothing
                }
            },
            HeldBytes::Bytes(_) | HeldBytes::Nothing => HeldBytes::Nothing,
        };
    }

    /// Reads once, by copying or splicing; `held` is empty before.
    fn take<G: Guard>(
        &mut self,
        way: SocketPair<'_>,
        scratch: &WorkerScratch,
        guard: Option<&mut Guarded<G>>,
        delivered: &mut impl FnMut(usize),
    ) -> Result<(), FailedSide> {
        if self.splicing {
            let free = guard.as_ref().map_or(u64::MAX, |guard| guard.free(self.side));
            let most = usize::try_from(free).unwrap_or(SPLICE).min(SPLICE);
            let spliced = if most < COPY { 0 } else { self.splice(way.from, scratch, most)? };
            if spliced > 0 {
                if let Some(guard) = guard {
                    guard.passes(self.side, spliced);
                }
                return Ok(());
            }
        }
        self.copy(way, scratch, guard, delivered)
    }

    /// Fills a pipe with up to `most` bytes. Returns 0 without a pipe, or with nothing to splice: copying then finds
    /// whether the socket is empty, at its end, or at urgent data, before which splice stops as if it were one of the
    /// two (`tcp_read_sock` in net/ipv4/tcp.c).
    fn splice(&mut self, from: &Socket, scratch: &WorkerScratch, most: usize) -> Result<usize, FailedSide> {
        if from.has_read_ahead() {
            return Ok(0);
        }
        let Some(pipe) = scratch.pipes.take() else { return Ok(0) };
        match pipe.fill(from, most) {
            Ok(n @ 1..) => {
                // The sender has slowed down: the next bytes may be few.
                self.splicing = n >= COPY;
                self.notified = false;
                self.held = HeldBytes::Pipe(FilledPipe::new(pipe, n));
                Ok(n)
            }
            empty => {
                scratch.pipes.put_back(pipe);
                match empty {
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err((self.side, error)),
                    Ok(_) | Err(_) => Ok(0),
                }
            }
        }
    }

    /// Reads into the worker's buffer and writes the bytes on; those that the other side does not take are held.
    fn copy<G: Guard>(
        &mut self,
        way: SocketPair<'_>,
        scratch: &WorkerScratch,
        guard: Option<&mut Guarded<G>>,
        delivered: &mut impl FnMut(usize),
    ) -> Result<(), FailedSide> {
        let mut buffer = scratch.buffer.borrow_mut();
        let SocketPair { from, to } = way;
        let ahead = from.has_read_ahead();
        let mut read = None;
        let result = from.try_read(|| {
            let n = from.read(&mut buffer)?;
            read = Some(n);
            // A short read has emptied the socket: reporting that clears the readiness and saves the read that would
            // return EAGAIN. Later bytes are a new edge; FIN and RST stay ready in any case. Only urgent data stops a
            // read before the end, and bytes that were read ahead tell nothing of what the socket holds.
            let held_back = ahead || from.may_hold_back() && stream::is_at_urgent_mark(from)?;
            let emptied = n != 0 && n < COPY && !held_back;
            if emptied { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        let n = match (read, result) {
            (Some(n), _) => n,
            (None, Err(error)) if error.kind() != io::ErrorKind::WouldBlock => {
                return Err((self.side, error));
            }
            (None, _) => return Ok(()),
        };
        if n == 0 {
            // A FIN counts as one byte.
            if self.broken && stream::received(from).is_ok_and(|bytes| bytes <= self.moved) {
                return Err((self.side, io::ErrorKind::ConnectionReset.into()));
            }
            self.end(from, guard);
            return Ok(());
        }
        self.splicing = n == COPY;
        self.notified = close_notify::ends_in(&buffer[..n]);
        let n = match guard.map(|guard| guard.look(self.side, &mut buffer[..n])) {
            None => n,
            Some(ForwardableBytes::Read(0)) => return Ok(()),
            Some(ForwardableBytes::Read(passing)) => passing,
            Some(ForwardableBytes::Kept(bytes)) => {
                self.hold(bytes);
                return Ok(());
            }
        };
        self.be_prompt(to, n);
        let sent = match to.try_write(|| stream::write(to, &buffer[..n])) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => {
                // Undelivered, which is to be known: see [`RelayProgress::held`](super::RelayProgress::held).
                self.hold(buffer[..n].into());
                return Err((self.other(), error));
            }
        };
        self.moved += sent as u64;
        delivered(sent);
        if sent < n {
            self.held = HeldBytes::Bytes(buffer[sent..n].into());
        }
        Ok(())
    }

    /// The side has finished.
    fn end<G: Guard>(&mut self, from: &Socket, guard: Option<&mut Guarded<G>>) {
        match (self.side, guard) {
            (Side::Client, Some(guard)) => {
                let Some(rest) = guard.finish() else { return };
                self.hold(rest);
            }
            (Side::Upstream, Some(guard)) => guard.server_finished(from),
            (Side::Client | Side::Upstream, None) => {}
        }
        self.state = ReadState::Ending;
    }

    fn hold(&mut self, bytes: Box<[u8]>) {
        if !bytes.is_empty() {
            self.held = HeldBytes::Bytes(bytes);
        }
    }
}
