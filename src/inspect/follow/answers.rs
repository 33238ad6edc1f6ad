//! Server side of an HTTP/1 connection: tracks which requests are answered, and whether an upgrade was accepted.
//!
//! Server bytes are never held back or refused. Responses are read as clients read them. If one cannot be parsed, it is only
//! unknown from then on which requests are answered.

use super::answer_head::{AnswerHead, HeadSection};
use super::chunked::Chunks;
use crate::inspect::framing::{self, Body, Declared};
use std::collections::VecDeque;

/// How many times larger heads of answers may be than those of requests: they take no memory, and clients take large ones.
const ANSWER_HEAD_FACTOR: usize = 4;
/// Maximum number of outstanding requests; beyond it the client's next request waits.
const MAX_OUTSTANDING: usize = 128;

/// Parser state of the response stream.
#[derive(Debug)]
pub(super) struct ResponseParser {
    /// Requests without a complete response, oldest first, except the one whose body is being read.
    outstanding: VecDeque<Outstanding>,
    at: ResponsePosition,
    /// State of the head or trailers being read.
    head: AnswerHead,
    max_head: usize,
    /// True if every reader reads the responses so far alike, and those of careless servers too. Otherwise no upgrade is believed.
    is_strict: bool,
    /// The client has sent the request with whose response the connection ends.
    is_closing: bool,
}

/// The request of a response.
#[derive(Debug, Clone, Copy)]
pub(super) struct PendingRequest {
    pub(super) by_head: bool,
    /// Offset of its first byte in the client's stream.
    pub(super) start: u64,
    /// True if it offers an upgrade.
    pub(super) upgrade: bool,
    /// True if the connection ends with its response.
    pub(super) is_last: bool,
}

/// A request without a complete response.
#[derive(Debug, Clone, Copy)]
struct Outstanding {
    asked: PendingRequest,
    /// It follows one with whose response the connection ends, so no response is due (RFC 9112 §9.6).
    is_beyond_last: bool,
}

#[derive(Debug)]
enum ResponsePosition {
    Head,
    Body(u64),
    Chunked(Chunks),
    /// After the last chunk.
    Trailers,
    /// The body ends at end of file.
    UntilClose,
    /// The server accepted an upgrade; what follows is not HTTP.
    Upgraded,
    /// Parsing failed: it is unknown which requests are answered.
    Lost,
    /// Every request is answered, and the server has sent more: bytes that no length counts, or an answer to nothing, as when
    /// it gives up waiting for a request (408). What answers a later request is unknown.
    Beyond,
    /// The server has closed: no further response, no upgrade. True if every request was answered.
    Ended(bool),
    /// An upgrade was requested, and its result is unknown.
    NoUpgrade,
}

/// Effect of the responses so far on the client's next request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RequestReadiness {
    /// It may be forwarded.
    Open,
    /// It must wait for a response.
    Wait,
    /// It cannot be judged.
    Closed(&'static str),
}

impl ResponseParser {
    pub(super) fn new(max_head: usize) -> Self {
        Self {
            outstanding: VecDeque::new(),
            at: ResponsePosition::Head,
            head: AnswerHead::new(),
            max_head: max_head.saturating_mul(ANSWER_HEAD_FACTOR),
            is_strict: true,
            is_closing: false,
        }
    }

    /// Records that a request was forwarded to the server.
    pub(super) fn expect(&mut self, asked: PendingRequest) {
        match self.at {
            ResponsePosition::Lost | ResponsePosition::Beyond if asked.upgrade => {
                self.at = ResponsePosition::NoUpgrade;
            }
            ResponsePosition::Beyond => self.at = ResponsePosition::Lost,
            // Its client has no reason to repeat the first of a connection.
            ResponsePosition::Ended(_) if asked.start == 0 => self.at = ResponsePosition::Ended(false),
            ResponsePosition::Lost | ResponsePosition::Ended(_) | ResponsePosition::NoUpgrade => {}
            ResponsePosition::Head
            | ResponsePosition::Body(_)
            | ResponsePosition::Chunked(_)
            | ResponsePosition::Trailers
            | ResponsePosition::UntilClose
            | ResponsePosition::Upgraded => {
                self.outstanding.push_back(Outstanding { asked, is_beyond_last: self.is_closing });
                self.is_closing |= asked.is_last;
            }
        }
    }

