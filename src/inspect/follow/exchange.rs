//! Both directions of an HTTP/1 connection, so that every request is checked against policy.

use super::answers::{PendingRequest, RequestReadiness, ResponseParser};
use super::requests::{ParseStep, RequestParser, malformed};
use super::{Remainder, Then};
use crate::hostname::AskedName;
use crate::inspect::upgrade::{self, Upgrade};

/// Follows requests and responses from the first byte of a connection.
///
/// A request is forwarded once its whole head is there and permitted, and its body according to its framing. After an
/// upgrade request nothing is forwarded until the server has answered; after a 101, everything is.
#[derive(Debug)]
pub struct HttpExchange {
    requests: RequestParser,
    answers: ResponseParser,
    /// The client's bytes that have passed.
    passed: u64,
}

impl HttpExchange {
    /// Limits heads of requests and responses to `max_head` bytes.
    pub fn new(max_head: usize) -> Self {
        Self { requests: RequestParser::new(max_head), answers: ResponseParser::new(max_head), passed: 0 }
    }

    /// Number of client bytes that may be forwarded without parsing.
    pub fn free_up(&self) -> u64 {
        if self.answers.is_upgraded() { u64::MAX } else { self.requests.free() }
    }

    /// Number of server bytes that may be forwarded without parsing.
    pub fn free_down(&self) -> u64 {
        self.answers.free()
    }

    /// Records client bytes that were forwarded without parsing, at most [`Self::free_up`].
    pub fn passed_up(&mut self, bytes: u64) {
        self.requests.passed(bytes);
        self.passed += bytes;
    }

    /// Records server bytes that were forwarded without parsing, at most [`Self::free_down`].
    pub fn passed_down(&mut self, bytes: u64) {
        self.answers.passed(bytes);
    }

    /// Parses the server's next bytes.
    pub fn server(&mut self, bytes: &[u8]) {
        self.answers.read(bytes);
    }

    /// The server says nothing more: what waited for it waits no longer. By then its host had taken so many of the client's
    /// bytes.
    pub fn server_finished(&mut self, taken: u64) {
        self.answers.finished(taken);
    }

    /// Returns how many of the client's next bytes may be forwarded, and the next step. `permit` is called once for
    /// each request with its host. Bytes that were not forwarded must be passed again, followed by the new ones.
    ///
    /// An offer to upgrade to HTTP/2 or TLS, where later names would be invisible, does not reach the server: its
    /// header fields are renamed in `bytes`. A server may ignore any offer (RFC 9110 §7.8).
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
                RequestReadiness::Open => {}
                RequestReadiness::Wait => return Err(Then::Wait),
                RequestReadiness::Closed(why) => return Err(Then::Unclear(malformed(why))),
            }
        }
        match self.requests.read(bytes).map_err(Then::Unclear)? {
            ParseStep::Passes(n) => Ok(n),
            ParseStep::NeedMore => Ok(0),
            ParseStep::Head(request, length) => {
                let unclear = |why| Then::Unclear(malformed(why));
                let (body, upgrade) = (request.body.map_err(unclear)?, request.upgrade.map_err(unclear)?);
                let upgrades = upgrade == Upgrade::WebSocket;
                // A server that sends less than it announces, as for a method that a request overrides, would have what answers
                // this one read as the rest of an earlier answer, and what the client has it echo as a 101.
                if upgrades && self.answers.are_whole() == Some(false) {
                    return Err(Then::Wait);
                }
                permit(&request.name).map_err(Then::Denied)?;
                self.requests.begin(body);
                if upgrade == Upgrade::Unjudged {
                    upgrade::withhold(&mut bytes[..length]);
                }
                let start = self.passed;
                let (by_head, is_last) = (request.by_head, request.is_last);
                self.answers.expect(PendingRequest { by_head, start, upgrade: upgrades, is_last });
                Ok(length)
            }
        }
    }

    /// True if every forwarded request has its complete response. `None`: unknown, or a response is delimited by end of
    /// file.
    pub fn is_answered(&self) -> Option<bool> {
        self.answers.are_complete()
    }

    /// Rest of the answer to the client after a request that was refused.
    pub fn remainder(&self) -> Remainder {
        match self.answers.are_whole() {
            Some(true) => Remainder::Answer,
            // A server that gets only part of a request need not answer it.
            Some(false) if self.requests.is_between() => Remainder::Wait,
            Some(false) | None => Remainder::Nothing,
        }
    }
}
