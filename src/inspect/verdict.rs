//! Results of inspection.

use crate::hostname::AskedName;
use serde::Serialize;

/// Result of inspecting the bytes so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParseProgress {
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

impl Protocol {
    /// Identifier in the flow log and in traces.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Http => "http",
            Self::Other => "other",
        }
    }
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
    /// HTTP: why what follows the request head could not be judged, if so: an ambiguous end, or an upgrade.
    pub unframed: Option<&'static str>,
}

impl Inspected {
    pub(super) fn nothing(protocol: Protocol) -> Self {
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
