//! Pure, sans-IO parsers of the TLS ClientHello and the HTTP/1 request head: bytes in, requested name and protocol out.
//!
//! The caller peeks and passes *all* bytes seen so far; no state is kept between calls, so a flow under inspection
//! needs no buffer. Verdicts are final: more bytes never change one other than `NeedMore`.
//!
//! Later requests and a second hello are followed by [`Exchange`] and [`Hellos`] while the flow is relayed.

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

/// Result of inspecting the bytes so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Not enough bytes; calling again is pointless before `at_least` have arrived in all.
    NeedMore {
        /// More than were passed, and at most the bound on a hello.
        at_least: usize,
    },
    /// Protocol and name are known.
    Done(Inspected),
    /// Starts like TLS or HTTP and is invalid. Fails closed.
    Malformed(Malformed),
    /// Not complete within the bound.
    TooLarge(Protocol),
}

/// Protocol of a client; serialised as in the flow log.
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

/// Result of a successful inspection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    /// Protocol of the client.
    pub protocol: Protocol,
    /// The SNI, or the HTTP authority.
    pub name: AskedName,
    /// TLS: the application protocols offered, comma-separated, printable ASCII only, at most 64 bytes. Empty if none.
    pub alpn: Box<str>,
    /// TLS: an `encrypted_client_hello` extension is present (many clients send a meaningless one, RFC 9849 GREASE).
    pub ech: bool,
    /// TLS: length of the hello with its record headers.
    pub length: usize,
    /// HTTP: why the end of the request is ambiguous, if it is.
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

/// Rejection of bytes that start like TLS or HTTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed {
    /// Protocol that the bytes start like: TLS or HTTP.
    pub protocol: Protocol,
    /// Reason, for the flow log.
    pub reason: &'static str,
}

/// Inspects all bytes that a client has sent so far.
///
/// `max` bounds, in bytes, a ClientHello with its record headers, or a request head; bytes beyond it are ignored.
/// `scratch` is a reusable buffer; it never holds more than `max` bytes, and its contents do not matter between calls.
///
/// The protocol is TLS if the first record is a handshake of major version 3 (RFC 8446 §5.1), and HTTP if the bytes
/// start with a word in capital letters and a space, or with anything that some server accepts as either; only then can
/// the verdict be `Malformed`. Other protocols that start with such a word (IRC, PROXY) are therefore refused.
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
