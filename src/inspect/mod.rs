//! Bytes in, what the client wants out: pure, sans-io parsers of the TLS ClientHello and the HTTP/1 request head.
//!
//! The caller peeks and hands over *all* bytes seen so far; nothing is kept between calls, so a flow under inspection
//! costs no memory of ours. What was decided stays decided: more bytes never change a verdict other than `NeedMore`.
//!
//! What comes later, the next requests and a second hello, is followed by [`Exchange`] and [`Hellos`] while it is relayed.

mod authority;
mod client_hello;
mod follow;
mod http_head;
mod peek;
mod records;
mod spoken;
#[cfg(test)]
mod tests;

use crate::hostname::AskedName;
pub use follow::{Changed, Exchange, Hellos, Remainder, Then};
pub use peek::{Peeker, Unclear};
use serde::Serialize;

/// What the bytes so far amount to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Not enough yet; calling again is pointless before this many bytes in all are there.
    NeedMore {
        /// Always more than were given, and never more than the bound on a hello.
        at_least: usize,
    },
    /// It is clear what the client wants.
    Done(Inspected),
    /// It started like TLS or HTTP and is not valid. Fails closed.
    Malformed(Malformed),
    /// It is not whole within the bound.
    TooLarge(Protocol),
}

/// What a client speaks; serialised, the word in the flow log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TLS, by its first record.
    Tls,
    /// HTTP/1, by its request line.
    Http,
    /// Anything else.
    Other,
}

/// What the client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    /// What it speaks.
    pub protocol: Protocol,
    /// The SNI, or the HTTP authority.
    pub name: AskedName,
    /// TLS: the application protocols offered, comma-separated, printable ASCII only, at most 64 bytes. Empty if none.
    pub alpn: Box<str>,
    /// TLS: an `encrypted_client_hello` extension is there (many clients send a meaningless one, RFC 9849 GREASE).
    pub ech: bool,
    /// TLS: the length of the hello with its record headers.
    pub length: usize,
    /// HTTP: why it is not clear where the request ends, if so.
    pub unframed: Option<&'static str>,
}

impl Inspected {
    fn nothing(protocol: Protocol) -> Self {
        let name = match protocol {
            Protocol::Tls | Protocol::Http => AskedName::Absent,
            Protocol::Other => AskedName::Unread,
        };
        let alpn = Box::default();
        Self { protocol, name, alpn, ech: false, length: 0, unframed: None }
    }
}

/// Why bytes that start like TLS or HTTP are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed {
    /// What it pretends to be: TLS or HTTP.
    pub protocol: Protocol,
    /// What is wrong, for the flow log.
    pub reason: &'static str,
}

/// Judges all bytes that a client has sent so far.
///
/// `max` bounds, in bytes, a ClientHello with its record headers, or a request head; what lies beyond is not looked
/// at. `scratch` is working memory to be used again and again; it never holds more than `max` bytes, and nothing in
/// it matters between calls.
///
/// A client speaks TLS if its first record is a handshake of major version 3 (RFC 8446 §5.1), and HTTP if it starts
/// with a word in capital letters and a space, or with what some server takes for either; only then can it be
/// `Malformed`. Other protocols that start with such a word (IRC, PROXY) are therefore refused.
pub fn inspect(bytes: &[u8], max: usize, scratch: &mut Vec<u8>) -> Verdict {
    let bytes = &bytes[..bytes.len().min(max)];
    match spoken::protocol(bytes) {
        None if bytes.len() < max => Verdict::NeedMore { at_least: bytes.len() + 1 },
        None => Verdict::TooLarge(Protocol::Other),
        Some(Protocol::Tls) => client_hello::inspect(bytes, max, scratch),
        Some(Protocol::Http) => http_head::inspect(bytes, max),
        Some(Protocol::Other) => Verdict::Done(Inspected::nothing(Protocol::Other)),
    }
}
