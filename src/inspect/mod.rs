//! Pure, sans-IO parsers of the TLS ClientHello and the HTTP/1 request head: bytes in, requested name and protocol out.
//!
//! The caller peeks and passes *all* bytes seen so far; no state is kept between calls, so a flow under inspection
//! needs no buffer. Verdicts are final: more bytes never change one other than `NeedMore`.
//!
//! Later requests and a second hello are followed by [`HttpExchange`] and [`Hellos`] while the flow is relayed.

mod authority;
mod client_hello;
mod follow;
mod framing;
mod http_head;
mod peek;
mod protocol_detect;
mod records;
#[cfg(test)]
mod tests;
mod upgrade;
mod verdict;

pub use follow::{Changed, Hellos, HttpExchange, Remainder, Then};
pub use peek::{Peeker, Unclear};
pub use verdict::{Inspected, Malformed, ParseProgress, Protocol};

/// Inspects all bytes that a client has sent so far.
///
/// `max` bounds, in bytes, a ClientHello with its record headers, or a request head; bytes beyond it are ignored.
/// `scratch` is a reusable buffer; it never holds more than `max` bytes, and its contents do not matter between calls.
///
/// The protocol is TLS if the first record is a handshake of major version 3 (RFC 8446 §5.1), and HTTP if the bytes
/// start with a word in capital letters and a space, or with anything that some server accepts as either; only then can
/// the verdict be `Malformed`. Other protocols that start with such a word (IRC, PROXY) are therefore refused.
pub fn inspect(bytes: &[u8], max: usize, scratch: &mut Vec<u8>) -> ParseProgress {
    let bytes = &bytes[..bytes.len().min(max)];
    match protocol_detect::protocol(bytes) {
        None if bytes.len() < max => ParseProgress::NeedMore { at_least: bytes.len() + 1 },
        None => ParseProgress::TooLarge(Protocol::Other),
        Some(Protocol::Tls) => client_hello::inspect(bytes, max, scratch),
        Some(Protocol::Http) => http_head::inspect(bytes, max),
        Some(Protocol::Other) => ParseProgress::Done(Inspected::nothing(Protocol::Other)),
    }
}
