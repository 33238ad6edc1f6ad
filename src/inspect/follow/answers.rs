//! The server's side of an HTTP/1 connection: which requests it has answered, and whether it took an upgrade.
//!
//! Nothing that a server sends is held back or refused. An answer that cannot be followed only means that it is not
//! known any more which requests are answered.

use super::chunked::Chunks;
use super::framing::{self, Body};
use super::head_end::HeadEnd;
use crate::inspect::http_head::Upgrade;
use std::collections::VecDeque;

/// Headers of one answer.
const MAX_HEADERS: usize = 256;

/// Requests that may wait for their answers before the next is taken from the client.
const MAX_OUTSTANDING: usize = 128;

/// Where in the stream of answers its reader is.
#[derive(Debug)]
pub(super) struct Answers {
    /// Requests without a whole answer, the oldest first, but for the one whose body is being read.
    outstanding: VecDeque<Asked>,
    at: At,
    end: HeadEnd,
    /// What has come of a head that is not whole.
    head: Vec<u8>,
    max_head: usize,
}

/// What an answer is to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) by_head: bool,
    pub(super) upgrade: Upgrade,
}

#[derive(Debug)]
enum At {
    Head,
    Body(u64),
    Chunked(Chunks),
    /// The answer ends with the stream.
    UntilClose,
    /// The server took an upgrade: what follows is not HTTP.
    Upgraded,
    /// It cannot be told which requests are answered.
    Lost,
    /// The server has finished: it answers nothing more, and takes no upgrade. Whether it had answered every request.
    Ended(bool),
    /// An upgrade was asked for, and what became of it is not known, or not let through.
    NoUpgrade(&'static str),
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
        let (end, head) = (HeadEnd::of_answer(), Vec::new());
        Self { outstanding: VecDeque::new(), at: At::Head, end, head, max_head }
    }

    /// A request has gone to the server.
    pub(super) fn expect(&mut self, asked: Asked) {
        match self.at {
            At::Lost if asked.upgrade != Upgrade::No => self.at = At::NoUpgrade(UNKNOWN_UPGRADE),
            At::Lost | At::Ended(_) | At::NoUpgrade(_) => {}
            At::Head | At::Body(_) | At::Chunked(_) | At::UntilClose | At::Upgraded => {
                self.outstanding.push_back(asked);
            }
        }
    }

    /// Whether another request may go to the server now.
    pub(super) fn standing(&self) -> Standing {
        if let At::NoUpgrade(why) = self.at {
            return Standing::Closed(why);
        }
        // Only the last can be one for an upgrade, because it holds up those behind it.
        let upgrading = self.outstanding.back().is_some_and(|asked| asked.upgrade != Upgrade::No);
        if upgrading || self.outstanding.len() >= MAX_OUTSTANDING { Standing::Wait } else { Standing::Open }
    }

    /// Whether every request has its whole answer; `None` if nobody knows.
    pub(super) fn are_whole(&self) -> Option<bool> {
        match self.at {
            At::Head => Some(self.outstanding.is_empty() && self.head.is_empty()),
            At::Body(_) | At::Chunked(_) | At::UntilClose => Some(false),
            At::Upgraded | At::Lost | At::Ended(_) | At::NoUpgrade(_) => None,
        }
    }

    /// The same at the end of a connection: an answer that ends with the stream is whole once that has ended.
    pub(super) fn are_complete(&self) -> Option<bool> {
        match self.at {
            At::Head => Some(self.outstanding.is_empty()),
            At::UntilClose if self.outstanding.is_empty() => None,
            At::Body(_) | At::Chunked(_) | At::UntilClose => Some(false),
            At::Ended(whole) => Some(whole),
            At::Upgraded | At::Lost | At::NoUpgrade(_) => None,
        }
    }

    pub(super) fn is_upgraded(&self) -> bool {
        matches!(self.at, At::Upgraded)
    }

    /// Bytes that may go by unseen.
    pub(super) fn free(&self) -> u64 {
        match &self.at {
            At::Head => 0,
            At::Body(left) => *left,
            At::Chunked(chunks) => chunks.free(),
            At::UntilClose | At::Upgraded | At::Lost | At::Ended(_) | At::NoUpgrade(_) => u64::MAX,
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
            At::Head | At::UntilClose | At::Upgraded | At::Lost | At::Ended(_) | At::NoUpgrade(_) => {}
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
                        self.at = At::Head;
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

    /// Nothing more comes.
    pub(super) fn finished(&mut self) {
        let none_waits = self.outstanding.is_empty();
        match self.at {
            At::Head | At::UntilClose => self.at = At::Ended(none_waits),
            At::Body(_) | At::Chunked(_) => self.at = At::Ended(false),
            At::Upgraded | At::Lost | At::Ended(_) | At::NoUpgrade(_) => {}
        }
        self.outstanding = VecDeque::new();
        self.head = Vec::new();
    }

    fn lose_track(&mut self) {
        let upgrading = self.outstanding.iter().any(|asked| asked.upgrade != Upgrade::No);
        self.at = if upgrading { At::NoUpgrade(UNKNOWN_UPGRADE) } else { At::Lost };
        self.outstanding = VecDeque::new();
        self.head = Vec::new();
    }

    /// How many bytes belong to the head that is being read.
    fn read_head(&mut self, bytes: &[u8]) -> Result<usize, &'static str> {
        let before = self.head.len();
        if before > 0 {
            self.head.extend_from_slice(bytes);
        }
        let head = if before > 0 { &self.head } else { bytes };
        // What lies beyond the bound is not looked at, or it would matter in which pieces an answer comes.
        let Some(length) = self.end.find(&head[..head.len().min(self.max_head)])? else {
            if head.len() >= self.max_head {
                return Err("a head that is too large");
            }
            if before == 0 {
                self.head.extend_from_slice(bytes);
            }
            return Ok(bytes.len());
        };
        // Some servers end a body with an empty line that no length counts.
        if length > 2 {
            let asked = *self.outstanding.front().ok_or("an answer that nobody asked for")?;
            let (after, is_final) = read(&head[..length], asked)?;
            self.at = after;
            if is_final {
                self.outstanding.pop_front();
            }
        }
        self.head = Vec::new();
        self.end = HeadEnd::of_answer();
        Ok(length - before)
    }
}

const UNKNOWN_UPGRADE: &str = "it is not known whether the server took the upgrade";

/// What follows a head, and whether no other head answers the same request.
fn read(head: &[u8], asked: Asked) -> Result<(At, bool), &'static str> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut answer = httparse::Response::new(&mut headers);
    match answer.parse(head) {
        Ok(httparse::Status::Complete(length)) if length == head.len() => {}
        Ok(_) | Err(_) => return Err("an answer that is not one of HTTP/1"),
    }
    let status = answer.code.ok_or("an answer without a status")?;
    match (status, asked.upgrade) {
        (101, Upgrade::Other) => return Ok((At::Upgraded, true)),
        (101, Upgrade::Http2) => return Ok((At::NoUpgrade("HTTP/2 without TLS"), true)),
        (101, Upgrade::No) => return Err("an upgrade that nobody asked for"),
        _ => {}
    }
    let after = match framing::of_answer(status, asked.by_head, answer.headers)? {
        Body::Empty => At::Head,
        Body::Length(length) => At::Body(length),
        Body::Chunked => At::Chunked(Chunks::new()),
        Body::UntilClose => At::UntilClose,
    };
    Ok((after, status >= 200))
}
