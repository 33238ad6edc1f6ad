//! The server's side of an HTTP/1 connection: which requests it has answered, and whether it took an upgrade.
//!
//! Nothing that a server sends is held back or refused. An answer that cannot be followed only means that it is not
//! known any more which requests are answered.

use super::answer_head::{AnswerHead, Section};
use super::chunked::Chunks;
use super::framing::{self, Body, Declared};
use std::collections::VecDeque;

/// Requests that may wait for their answers before the next is taken from the client.
const MAX_OUTSTANDING: usize = 128;

/// Where in the stream of answers its reader is.
#[derive(Debug)]
pub(super) struct Answers {
    /// Requests without a whole answer, the oldest first, but for the one whose body is being read.
    outstanding: VecDeque<Asked>,
    at: At,
    /// What has come of a head, or of trailers.
    head: AnswerHead,
    max_head: usize,
}

/// What an answer is to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) by_head: bool,
    /// Where it starts in what the client has sent.
    pub(super) start: u64,
    /// Whether it offers the server to go on with another protocol.
    pub(super) upgrade: bool,
}

#[derive(Debug)]
enum At {
    Head,
    Body(u64),
    Chunked(Chunks),
    /// After the last chunk.
    Trailers,
    /// The answer ends with the stream.
    UntilClose,
    /// The server took an upgrade: what follows is not HTTP.
    Upgraded,
    /// It cannot be told which requests are answered.
    Lost,
    /// The server has finished: it answers nothing more, and takes no upgrade. Whether it had answered every request.
    Ended(bool),
    /// An upgrade was asked for, and what became of it is not known.
    NoUpgrade,
}

/// What the server's answers mean for the client's next request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It may come.
    Open,
    /// It has to wait for an answer.
    Wait,
    /// It cannot be judged.
    Closed(&'static str),
}

impl Answers {
    pub(super) fn new(max_head: usize) -> Self {
        Self { outstanding: VecDeque::new(), at: At::Head, head: AnswerHead::new(), max_head }
    }

    /// A request has gone to the server.
    pub(super) fn expect(&mut self, asked: Asked) {
        match self.at {
            At::Lost if asked.upgrade => self.at = At::NoUpgrade,
            // Its client has no reason to repeat the first of a connection.
            At::Ended(_) if asked.start == 0 => self.at = At::Ended(false),
            At::Lost | At::Ended(_) | At::NoUpgrade => {}
            At::Head | At::Body(_) | At::Chunked(_) | At::Trailers | At::UntilClose | At::Upgraded => {
                self.outstanding.push_back(asked);
            }
        }
    }

    /// Whether another request may go to the server now.
    pub(super) fn standing(&self) -> Standing {
        if let At::NoUpgrade = self.at {
            return Standing::Closed("it is not known whether the server took the upgrade");
        }
        // Only the last can be one for an upgrade, because it holds up those behind it.
        let upgrading = self.outstanding.back().is_some_and(|asked| asked.upgrade);
        if upgrading || self.outstanding.len() >= MAX_OUTSTANDING { Standing::Wait } else { Standing::Open }
    }

    /// Whether every request has its whole answer; `None` if nobody knows.
    pub(super) fn are_whole(&self) -> Option<bool> {
        match self.at {
            At::Head => Some(self.outstanding.is_empty() && self.head.is_at_start()),
            At::Body(_) | At::Chunked(_) | At::Trailers | At::UntilClose => Some(false),
            At::Upgraded | At::Lost | At::Ended(_) | At::NoUpgrade => None,
        }
    }

    /// The same at the end of a connection: an answer that ends with the stream is whole once that has ended.
    pub(super) fn are_complete(&self) -> Option<bool> {
        match self.at {
            At::Head => Some(self.outstanding.is_empty()),
            At::UntilClose if self.outstanding.is_empty() => None,
            At::Body(_) | At::Chunked(_) | At::Trailers | At::UntilClose => Some(false),
            At::Ended(whole) => Some(whole),
            At::Upgraded | At::Lost | At::NoUpgrade => None,
        }
    }

