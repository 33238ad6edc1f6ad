//! Detects a client's protocol by its first bytes.
//!
//! A rule by address permits any other protocol, and no rule about names applies to it. So whatever some server would
//! parse as TLS or HTTP counts as TLS or HTTP, to be judged or refused, even if no honest client starts like that.

use super::Protocol;
use super::records::{ALERT, CHANGE_CIPHER_SPEC, CLIENT_HELLO, HANDSHAKE, HEARTBEAT, MAJOR_VERSION};

/// Longest method that is recognised by capital letters and a space alone. The longest registered one
/// (`UPDATEREDIRECTREF`, RFC 4437) has 17 letters.
const MAX_METHOD: usize = 20;
/// Shortest method that is recognised by capital letters and any white space. Registered ones have at least as many;
/// other protocols may start with a single letter and such a byte.
const MIN_METHOD: usize = 3;

/// Returns the protocol that the first bytes start; `None` while they can still become TLS or HTTP.
pub(super) fn protocol(bytes: &[u8]) -> Option<Protocol> {
    match bytes {
        [HANDSHAKE, MAJOR_VERSION, ..] => Some(Protocol::Tls),
        [CHANGE_CIPHER_SPEC..=HEARTBEAT, ..] => odd_record(bytes),
        _ => http(bytes),
    }
}

/// Detects a first record that is no TLS handshake but is accepted by some server: OpenSSL skips a change_cipher_spec
/// and records without content, GnuTLS a change_cipher_spec and heartbeats, Go alerts; Go accepts any version below 16.
/// Six bytes tell such records from a length prefix of another protocol. An SSLv2 hello is not among them: it has no
/// name.
fn odd_record(bytes: &[u8]) -> Option<Protocol> {
    match bytes {
        [_, 16..=u8::MAX, ..] => Some(Protocol::Other),
        [_, _, _, 0, 0, CHANGE_CIPHER_SPEC..=HEARTBEAT, ..]
        | [HANDSHAKE, _, _, _, _, CLIENT_HELLO, ..]
        | [CHANGE_CIPHER_SPEC, _, _, 0, 1, 1, ..]
        | [ALERT, _, _, 0, 1..=4, 1 | 2, ..]
        | [HEARTBEAT, MAJOR_VERSION, 1..=4, _, _, 1 | 2, ..] => Some(Protocol::Tls),
        [_, _, _, _, _, _, ..] => Some(Protocol::Other),
        _ => None,
    }
}

/// Detects HTTP: a word in capital letters and a space. Servers also accept a method in small letters, of any length,
/// and skip empty lines before it (RFC 9112 §2.2); then the first line is HTTP if it ends in the version. A capital
/// word with other white space around it is a method too: some servers need no version then.
fn http(bytes: &[u8]) -> Option<Protocol> {
    let start = bytes.iter().position(|&b| !is_space(b) && b != b'\n')?;
    let bytes = &bytes[start..];
    let method = bytes.iter().position(|&b| !is_token(b))?;
    let (method, rest) = bytes.split_at(method);
    match rest {
        [b'\r'] => return None,
        [b'\r', b'\n', ..] => return Some(Protocol::Other),
        [b' ', ..] if is_capital(method) => return Some(Protocol::Http),
        [space, ..] if is_space(*space) && is_capital(method) && method.len() >= MIN_METHOD => {
            return Some(Protocol::Http);
        }
        [space, ..] if is_space(*space) => {}
        _ => return Some(Protocol::Other),
    }
    // The target: a path, `*`, or a URL.
    let target = rest.iter().find(|&&b| !is_space(b))?;
    if !matches!(target, b'/' | b'*') && !target.is_ascii_alphabetic() {
        return Some(Protocol::Other);
    }
    let end = rest.iter().position(|&b| b.is_ascii_control() && !is_space(b))?;
    let last = rest[..end].rsplit(|&b| is_space(b)).find(|word| !word.is_empty());
    let version = last.and_then(|word| word.first_chunk::<5>());
    let is_http = rest[end] == b'\n' && version.is_some_and(|start| start.eq_ignore_ascii_case(b"HTTP/"));
    Some(if is_http { Protocol::Http } else { Protocol::Other })
}

/// True if some server treats a byte as white space within a line: the set of Python's `str.split` in Latin-1 covers
/// all.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | 0x0b | 0x0c | b'\r' | 0x1c..=0x1f | 0x85 | 0xa0)
}

/// True if a word is a method by its letters alone.
fn is_capital(word: &[u8]) -> bool {
    let capital = |&b: &u8| matches!(b, b'A'..=b'Z' | b'-');
    word.len() <= MAX_METHOD && word.iter().all(capital) && word.first().is_some_and(|&b| b != b'-')
}

/// True if a byte is valid in methods and field names (RFC 9110 §5.6.2).
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
