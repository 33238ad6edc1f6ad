//! The bounded peek loop: what the client wants, read without taking a byte from its socket.

use super::{Inspected, Malformed, Protocol, Verdict, inspect};
use crate::sys::event_loop::timeout;
use crate::sys::socket::Socket;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::time::Duration;

/// A worker's buffers for inspection. They are used within a poll only; nothing is in them between polls.
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

/// Why it is not known what the client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unclear {
    /// The client closed or reset the connection before it had said all.
    ClientLeft,
    /// The deadline passed; what had come by then looked like this.
    TimedOut(Protocol),
    /// More than the bound on a hello.
    TooLarge(Protocol),
    /// Not valid.
    Malformed(Malformed),
}

impl Unclear {
    /// What the client seemed to speak; `None` if it said nothing.
    pub fn protocol(self) -> Option<Protocol> {
        match self {
            Self::ClientLeft => None,
            Self::TimedOut(protocol) | Self::TooLarge(protocol) => Some(protocol),
            Self::Malformed(why) => Some(why.protocol),
        }
    }
}

impl Peeker {
    /// Hellos of up to `max_hello` bytes, all of it within `deadline`.
    pub fn new(max_hello: usize, deadline: Duration) -> Self {
        let peeked = vec![0; max_hello].into_boxed_slice();
        Self { buffers: RefCell::new(Buffers { peeked, scratch: Vec::new() }), deadline }
    }

    /// Peeks until it is clear what the client wants.
    pub async fn peek(&self, client: &Socket) -> Result<Inspected, Unclear> {
        let mut progress = Progress { need: 1, looks_like: Protocol::Other };
        if let Ok(result) = timeout(self.deadline, self.peek_on(client, &mut progress)).await {
            return result;
        }
        // What came by now is no longer news, and whoever reads on would wait for more.
        client.tell_readable();
        Err(Unclear::TimedOut(progress.looks_like))
    }

    async fn peek_on(&self, client: &Socket, progress: &mut Progress) -> Result<Inspected, Unclear> {
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
                Some(Verdict::Done(inspected)) => return Ok(inspected),
                Some(Verdict::Malformed(why)) => return Err(Unclear::Malformed(why)),
                Some(Verdict::TooLarge(protocol)) => return Err(Unclear::TooLarge(protocol)),
                Some(Verdict::NeedMore { .. }) | None => {}
            }
            let failed = looked.is_err_and(|error| error.kind() != io::ErrorKind::WouldBlock);
            // FIN comes after all bytes: if it was there before this look, nothing more will come.
            if failed || finished {
                return Err(Unclear::ClientLeft);
            }
        }
    }

    /// One look at the receive queue; `None` where it does not hold enough yet.
    fn look(&self, client: &Socket, progress: &mut Progress) -> io::Result<Option<Verdict>> {
        let Buffers { peeked, scratch } = &mut *self.buffers.borrow_mut();
        loop {
            let n = client.peek(peeked)?;
            if n >= progress.need {
                match inspect(&peeked[..n], peeked.len(), scratch) {
                    Verdict::NeedMore { at_least } => {
                        *progress = Progress { need: at_least, looks_like: first_impression(&peeked[..n]) };
                    }
                    verdict @ (Verdict::Done(_) | Verdict::Malformed(_) | Verdict::TooLarge(_)) => {
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

struct Progress {
    /// Fewer bytes than this say nothing new.
    need: usize,
    looks_like: Protocol,
}

/// What an unfinished hello would have become, for the answer to its sender.
fn first_impression(bytes: &[u8]) -> Protocol {
    match bytes.first() {
        Some(20..=24) => Protocol::Tls,
        Some(b'A'..=b'Z') => Protocol::Http,
        _ => Protocol::Other,
    }
}
