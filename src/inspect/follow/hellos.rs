//! What a TLS client says after its ClientHello, until the server has chosen how to go on.
//!
//! A server may ask for another ClientHello (HelloRetryRequest, RFC 8446 §4.1.4), and goes by the name in that one. It
//! comes in the clear, so it is read like the first. Only the server's ServerHello ends it: from then on TLS 1.3 is
//! encrypted, and a TLS 1.2 server takes no ClientHello in the clear. The client's own records end nothing: whatever else
//! it sends, early data included (RFC 8446 §4.2.10), a server may skip and still take a second hello. What is no TLS record
//! at all does.

use super::Then;
use crate::hostname::AskedName;
use crate::inspect::records::{CHANGE_CIPHER_SPEC, HANDSHAKE, HEARTBEAT, RECORD_HEADER};
use crate::inspect::{Inspected, Verdict, client_hello};
use crate::inspect::{Protocol, Unclear};
use std::ops::RangeInclusive;

/// Follows a TLS connection from its first byte to the ServerHello.
#[derive(Debug)]
pub struct Hellos {
    name: AskedName,
    ech: bool,
    max_hello: usize,
    /// Bytes of the client's that may pass unseen: the first hello, or the rest of a record that holds none.
    free: u64,
    server: Server,
    /// Nothing but a ServerHello may answer: the rule takes the server's certificate for its word.
    needs_server_hello: bool,
}

/// How a later ClientHello differs from the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// It asks for another name.
    Name,
    /// It carries an encrypted hello, and the first did not.
    Ech,
    /// The handshake was dropped: the server has answered something else, or the client has gone on to something else.
    NoHandshake,
}

impl Changed {
    /// For the flow log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Name => "another server name",
            Self::Ech => "an encrypted hello that the first did not have",
            Self::NoHandshake => "client and server did not go on with the TLS handshake",
        }
    }
}

impl Hellos {
    /// For a connection that starts with this hello.
    pub fn after(first: &Inspected, max_hello: usize) -> Self {
        Self {
            name: first.name.clone(),
            ech: first.ech,
            max_hello,
            free: first.length as u64,
            server: Server::default(),
            needs_server_hello: false,
        }
    }

    /// For one whose server must go on with the handshake, because it proved the name in another.
    #[must_use]
    pub fn needing_server_hello(self, needs: bool) -> Self {
        Self { needs_server_hello: needs, ..self }
    }

    fn is_dropped(&self) -> bool {
        self.needs_server_hello && self.server.decided && !self.server.greeted
    }

    /// Whether no further hello can count.
    pub fn are_over(&self) -> bool {
        self.server.decided && !self.is_dropped()
    }

    /// How many of the client's next bytes may pass unseen.
    pub fn free_up(&self) -> u64 {
        if self.is_dropped() {
            0
        } else if self.are_over() {
            u64::MAX
        } else {
            self.free
        }
    }

    /// So many of the client's bytes passed unseen, at most [`Self::free_up`].
    pub fn passed_up(&mut self, bytes: u64) {
        self.free = self.free.saturating_sub(bytes);
    }

    /// Takes note of the server's next bytes.
    pub fn server(&mut self, bytes: &[u8]) {
        self.server.read(bytes);
    }

    /// How many of the client's next bytes may pass, and what then. Bytes that may not pass are to be given again, with
    /// those that follow.
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
                // No TLS server goes on after that (RFC 8446 §5): whatever this is, it has no second hello.
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

    /// The length of what starts here, if it may pass: a ClientHello, or a record that is no handshake.
    fn record<D>(&self, bytes: &[u8], denied: &impl Fn(Changed) -> D) -> Result<Option<u64>, Then<D>> {
        let Some(header) = bytes.first_chunk::<RECORD_HEADER>() else { return Ok(None) };
        if header[0] != HANDSHAKE {
            let payload = u16::from_be_bytes([header[3], header[4]]);
            return Ok(Some(RECORD_HEADER as u64 + u64::from(payload)));
        }
        let bytes = &bytes[..bytes.len().min(self.max_hello)];
        match client_hello::inspect(bytes, self.max_hello, &mut Vec::new()) {
            Verdict::Done(hello) if hello.name != self.name => Err(Then::Denied(denied(Changed::Name))),
            Verdict::Done(hello) if hello.ech && !self.ech => Err(Then::Denied(denied(Changed::Ech))),
            Verdict::Done(hello) => Ok(Some(hello.length as u64)),
            Verdict::NeedMore { .. } => Ok(None),
            Verdict::Malformed(why) => Err(Then::Unclear(Unclear::Malformed(why))),
            Verdict::TooLarge(_) => Err(Then::Unclear(Unclear::TooLarge(Protocol::Tls))),
        }
    }
}

/// From change_cipher_spec to heartbeat (RFC 8446 §5.1, RFC 6520).
const TLS_RECORDS: RangeInclusive<u8> = CHANGE_CIPHER_SPEC..=HEARTBEAT;

/// Type, length, version and random of a ServerHello.
const START: usize = 4 + 2 + 32;
const SERVER_HELLO: u8 = 2;

/// The random by which a ServerHello is a HelloRetryRequest (RFC 8446 §4.1.3).
const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2,
    0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// The server's side, as far as its ServerHello.
#[derive(Debug)]
struct Server {
    /// It has sent a ServerHello that is no HelloRetryRequest, or what is not TLS.
    decided: bool,
    /// That was a ServerHello.
    greeted: bool,
    header: [u8; RECORD_HEADER],
    /// Bytes of `header` that are there, while `left` is 0.
    headed: usize,
    /// Bytes of the record still to come.
    left: u16,
    start: [u8; START],
    /// Bytes of `start` that are there.
    started: usize,
    /// Bytes of a HelloRetryRequest still to come.
    skip: u32,
}

impl Default for Server {
    fn default() -> Self {
        let (header, start) = ([0; RECORD_HEADER], [0; START]);
        Self { decided: false, greeted: false, header, headed: 0, left: 0, start, started: 0, skip: 0 }
    }
}

impl Server {
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