    pub(super) fn is_upgraded(&self) -> bool {
        matches!(self.at, At::Upgraded)
    }

    /// Bytes that may go by unseen.
    pub(super) fn free(&self) -> u64 {
        match &self.at {
            At::Head | At::Trailers => 0,
            At::Body(left) => *left,
            At::Chunked(chunks) => chunks.free(),
            At::UntilClose | At::Upgraded | At::Lost | At::Ended(_) | At::NoUpgrade => u64::MAX,
        }
    }

    /// At most [`Self::free`] bytes went by unseen.
    pub(super) fn passed(&mut self, bytes: u64) {
        match &mut self.at {
            At::Body(left) => {
                *left -= bytes;
                if *left == 0 {
                    self.at = At::Head;
                }
            }
            At::Chunked(chunks) => chunks.passed(bytes),
            At::Head
            | At::Trailers
            | At::UntilClose
            | At::Upgraded
            | At::Lost
            | At::Ended(_)
            | At::NoUpgrade => {}
        }
    }

    /// Reads on.
    pub(super) fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let free = usize::try_from(self.free()).unwrap_or(usize::MAX).min(bytes.len());
            if free > 0 {
                self.passed(free as u64);
                bytes = &bytes[free..];
                continue;
            }
            let used = if let At::Chunked(chunks) = &mut self.at {
                chunks.read(bytes).map(|(used, ended)| {
                    if ended {
                        (self.at, self.head) = (At::Trailers, AnswerHead::trailers());
                    }
                    used
                })
            } else {
                self.read_head(bytes)
            };
            match used {
                Ok(used) => bytes = &bytes[used..],
                Err(_) => return self.lose_track(),
            }
        }
    }

    /// Nothing more comes. Requests of which the server's host has not taken a byte wait for no answer: clients repeat them on
    /// another connection (RFC 9112 §9.3.1), but for the first.
    pub(super) fn finished(&mut self, taken: u64) {
        let none_waits = self.outstanding.front().is_none_or(|oldest| oldest.start >= taken.max(1));
        match self.at {
            At::Head | At::UntilClose => self.at = At::Ended(none_waits),
            At::Body(_) | At::Chunked(_) | At::Trailers => self.at = At::Ended(false),
            At::Upgraded | At::Lost | At::Ended(_) | At::NoUpgrade => {}
        }
        self.outstanding = VecDeque::new();
    }

    fn lose_track(&mut self) {
        let upgrading = self.outstanding.iter().any(|asked| asked.upgrade);
        self.at = if upgrading { At::NoUpgrade } else { At::Lost };
        self.outstanding = VecDeque::new();
    }

    /// How many bytes belong to the head, or the trailers, that are being read.
    fn read_head(&mut self, bytes: &[u8]) -> Result<usize, &'static str> {
        let (used, section) = self.head.read(bytes, self.max_head)?;
        let Some(section) = section else { return Ok(used) };
        self.head = AnswerHead::new();
        match section {
            Section::Blank => {}
            Section::Head { .. } if matches!(self.at, At::Trailers) => self.at = At::Head,
            Section::Head { status, declared } => {
                let asked = *self.outstanding.front().ok_or("an answer that nobody asked for")?;
                self.at = after(status, declared, asked)?;
                if status >= 200 || status == 101 {
                    self.outstanding.pop_front();
                }
            }
        }
        Ok(used)
    }
}

/// What follows a head.
fn after(status: u16, declared: Result<Declared, &'static str>, asked: Asked) -> Result<At, &'static str> {
    match (status, asked.upgrade) {
        (101, true) => return Ok(At::Upgraded),
        (101, false) => return Err("an upgrade that nobody asked for"),
        _ => {}
    }
    Ok(match framing::of_answer(status, asked.by_head, declared)? {
        Body::Empty => At::Head,
        Body::Length(length) => At::Body(length),
        Body::Chunked => At::Chunked(Chunks::new()),
        Body::UntilClose => At::UntilClose,
    })
}
