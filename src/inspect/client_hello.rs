//! Parser of the TLS ClientHello: server name, application protocols, presence of an encrypted hello.

use super::records::{self, Stop};
use super::{Inspected, Malformed, ParseProgress, Protocol};
use crate::hostname::AskedName;
use tls_parser::{
    SNIType, TlsClientHelloContents, TlsExtension, parse_tls_extension_sni_hostname,
    parse_tls_extension_unknown, parse_tls_handshake_client_hello,
};

/// RFC 6066 §3.
const SERVER_NAME: u16 = 0;
/// RFC 7301 §3.1.
const ALPN: u16 = 16;
/// RFC 9849 §5.
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;

/// Fewer than 70 types are registered and real clients send about 20; more are an attempt to exhaust the parser.
const MAX_EXTENSIONS: usize = 128;
/// Bytes kept of the offered protocols, for the flow log.
const MAX_ALPN: usize = 64;

type HelloResult<T, E = &'static str> = Result<T, E>;

/// Inspects bytes whose first record is a TLS handshake.
pub(super) fn inspect(bytes: &[u8], max: usize, scratch: &mut Vec<u8>) -> ParseProgress {
    let malformed = |reason| ParseProgress::Malformed(Malformed { protocol: Protocol::Tls, reason });
    match records::client_hello(bytes, max, scratch) {
        Ok((body, length)) => {
            read(body).map_or_else(malformed, |hello| ParseProgress::Done(Inspected { length, ..hello }))
        }
        Err(Stop::NeedMore(at_least)) => ParseProgress::NeedMore { at_least },
        Err(Stop::Malformed(reason)) => malformed(reason),
        Err(Stop::TooLarge) => ParseProgress::TooLarge(Protocol::Tls),
    }
}

fn read(body: &[u8]) -> HelloResult<Inspected> {
    let hello = parse(body)?;
    let mut inspected = Inspected::nothing(Protocol::Tls);
    let mut rest = hello.ext.unwrap_or_default();
    let mut seen = [0; MAX_EXTENSIONS];
    let mut count = 0;
    while !rest.is_empty() {
        let Ok((after, TlsExtension::Unknown(kind, data))) = parse_tls_extension_unknown(rest) else {
            return Err("an extension is cut off");
        };
        // RFC 8446 §4.2 forbids duplicates; servers differ in which of the two they use.
        if seen[..count].contains(&kind.0) {
            return Err("two extensions of one type");
        }
        *seen.get_mut(count).ok_or("too many extensions")? = kind.0;
        count += 1;
        match kind.0 {
            SERVER_NAME => inspected.name = AskedName::from_bytes(server_name(data)?),
            ALPN => inspected.alpn = application_protocols(data)?,
            ENCRYPTED_CLIENT_HELLO => inspected.ech = true,
            _ => {}
        }
        rest = after;
    }
    Ok(inspected)
}

/// Parses the message. Empty lists and bytes after the extensions (RFC 8446 §4.1.2), which `tls-parser` accepts, fail.
fn parse(body: &[u8]) -> HelloResult<TlsClientHelloContents<'_>> {
    let (rest, hello) =
        parse_tls_handshake_client_hello(body).map_err(|_| "the ClientHello is cut off or inconsistent")?;
    if !rest.is_empty() {
        return Err("bytes after the extensions");
    }
    if hello.version.0.to_be_bytes()[0] != records::MAJOR_VERSION {
        return Err("a ClientHello of another major version");
    }
    if hello.ciphers.is_empty() || hello.comp.is_empty() {
        return Err("no cipher suite or no compression method");
    }
    Ok(hello)
}

/// Returns the one name of a `server_name` extension (RFC 6066 §3: a list without two names of one type, and no type
/// but `host_name` was ever defined).
fn server_name(data: &[u8]) -> HelloResult<&[u8]> {
    let list = list(data).ok_or("the list of server names is empty or inconsistent")?;
    let Ok((rest, (kind, name))) = parse_tls_extension_sni_hostname(list) else {
        return Err("a server name is cut off");
    };
    if !rest.is_empty() {
        return Err("more than one server name");
    }
    if kind != SNIType::HostName {
        return Err("a server name that is not a host_name");
    }
    if name.is_empty() { Err("an empty server name") } else { Ok(name) }
}

/// Returns the printable names of an `application_layer_protocol_negotiation` extension, up to [`MAX_ALPN`] bytes. Not
/// by `tls-parser`, which collects up to 65,535 of them and ignores parse errors.
fn application_protocols(data: &[u8]) -> HelloResult<Box<str>> {
    let mut rest = list(data).ok_or("the list of application protocols is empty or inconsistent")?;
    let mut joined = String::new();
    let mut full = false;
    while let [length, after @ ..] = rest {
        let Some((name, after)) = after.split_at_checked(usize::from(*length)) else {
            return Err("an application protocol is cut off");
        };
        if name.is_empty() {
            return Err("an empty application protocol");
        }
        let comma = usize::from(!joined.is_empty());
        full |= joined.len() + comma + name.len() > MAX_ALPN;
        if !full && name.iter().all(|&b| b.is_ascii_graphic() && b != b',') {
            joined.extend((comma == 1).then_some(','));
            joined.extend(name.iter().map(|&b| char::from(b)));
        }
        rest = after;
    }
    Ok(joined.into())
}

/// Returns the contents after a two-byte length, if they are not empty and the length matches.
fn list(data: &[u8]) -> Option<&[u8]> {
    let (length, list) = data.split_first_chunk()?;
    (!list.is_empty() && list.len() == usize::from(u16::from_be_bytes(*length))).then_some(list)
}
