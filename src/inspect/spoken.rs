//! What a client speaks, by its first bytes.
//!
//! A rule by address lets any other protocol pass, and no rule about names holds for it. So whatever some server would
//! read as TLS or HTTP is TLS or HTTP here, to be judged or refused, even where no honest client begins so.

use super::Protocol;
use super::records::{ALERT, CLIENT_HELLO, HANDSHAKE, MAJOR_VERSION};

/// The longest method of which capital letters and a space are enough. The longest registered one
/// (`UPDATEREDIRECTREF`, RFC 4437) has 17 letters.
const MAX_METHOD: usize = 20;

/// What the first bytes are the start of; `None` while it can still become TLS or HTTP.
pub(super) fn protocol(bytes: &[u8]) -> Option<Protocol> {
    match bytes {
        [HANDSHAKE, MAJOR_VERSION, ..] => Some(Protocol::Tls),
        [HANDSHAKE | ALERT, ..] => odd_record(bytes),
        _ => http(bytes),
    }
}

/// Go's TLS server takes a first record of any version below 16, and skips alerts before the ClientHello. Six bytes tell
/// such records from a length in front of something else.
fn odd_record(bytes: &[u8]) -> Option<Protocol> {
    match bytes {
        [_, 16..=u8::MAX, ..] => Some(Protocol::Other),
        [HANDSHAKE, _, _, _, _, CLIENT_HELLO, ..] | [ALERT, _, _, 0, 2, 1 | 2, ..] => Some(Protocol::Tls),
        [_, _, _, _, _, _, ..] => Some(Protocol::Other),
        _ => None,
    }
}

/// HTTP begins with a word in capital letters and a space. Servers also take a method in small letters, of any length, and
/// skip empty lines before it (RFC 9112 §2.2); then the first line is HTTP's if it ends in the version.
fn http(bytes: &[u8]) -> Option<Protocol> {
    let empty = bytes.iter().position(|b| !matches!(b, b'\r' | b'\n'))?;
    let bytes = &bytes[empty..];
    let method = bytes.iter().position(|&b| !is_token(b))?;
    match (&bytes[..method], bytes[method]) {
        ([b'A'..=b'Z', rest @ ..], b' ') if method <= MAX_METHOD && rest.iter().copied().all(is_capital) => {
            return Some(Protocol::Http);
        }
        ([_, ..], b' ' | b'\t') => {}
        _ => return Some(Protocol::Other),
    }
    // The target: a path, `*`, or a URL.
    let target = bytes[method..].iter().find(|b| !matches!(b, b' ' | b'\t'))?;
    if !matches!(target, b'/' | b'*') && !target.is_ascii_alphabetic() {
        return Some(Protocol::Other);
    }
    let end = bytes.iter().position(|b| b.is_ascii_control() && !matches!(b, b'\t' | b'\r'))?;
    let last = bytes[..end].trim_ascii_end().rsplit(|b| matches!(b, b' ' | b'\t')).next();
    let version = last.and_then(|word| word.first_chunk::<5>());
    let is_http = bytes[end] == b'\n' && version.is_some_and(|start| start.eq_ignore_ascii_case(b"HTTP/"));
    Some(if is_http { Protocol::Http } else { Protocol::Other })
}

fn is_capital(byte: u8) -> bool {
    matches!(byte, b'A'..=b'Z' | b'-')
}

/// What a method is made of (RFC 9110 §5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
