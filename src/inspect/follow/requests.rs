//! The client's side of an HTTP/1 connection: request after request, by their framing (RFC 9112).

use super::chunked::Chunks;
use super::framing::Body;
use super::head_end::HeadEnd;
use super::trailers::{self, MAX_TRAILERS};
use crate::inspect::http_head::{self, Request};
use crate::inspect::{Malformed, Protocol, Unclear};

/// Where in the stream of requests its reader is.
#[derive(Debug)]
pub(super) struct Requests {
    at: At,
    end: HeadEnd,
    /// One empty line has gone by since the last request.
    blank: bool,
    max_head: usize,
}

#[derive(Debug)]
enum At {
    Head,
    Body(u64),
    Chunked(Chunks),
    /// After the last chunk.
    Trailers,
}

/// What the bytes at hand start with.
#[derive(Debug)]
pub(super) enum Step {
    /// So many bytes, at least one, that belong to a request whose head has been judged.
    Passes(usize),
    /// A whole head of so many bytes.
    Head(Request, usize),
    /// The start of a head, or of trailers.
    NeedMore,
}

impl Requests {
    pub(super) fn new(max_head: usize) -> Self {
        Self { at: At::Head, end: HeadEnd::default(), blank: true, max_head }
    }

    /// Whether the last request is whole and the next one's head is not.
    pub(super) fn is_between(&self) -> bool {
        matches!(self.at, At::Head)
    }

    /// Bytes of a body before the reader has to look again.
    pub(super) fn free(&self) -> u64 {
        match &self.at {
            At::Head | At::Trailers => 0,
            At::Body(left) => *left,
            At::Chunked(chunks) => chunks.free(),
        }
    }

    /// At most [`Self::free`] bytes went by unseen.
    pub(super) fn passed(&mut self, bytes: u64) {
        match &mut self.at {
            At::Head | At::Trailers => {}
            At::Body(left) => {
                *left -= bytes;
                if *left == 0 {
                    self.at = At::Head;
                }
            }
            At::Chunked(chunks) => chunks.passed(bytes),
        }
    }

    /// Reads on. `bytes` are not empty; those that did not pass come again, with more after them.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<Step, Unclear> {
        match &mut self.at {
            At::Head => self.read_head(bytes),
            At::Body(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                self.passed(here as u64);
                Ok(Step::Passes(here))
            }
            At::Chunked(chunks) => {
                let (used, ended) = chunks.read(bytes).map_err(malformed)?;
                if ended {
                    self.at = At::Trailers;
                }
                Ok(Step::Passes(used))
            }
            At::Trailers => self.read_trailers(bytes),
        }
    }

    fn read_head(&mut self, bytes: &[u8]) -> Result<Step, Unclear> {
        // What lies beyond the bound is not looked at, or the verdict would depend on the pieces.
        let seen = &bytes[..bytes.len().min(self.max_head)];
        let length = match self.end.find(seen).map_err(malformed)? {
            Some(length) => length,
            None if seen.len() < self.max_head => return Ok(Step::NeedMore),
            None => return Err(Unclear::TooLarge(Protocol::Http)),
        };
        // RFC 9112 §2.2: old clients end a body with an empty line that no length counts.
        if length == 2 && !self.blank {
            self.blank = true;
            return Ok(Step::Passes(length));
        }
        match http_head::read(&bytes[..length]).map_err(malformed)? {
            Some(request) => Ok(Step::Head(request, length)),
            None => Err(malformed("an empty line instead of a request")),
        }
    }

    /// Trailers pass as a whole, for one line can make others mean something else.
    fn read_trailers(&mut self, bytes: &[u8]) -> Result<Step, Unclear> {
        let bound = self.max_head.min(MAX_TRAILERS);
        let seen = &bytes[..bytes.len().min(bound)];
        match self.end.find(seen).map_err(malformed)? {
            Some(length) => {
                trailers::check(&bytes[..length]).map_err(malformed)?;
                self.at = At::Head;
                Ok(Step::Passes(length))
            }
            None if seen.len() < bound => Ok(Step::NeedMore),
            None => Err(malformed("trailers that are too long")),
        }
    }

    /// The head that was read passes, and this body follows it.
    pub(super) fn begin(&mut self, body: Body) {
        self.blank = false;
        self.at = match body {
            Body::Empty | Body::UntilClose => At::Head,
            Body::Length(length) => At::Body(length),
            Body::Chunked => At::Chunked(Chunks::new()),
        };
    }
}

pub(super) fn malformed(reason: &'static str) -> Unclear {
    Unclear::Malformed(Malformed { protocol: Protocol::Http, reason })
}