    /// Returns whether another request may be forwarded now.
    pub(super) fn standing(&self) -> RequestReadiness {
        if let ResponsePosition::NoUpgrade = self.at {
            return RequestReadiness::Closed("it is not known whether the server took the upgrade");
        }
        // Only the last one can be an upgrade request, because it blocks those behind it.
        let upgrading = self.outstanding.back().is_some_and(|last| last.asked.upgrade);
        if upgrading || self.outstanding.len() >= MAX_OUTSTANDING {
            RequestReadiness::Wait
        } else {
            RequestReadiness::Open
        }
    }

    /// True if every request has its complete response; `None` if unknown.
    pub(super) fn are_whole(&self) -> Option<bool> {
        match self.at {
            ResponsePosition::Head => Some(self.outstanding.is_empty() && self.head.is_at_start()),
            ResponsePosition::Body(_)
            | ResponsePosition::Chunked(_)
            | ResponsePosition::Trailers
            | ResponsePosition::UntilClose => Some(false),
            ResponsePosition::Upgraded
            | ResponsePosition::Lost
            | ResponsePosition::Beyond
            | ResponsePosition::Ended(_)
            | ResponsePosition::NoUpgrade => None,
        }
    }

    /// Like [`Self::are_whole`] at the end of a connection: a response delimited by end of file is then complete.
    pub(super) fn are_complete(&self) -> Option<bool> {
        match self.at {
            ResponsePosition::Head => Some(!self.is_due(u64::MAX)),
            ResponsePosition::UntilClose if !self.is_due(u64::MAX) => None,
            ResponsePosition::Body(_)
            | ResponsePosition::Chunked(_)
            | ResponsePosition::Trailers
            | ResponsePosition::UntilClose => Some(false),
            ResponsePosition::Ended(whole) => Some(whole),
            ResponsePosition::Beyond => Some(true),
            ResponsePosition::Upgraded | ResponsePosition::Lost | ResponsePosition::NoUpgrade => None,
        }
    }

    /// True if a response is due, of a server whose host has `taken` so many of the client's bytes. A request of which it
    /// has none is repeated by the client on another connection (RFC 9112 §9.3.1), except the first.
    fn is_due(&self, taken: u64) -> bool {
        let oldest = self.outstanding.front();
        oldest.is_some_and(|oldest| !oldest.is_beyond_last && oldest.asked.start < taken.max(1))
    }

    pub(super) fn is_upgraded(&self) -> bool {
        matches!(self.at, ResponsePosition::Upgraded)
    }

    /// Bytes that may be forwarded without parsing.
    pub(super) fn free(&self) -> u64 {
        match &self.at {
            ResponsePosition::Head | ResponsePosition::Trailers => 0,
            ResponsePosition::Body(left) => *left,
            ResponsePosition::Chunked(chunks) => chunks.free(),
            ResponsePosition::UntilClose
            | ResponsePosition::Upgraded
            | ResponsePosition::Lost
            | ResponsePosition::Beyond
            | ResponsePosition::Ended(_)
            | ResponsePosition::NoUpgrade => u64::MAX,
        }
    }

    /// Records that at most [`Self::free`] bytes were forwarded without parsing.
    pub(super) fn passed(&mut self, bytes: u64) {
        match &mut self.at {
            ResponsePosition::Body(left) => {
                *left -= bytes;
                if *left == 0 {
                    self.at = ResponsePosition::Head;
                }
            }
            ResponsePosition::Chunked(chunks) => chunks.passed(bytes),
            ResponsePosition::Head
            | ResponsePosition::Trailers
            | ResponsePosition::UntilClose
            | ResponsePosition::Upgraded
            | ResponsePosition::Lost
            | ResponsePosition::Beyond
            | ResponsePosition::Ended(_)
            | ResponsePosition::NoUpgrade => {}
        }
    }

