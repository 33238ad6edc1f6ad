//! What an HTTP/1 request head asks for: the one host that every reader of it would agree on (RFC 9112).

use super::authority::Authority;
use super::{Inspected, Malformed, Protocol, Verdict};
use crate::hostname::AskedName;
use std::io::BufRead;

/// Headers of one request. Servers commonly stop at 100.
const MAX_HEADERS: usize = 128;

type Result<T, E = &'static str> = std::result::Result<T, E>;

/// Judges bytes that start with a method and a space, at most `max` of them.
pub(super) fn inspect(bytes: &[u8], max: usize) -> Verdict {
    match read(bytes) {
        Ok(Some(name)) => {
            Verdict::Done(Inspected { protocol: Protocol::Http, name, alpn: Box::default(), ech: false })
        }
        // One byte can end the head, or spoil it.
        Ok(None) if bytes.len() < max => Verdict::NeedMore { at_least: bytes.len() + 1 },
        Ok(None) => Verdict::TooLarge(Protocol::Http),
        Err(reason) => Verdict::Malformed(Malformed { protocol: Protocol::Http, reason }),
    }
}

/// `None` until the head is whole. The request line is judged as soon as it is, so that a client that speaks
/// something else and waits for an answer gets one.
fn read(bytes: &[u8]) -> Result<Option<AskedName>> {
    let Some((line, rest)) = split_line(bytes)? else { return Ok(None) };
    let target = request_line(line)?;
    let Some(fields) = header_section(rest)? else { return Ok(None) };
    let host = host(fields)?;
    let asked = match (target, host) {
        (None, None) => return Ok(Some(AskedName::Absent)),
        (Some(one), None) | (None, Some(one)) => one,
        // RFC 9112 §3.2.2 has the target win. A server that goes by Host instead must not reach another name.
        (Some(target), Some(host)) if target.agrees_with(&host) => target,
        (Some(_), Some(_)) => return Err("the target and the Host header disagree"),
    };
    Ok(Some(asked.into_name()))
}

/// The first line with its CRLF, and the rest. RFC 9112 §2.2 lets a server take a lone LF for a line end; readers
/// that do and readers that do not would see different headers.
fn split_line(bytes: &[u8]) -> Result<Option<(&[u8], &[u8])>> {
    // The fast search for a byte that std has; reading from a slice cannot fail.
    let end = (&mut &*bytes).skip_until(b'\n').unwrap_or(0);
    let (line, rest) = bytes.split_at(end);
    match line {
        [.., b'\r', b'\n'] => Ok(Some((line, rest))),
        [.., b'\n'] => Err("a line that ends in LF alone"),
        _ => Ok(None),
    }
}

/// The authority in the request line, if the target is in absolute form.
fn request_line(line: &[u8]) -> Result<Option<Authority<'_>>> {
    if line == b"PRI * HTTP/2.0\r\n" {
        return Err("HTTP/2 without TLS");
    }
    let mut request = httparse::Request::new(&mut []);
    match request.parse(line) {
        Ok(_) => {}
        Err(httparse::Error::Version) => return Err("the version is not HTTP/1.0 or HTTP/1.1"),
        Err(_) => return Err("the request line is not one of HTTP/1"),
    }
    let (Some(method), Some(target)) = (request.method, request.path) else {
        return Err("the request line is not one of HTTP/1");
    };
    match (method, target) {
        ("CONNECT", _) => Err("CONNECT is for forward proxies"),
        ("OPTIONS", "*") => Ok(None),
        (_, target) if target.starts_with('/') => Ok(None),
        (_, target) => absolute(target).map(Some),
    }
}

/// The authority of `http://authority/…`. Its end is where RFC 3986 §3.2 puts it.
fn absolute(target: &str) -> Result<Authority<'_>> {
    let (scheme, rest) = target.split_once("://").ok_or("the target is neither a path nor a URL")?;
    if !scheme.eq_ignore_ascii_case("http") {
        return Err("the target's scheme is not http");
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let authority = Authority::parse(&rest.as_bytes()[..end])?;
    if authority.is_hostless() { Err("the target has no host") } else { Ok(authority) }
}

/// The header lines and the empty line that ends them; `None` until that is there.
fn header_section(bytes: &[u8]) -> Result<Option<&[u8]>> {
    let mut rest = bytes;
    for _ in 0..=MAX_HEADERS {
        let Some((line, after)) = split_line(rest)? else { return Ok(None) };
        match line {
            b"\r\n" => return Ok(Some(&bytes[..bytes.len() - after.len()])),
            // RFC 9112 §5.2: a continuation that some readers join and others do not.
            [b' ' | b'\t', ..] => return Err("a folded header line"),
            _ => rest = after,
        }
    }
    Err("too many headers")
}

/// The value of the one Host header.
fn host(section: &[u8]) -> Result<Option<Authority<'_>>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let headers = match httparse::parse_headers(section, &mut headers) {
        Ok(httparse::Status::Complete((length, headers))) if length == section.len() => headers,
        Ok(_) | Err(_) => return Err("a header line is not `name: value`"),
    };
    let mut hosts = headers.iter().filter(|header| header.name.eq_ignore_ascii_case("host"));
    let Some(host) = hosts.next() else { return Ok(None) };
    if hosts.next().is_some() {
        return Err("more than one Host header");
    }
    Authority::parse(host.value).map(Some)
}
