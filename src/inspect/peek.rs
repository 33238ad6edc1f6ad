//! The bounded peek loop: inspects what the client sent without consuming it from the socket.

use super::{Inspected, Malformed, ParseProgress, Protocol, inspect};
use crate::sys::event_loop::timeout;
use crate::sys::socket::Socket;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::time::Duration;

/// A worker's buffers for inspection. They are used within one poll only and hold nothing between polls.
#[derive(Debug)]
pub struct Peeker {
    buffers: RefCell<Buffers>,
    deadline: Duration,
}

#[derive(Debug)]
struct Buffers {
    peeked: Box<[u8]>,
    scratch: Vec<u8>,
}

/// Reason why inspection failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unclear {
    /// The client closed or reset the connection before its hello or head was complete.
    ClientLeft,
    /// The deadline passed; the protocol that the bytes so far suggest.
    TimedOut(Protocol),
    /// Larger than the bound on a hello.
    TooLarge(Protocol),
    /// Invalid.
    Malformed(Malformed),
}

impl Unclear {
    /// Protocol that the bytes suggested; `None` if the client left.
    pub fn protocol(self) -> Option<Protocol> {
        match self {
            Self::ClientLeft => None,
            Self::TimedOut(protocol) | Self::TooLarge(protocol) => Some(protocol),
            Self::Malformed(why) => Some(why.protocol),
        }
    }
}

impl Peeker {
    /// Limits hellos to `max_hello` bytes, and the whole inspection to `deadline`.
    pub fn new(max_hello: usize, deadline: Duration) -> Self {
        let peeked = vec![0; max_hello].into_boxed_slice();
        Self { buffers: RefCell::new(Buffers { peeked, scratch: Vec::new() }), deadline }
    }

    /// Peeks until protocol and name are known.
    pub async fn peek(&self, client: &Socket) -> Result<Inspected, Unclear> {
        let mut progress = PeekProgress { need: 1, looks_like: Protocol::Other };
        if let Ok(result) = timeout(self.deadline, self.peek_on(client, &mut progress)).await {
            return result;
        }
        // The readiness of these bytes was consumed; restore it for the next reader, who would wait for more.
        client.mark_readable();
        Err(Unclear::TimedOut(progress.looks_like))
    }

    async fn peek_on(&self, client: &Socket, progress: &mut PeekProgress) -> Result<Inspected, Unclear> {
        loop {
            poll_fn(|cx| client.poll_readable(cx)).await;
            let finished = client.is_read_closed();
            let mut verdict = None;
            // "Would block" clears the readiness, so that a partial hello sleeps until the next segment instead of
            // spinning on the bytes that are there.
            let looked = client.try_read(|| {
                verdict = self.look(client, progress)?;
                verdict.as_ref().map(drop).ok_or_else(|| io::ErrorKind::WouldBlock.into())
            });
            match verdict {
                Some(ParseProgress::Done(inspected)) => return Ok(inspected),
                Some(ParseProgress::Malformed(why)) => return Err(Unclear::Malformed(why)),
                Some(ParseProgress::TooLarge(protocol)) => return Err(Unclear::TooLarge(protocol)),
                Some(ParseProgress::NeedMore { .. }) | None => {}
            }
            let failed = looked.is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock);
            // FIN comes after all bytes: if it was there before this look, nothing more will come.
            if failed || finished {
                return Err(Unclear::ClientLeft);
            }
        }
    }

    /// Peeks at the receive queue once; `None` if it does not hold enough yet.
    fn look(&self, client: &Socket, progress: &mut PeekProgress) -> io::Result<Option<ParseProgress>> {
        let Buffers { peeked, scratch } = &mut *self.buffers.borrow_mut();
        loop {
            let n = client.peek(peeked)?;
            if n >= progress.need {
                match inspect(&peeked[..n], peeked.len(), scratch) {
                    ParseProgress::NeedMore { at_least } => {
                        *progress =
                            PeekProgress { need: at_least, looks_like: first_impression(&peeked[..n]) };
                    }
                    verdict @ (ParseProgress::Done(_)
                    | ParseProgress::Malformed(_)
                    | ParseProgress::TooLarge(_)) => {
                        return Ok(Some(verdict));
                    }
                }
            }
            if !(client.may_hold_back() && client.read_ahead(n)?) {
                return Ok(None);
            }
        }
    }
}

struct PeekProgress {
    /// Minimum number of bytes that can change the verdict.
    need: usize,
    looks_like: Protocol,
}

/// Guesses the protocol of an incomplete hello, for the answer to its sender.
fn first_impression(bytes: &[u8]) -> Protocol {
    match bytes.first() {
        Some(20..=24) => Protocol::Tls,
        Some(b'A'..=b'Z') => Protocol::Http,
        _ => Protocol::Other,
    }
}
