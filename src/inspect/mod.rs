//! Bytes in, what the client wants out: pure, sans-io parsers of the TLS ClientHello and the HTTP/1 request head.
//!
//! The caller peeks and hands over *all* bytes seen so far; nothing is kept between calls, so a flow under inspection
//! costs no memory of ours.

mod peek;

use crate::hostname::AskedName;
pub use peek::{Peeker, Unclear};

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

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// TLS, by its first record.
    Tls,
    /// HTTP/1, by its request line.
    Http,
    /// Anything else.
    Other,
}

impl Protocol {
    /// The word in the flow log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Http => "http",
            Self::Other => "other",
        }
    }
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
}

/// Why bytes that start like TLS or HTTP are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed {
    /// What it pretends to be: TLS or HTTP.
    pub protocol: Protocol,
    /// What is wrong, for the flow log.
    pub reason: &'static str,
}

/// stub
pub fn inspect(_bytes: &[u8], _max: usize, _scratch: &mut Vec<u8>) -> Verdict {
    Verdict::NeedMore { at_least: 1 }
}
