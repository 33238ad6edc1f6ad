//! Follows a TLS client's bytes after its ClientHello, up to the ServerHello.
//!
//! A server may request another ClientHello (HelloRetryRequest, RFC 8446 §4.1.4), and uses the name in that one. It is
//! plaintext, so it is parsed like the first. Only the ServerHello ends this: from then on TLS 1.3 is encrypted, and a
//! TLS 1.2 server accepts no plaintext ClientHello. Records of the client, early data (RFC 8446 §4.2.10) included, do
//! not: a server may skip them and still accept a second hello. Anything that is no TLS record ends it.

use super::Then;
use crate::hostname::AskedName;
use crate::inspect::records::{CHANGE_CIPHER_SPEC, HANDSHAKE, HEARTBEAT, RECORD_HEADER};
use crate::inspect::{Inspected, ParseProgress, client_hello};
use crate::inspect::{Protocol, Unclear};
use std::ops::RangeInclusive;

/// Follows a TLS connection from its first byte to the ServerHello.
#[derive(Debug)]
pub struct Hellos {
    name: AskedName,
    ech: bool,
    max_hello: usize,
    /// Client bytes that may be forwarded without parsing: the first hello, or the rest of a record that holds none.
    free: u64,
    server: ServerHelloParser,
    /// True if the server must answer with a ServerHello, because the rule relies on the server's certificate.
    needs_server_hello: bool,
}

/// Difference between a later ClientHello and the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// It asks for another name.
    Name,
    /// It carries an encrypted hello, and the first did not.
    Ech,
    /// The handshake was abandoned: the server answered with something else, or the client sent something else.
    NoHandshake,
}

impl Changed {
    /// Text for the flow log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Name => "another server name",
            Self::Ech => "an encrypted hello that the first did not have",
            Self::NoHandshake => "client and server did not go on with the TLS handshake",
        }
    }
}

impl Hellos {
    /// Starts after the first hello of a connection.
    pub fn after(first: &Inspected, max_hello: usize) -> Self {
        Self {
            name: first.name.clone(),
            ech: first.ech,
            max_hello,
            free: first.length as u64,
            server: ServerHelloParser::default(),
            needs_server_hello: false,
        }
    }

    /// Sets whether the server must continue the handshake, because it proved the name in another connection.
    #[must_use]
    pub fn needing_server_hello(self, needs: bool) -> Self {
        Self { needs_server_hello: needs, ..self }
    }

    fn is_dropped(&self) -> bool {
        self.needs_server_hello && self.server.decided && !self.server.greeted
    }

    /// True if no further hello can take effect.
    pub fn are_over(&self) -> bool {
        self.server.decided && !self.is_dropped()
    }

    /// Number of client bytes that may be forwarded without parsing.
    pub fn free_up(&self) -> u64 {
        if self.is_dropped() {
            0
        } else if self.are_over() {
            u64::MAX
        } else {
            self.free
        }
    }

    /// Records client bytes that were forwarded without parsing, at most [`Self::free_up`].
    pub fn passed_up(&mut self, bytes: u64) {
        self.free = self.free.saturating_sub(bytes);
    }

    /// Parses the server's next bytes.
    pub fn server(&mut self, bytes: &[u8]) {
        self.server.read(bytes);
    }

    /// Returns how many of the client's next bytes may be forwarded, and the next step. Bytes that were not forwarded
    /// must be passed again, followed by the new ones.
    pub fn client<D>(&mut self, bytes: &[u8], denied: impl Fn(Changed) -> D) -> (usize, Then<D>) {
        let mut passed = 0;
        while passed < bytes.len() {
            if self.is_dropped() {
                return (passed, Then::Denied(denied(Changed::NoHandshake)));
            }
            let rest = &bytes[passed..];
            let free = usize::try_from(self.free_up()).unwrap_or(usize::MAX).min(rest.len());
            if free > 0 {
                self.passed_up(free as u64);
                passed += free;
                continue;
            }
            if !TLS_RECORDS.contains(&rest[0]) {
                // No TLS server continues after that (RFC 8446 §5), so a second hello is impossible.
                self.server.decided = true;
                continue;
            }
            match self.record(rest, &denied) {
                Ok(Some(length)) => self.free = length,
                Ok(None) => break,
                Err(then) => return (passed, then),
            }
        }
        (passed, Then::More)
    }