    /// Parses the next bytes.
    pub(super) fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let free = usize::try_from(self.free()).unwrap_or(usize::MAX).min(bytes.len());
            if free > 0 {
                self.passed(free as u64);
                bytes = &bytes[free..];
                continue;
            }
            match self.read_framing(bytes) {
                Ok(used) => bytes = &bytes[used..],
                Err(_) => return self.lose_track(),
            }
        }
    }

    /// Returns how many bytes belong to the part being read, which is no data.
    fn read_framing(&mut self, bytes: &[u8]) -> Result<usize, &'static str> {
        let ResponsePosition::Chunked(chunks) = &mut self.at else { return self.read_head(bytes) };
        let (used, ended) = chunks.read(bytes)?;
        if ended {
            self.is_strict &= chunks.is_strict();
            (self.at, self.head) = (ResponsePosition::Trailers, AnswerHead::trailers());
        }
        Ok(used)
    }

    /// Records that the server has finished, and that its host had `taken` so many of the client's bytes.
    pub(super) fn finished(&mut self, taken: u64) {
        match self.at {
            ResponsePosition::Head | ResponsePosition::UntilClose => {
                self.at = ResponsePosition::Ended(!self.is_due(taken));
            }
            ResponsePosition::Body(_) | ResponsePosition::Chunked(_) | ResponsePosition::Trailers => {
                self.at = ResponsePosition::Ended(false);
            }
            ResponsePosition::Beyond => self.at = ResponsePosition::Ended(true),
            ResponsePosition::Upgraded
            | ResponsePosition::Lost
            | ResponsePosition::Ended(_)
            | ResponsePosition::NoUpgrade => {}
        }
        self.outstanding = VecDeque::new();
    }

    fn lose_track(&mut self) {
        let upgrading = self.outstanding.iter().any(|one| one.asked.upgrade);
        self.at = if upgrading {
            ResponsePosition::NoUpgrade
        } else if matches!(self.at, ResponsePosition::Head) && self.outstanding.is_empty() {
            ResponsePosition::Beyond
        } else {
            ResponsePosition::Lost
        };
        self.outstanding = VecDeque::new();
    }

    /// Returns how many bytes belong to the head or trailers being read.
    fn read_head(&mut self, bytes: &[u8]) -> Result<usize, &'static str> {
        let (used, section) = self.head.read(bytes, self.max_head)?;
        let Some(section) = section else { return Ok(used) };
        self.head = AnswerHead::new();
        let HeadSection::Head { status, declared, is_strict } = section else { return Ok(used) };
        self.is_strict &= is_strict;
        if let ResponsePosition::Trailers = self.at {
            self.at = ResponsePosition::Head;
            return Ok(used);
        }
        let asked = self.outstanding.front().ok_or("an answer that nobody asked for")?.asked;
        if status == 101 && !self.is_strict {
            return Err("an upgrade that readers may disagree on");
        }
        self.at = after(status, declared, asked)?;
        // Where a server sends a body all the same, it may hold an answer of the client's making.
        let has_no_body = matches!(status, 204 | 304) || asked.by_head && status >= 200;
        self.is_strict &= !has_no_body;
        if status >= 200 || status == 101 {
            self.outstanding.pop_front();
        }
        Ok(used)
    }
}

/// Returns the state after a response head.
fn after(
    status: u16,
    declared: Result<Declared, &'static str>,
    asked: PendingRequest,
) -> Result<ResponsePosition, &'static str> {
    match (status, asked.upgrade) {
        (101, true) => return Ok(ResponsePosition::Upgraded),
        (101, false) => return Err("an upgrade that nobody asked for"),
        _ => {}
    }
    Ok(match framing::of_answer(status, asked.by_head, declared)? {
        Body::Empty => ResponsePosition::Head,
        Body::Length(length) => ResponsePosition::Body(length),
        Body::Chunked => ResponsePosition::Chunked(Chunks::of_answer()),
        Body::UntilClose => ResponsePosition::UntilClose,
    })
}
