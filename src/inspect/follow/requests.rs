//! Client side of an HTTP/1 connection: consecutive requests, by their framing (RFC 9112).

use super::chunked::Chunks;
use super::head_end::HeadEnd;
use super::trailers::{self, MAX_TRAILERS};
use crate::inspect::framing::Body;
use crate::inspect::http_head::{self, Request};
use crate::inspect::{Malformed, Protocol, Unclear};

/// Parser state of the request stream.
#[derive(Debug)]
pub(super) struct RequestParser {
    at: RequestPosition,
    end: HeadEnd,
    /// True after one empty line since the last request.
    blank: bool,
    max_head: usize,
}

#[derive(Debug)]
enum RequestPosition {
    Head,
    Body(u64),
    Chunked(Chunks),
    /// After the last chunk.
    Trailers,
}

/// Result of parsing the bytes at hand.
#[derive(Debug)]
pub(super) enum ParseStep {
    /// Number of bytes, at least one, of a request whose head has been judged.
    Passes(usize),
    /// A complete head and its length.
    Head(Request, usize),
    /// An incomplete head or trailer section.
    NeedMore,
}

impl RequestParser {
    pub(super) fn new(max_head: usize) -> Self {
        Self { at: RequestPosition::Head, end: HeadEnd::default(), blank: true, max_head }
    }

    /// True if the last request is complete and the next head is not.
    pub(super) fn is_between(&self) -> bool {
        matches!(self.at, RequestPosition::Head)
    }

    /// Bytes of a body that need no parsing.
    pub(super) fn free(&self) -> u64 {
        match &self.at {
            RequestPosition::Head | RequestPosition::Trailers => 0,
            RequestPosition::Body(left) => *left,
            RequestPosition::Chunked(chunks) => chunks.free(),
        }
    }

    /// Records that at most [`Self::free`] bytes were forwarded without parsing.
    pub(super) fn passed(&mut self, bytes: u64) {
        match &mut self.at {
            RequestPosition::Head | RequestPosition::Trailers => {}
            RequestPosition::Body(left) => {
                *left -= bytes;
                if *left == 0 {
                    self.at = RequestPosition::Head;
                }
            }
            RequestPosition::Chunked(chunks) => chunks.passed(bytes),
        }
    }

    /// Parses `bytes`, which are not empty. Bytes that were not consumed must be passed again, followed by new ones.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<ParseStep, Unclear> {
        match &mut self.at {
            RequestPosition::Head => self.read_head(bytes),
            RequestPosition::Body(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                self.passed(here as u64);
                Ok(ParseStep::Passes(here))
            }
            RequestPosition::Chunked(chunks) => {
                let (used, ended) = chunks.read(bytes).map_err(malformed)?;
                if ended {
                    self.at = RequestPosition::Trailers;
                }
                Ok(ParseStep::Passes(used))
            }
            RequestPosition::Trailers => self.read_trailers(bytes),
        }
    }

    fn read_head(&mut self, bytes: &[u8]) -> Result<ParseStep, Unclear> {
        // Bytes beyond the bound are ignored, or the verdict would depend on how the input is split.
        let seen = &bytes[..bytes.len().min(self.max_head)];
        let length = match self.end.find(seen).map_err(malformed)? {
            Some(length) => length,
            None if seen.len() < self.max_head => return Ok(ParseStep::NeedMore),
            None => return Err(Unclear::TooLarge(Protocol::Http)),
        };
        // RFC 9112 §2.2: old clients end a body with an empty line that no length counts.
        if length == 2 && !self.blank {
            self.blank = true;
            return Ok(ParseStep::Passes(length));
        }
        match http_head::read(&bytes[..length]).map_err(malformed)? {
            Some(request) => Ok(ParseStep::Head(request, length)),
            None => Err(malformed("an empty line instead of a request")),
        }
    }

    /// Checks trailers as a whole, because one line can change the meaning of others.
    fn read_trailers(&mut self, bytes: &[u8]) -> Result<ParseStep, Unclear> {
        let bound = self.max_head.min(MAX_TRAILERS);
        let seen = &bytes[..bytes.len().min(bound)];
        match self.end.find(seen).map_err(malformed)? {
            Some(length) => {
                trailers::check(&bytes[..length]).map_err(malformed)?;
                self.at = RequestPosition::Head;
                Ok(ParseStep::Passes(length))
            }
            None if seen.len() < bound => Ok(ParseStep::NeedMore),
            None => Err(malformed("trailers that are too long")),
        }
    }

    /// Accepts the head that was read; `body` follows it.
    pub(super) fn begin(&mut self, body: Body) {
        self.blank = false;
        self.at = match body {
            Body::Empty | Body::UntilClose => RequestPosition::Head,
            Body::Length(length) => RequestPosition::Body(length),
            Body::Chunked => RequestPosition::Chunked(Chunks::of_request()),
        };
    }
}

pub(super) fn malformed(reason: &'static str) -> Unclear {
    Unclear::Malformed(Malformed { protocol: Protocol::Http, reason })
}
