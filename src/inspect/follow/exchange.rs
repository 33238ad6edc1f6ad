//! Both directions of an HTTP/1 connection, so that no request passes unjudged.

use super::answers::{Answers, Asked, Standing};
use super::requests::{Requests, Step, malformed};
use super::{Remainder, Then};
use crate::hostname::AskedName;
use crate::inspect::http_head::{self, Upgrade};

/// Follows requests and answers from the first byte of a connection on.
///
/// A request passes once its whole head is there and permitted, and its body as its head says. After a request for an
/// upgrade nothing passes until the server has answered: if with 101, everything does.
#[derive(Debug)]
pub struct Exchange {
    requests: Requests,
    answers: Answers,
    /// The client's bytes that have passed.
    passed: u64,
}

impl Exchange {
    /// Heads of requests, and of answers, may have `max_head` bytes.
    pub fn new(max_head: usize) -> Self {
        Self { requests: Requests::new(max_head), answers: Answers::new(max_head), passed: 0 }
    }

    /// How many of the client's next bytes may pass unseen.
    pub fn free_up(&self) -> u64 {
        if self.answers.is_upgraded() { u64::MAX } else { self.requests.free() }
    }

    /// How many of the server's next bytes may pass unseen.
    pub fn free_down(&self) -> u64 {
        self.answers.free()
    }

    /// So many of the client's bytes passed unseen, at most [`Self::free_up`].
    pub fn passed_up(&mut self, bytes: u64) {
        self.requests.passed(bytes);
        self.passed += bytes;
    }

    /// So many of the server's bytes passed unseen, at most [`Self::free_down`].
    pub fn passed_down(&mut self, bytes: u64) {
        self.answers.passed(bytes);
    }

    /// Takes note of the server's next bytes.
    pub fn server(&mut self, bytes: &[u8]) {
        self.answers.read(bytes);
    }

    /// The server says nothing more: what waited for it waits no longer. By then its host had taken so many of the client's
    /// bytes.
    pub fn server_finished(&mut self, taken: u64) {
        self.answers.finished(taken);
    }

    /// How many of the client's next bytes may pass, and what then. `permit` is asked once for each request, by the name
    /// it asks for. Bytes that may not pass are to be given again, with those that follow.
    ///
    /// An offer to go on with HTTP/2 or TLS, where nobody would see the names that are asked for next, does not reach the
    /// server: the fields that make it are renamed in `bytes`. A server may ignore any offer (RFC 9110 §7.8).
    pub fn client<D>(
        &mut self,
        bytes: &mut [u8],
        mut permit: impl FnMut(&AskedName) -> Result<(), D>,
    ) -> (usize, Then<D>) {
        let mut passed = 0;
        while passed < bytes.len() {
            match self.step(&mut bytes[passed..], &mut permit) {
                Ok(n @ 1..) => {
                    passed += n;
                    self.passed += n as u64;
                }
                Ok(0) => return (passed, Then::More),
                Err(then) => return (passed, then),
            }
        }
        (passed, Then::More)
    }

    fn step<D>(
        &mut self,
        bytes: &mut [u8],
        permit: &mut impl FnMut(&AskedName) -> Result<(), D>,
    ) -> Result<usize, Then<D>> {
        if self.answers.is_upgraded() {
            return Ok(bytes.len());
        }
        if self.requests.is_between() {
            match self.answers.standing() {
                Standing::Open => {}
                Standing::Wait => return Err(Then::Wait),
                Standing::Closed(why) => return Err(Then::Unclear(malformed(why))),
            }
        }
        match self.requests.read(bytes).map_err(Then::Unclear)? {
            Step::Passes(n) => Ok(n),
            Step::NeedMore => Ok(0),
            Step::Head(request, length) => {
                let body = request.body.map_err(|why| Then::Unclear(malformed(why)))?;
                permit(&request.name).map_err(Then::Denied)?;
                self.requests.begin(body);
                if request.upgrade == Upgrade::Unjudged {
                    http_head::withhold_upgrade(&mut bytes[..length]);
                }
                let upgrade = request.upgrade == Upgrade::Other;
                let start = self.passed;
                self.answers.expect(Asked { by_head: request.by_head, upgrade, start });
                Ok(length)
            }
        }
    }

    /// Whether every request that passed has its whole answer. `None`: that cannot be told, or an answer ends where the server
    /// does.
    pub fn is_answered(&self) -> Option<bool> {
        self.answers.are_complete()
    }

    /// After a request that may not pass: what the client is to get before the end.
    pub fn remainder(&self) -> Remainder {
        match self.answers.are_whole() {
            Some(true) => Remainder::Answer,
            // Whoever does not get a whole request may not answer it.
            Some(false) if self.requests.is_between() => Remainder::Wait,
            Some(false) | None => Remainder::Nothing,
        }
    }
}