    /// Returns the length of a ClientHello or non-handshake record at the start of `bytes`, if it may be forwarded.
    fn record<D>(&self, bytes: &[u8], denied: &impl Fn(Changed) -> D) -> Result<Option<u64>, Then<D>> {
        let Some(header) = bytes.first_chunk::<RECORD_HEADER>() else { return Ok(None) };
        if header[0] != HANDSHAKE {
            let payload = u16::from_be_bytes([header[3], header[4]]);
            return Ok(Some(RECORD_HEADER as u64 + u64::from(payload)));
        }
        let bytes = &bytes[..bytes.len().min(self.max_hello)];
        match client_hello::inspect(bytes, self.max_hello, &mut Vec::new()) {
            ParseProgress::Done(hello) if hello.name != self.name => Err(Then::Denied(denied(Changed::Name))),
            ParseProgress::Done(hello) if hello.ech && !self.ech => Err(Then::Denied(denied(Changed::Ech))),
            ParseProgress::Done(hello) => Ok(Some(hello.length as u64)),
            ParseProgress::NeedMore { .. } => Ok(None),
            ParseProgress::Malformed(why) => Err(Then::Unclear(Unclear::Malformed(why))),
            ParseProgress::TooLarge(_) => Err(Then::Unclear(Unclear::TooLarge(Protocol::Tls))),
        }
    }
}

/// Content types from change_cipher_spec to heartbeat (RFC 8446 §5.1, RFC 6520).
const TLS_RECORDS: RangeInclusive<u8> = CHANGE_CIPHER_SPEC..=HEARTBEAT;

/// Length of a ServerHello's type, length, version and random.
const START: usize = 4 + 2 + 32;
const SERVER_HELLO: u8 = 2;

/// The random that marks a ServerHello as a HelloRetryRequest (RFC 8446 §4.1.3).
const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2,
    0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// Parser of the server's bytes up to its ServerHello.
#[derive(Debug)]
struct ServerHelloParser {
    /// The server sent a ServerHello that is no HelloRetryRequest, or bytes that are not TLS.
    decided: bool,
    /// The server sent a ServerHello.
    greeted: bool,
    header: [u8; RECORD_HEADER],
    /// Number of valid bytes in `header`, while `left` is 0.
    headed: usize,
    /// Bytes of the record still expected.
    left: u16,
    start: [u8; START],
    /// Number of valid bytes in `start`.
    started: usize,
    /// Bytes of a HelloRetryRequest still expected.
    skip: u32,
}

impl Default for ServerHelloParser {
    fn default() -> Self {
        let (header, start) = ([0; RECORD_HEADER], [0; START]);
        Self { decided: false, greeted: false, header, headed: 0, left: 0, start, started: 0, skip: 0 }
    }
}

impl ServerHelloParser {
    fn read(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if self.decided {
                return;
            }
            if self.left == 0 {
                self.read_header(byte);
            } else {
                self.left -= 1;
                if self.header[0] == HANDSHAKE {
                    self.read_message(byte);
                }
            }
        }
    }

    fn read_header(&mut self, byte: u8) {
        self.header[self.headed] = byte;
        self.headed += 1;
        self.decided = !TLS_RECORDS.contains(&self.header[0]);
        if self.headed == RECORD_HEADER {
            self.headed = 0;
            self.left = u16::from_be_bytes([self.header[3], self.header[4]]);
        }
    }

    fn read_message(&mut self, byte: u8) {
        if self.skip > 0 {
            self.skip -= 1;
            return;
        }
        self.start[self.started] = byte;
        self.started += 1;
        self.decided = self.start[0] != SERVER_HELLO;
        if self.started == START {
            let [_, a, b, c, ..] = self.start;
            self.skip = u32::from_be_bytes([0, a, b, c]).saturating_sub(2 + 32);
            self.started = 0;
            self.decided = self.start[START - RETRY.len()..] != RETRY;
            self.greeted = self.decided;
        }
    }
}
