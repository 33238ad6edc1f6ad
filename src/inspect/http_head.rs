//! What an HTTP/1 request head asks for: the one host that every reader of it would agree on (RFC 9112).

use super::authority::Authority;
use super::follow::framing::{self, Body};
use super::{Inspected, Malformed, Protocol, Verdict};
use crate::hostname::AskedName;
use httparse::Header;
use std::io::BufRead;

/// Headers of one request. Servers commonly stop at 100.
const MAX_HEADERS: usize = 128;

/// Methods by which a reader knows what follows the head of a request or its answer.
const FRAMING_METHODS: [&str; 4] = ["GET", "HEAD", "TRACE", "CONNECT"];

type Result<T, E = &'static str> = std::result::Result<T, E>;

/// Judges bytes that start with a method and a space, at most `max` of them.
pub(super) fn inspect(bytes: &[u8], max: usize) -> Verdict {
    match read(bytes) {
        Ok(Some(request)) => Verdict::Done(Inspected {
            name: request.name,
            unframed: request.body.err(),
            ..Inspected::nothing(Protocol::Http)
        }),
        // One byte can end the head, or spoil it.
        Ok(None) if bytes.len() < max => Verdict::NeedMore { at_least: bytes.len() + 1 },
        Ok(None) => Verdict::TooLarge(Protocol::Http),
        Err(reason) => Verdict::Malformed(Malformed { protocol: Protocol::Http, reason }),
    }
}

/// A whole request head.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) name: AskedName,
    /// What follows it, or why that is not clear.
    pub(super) body: Result<Body>,
    /// Whether the method is HEAD, whose answer has no body whatever its headers say.
    pub(super) by_head: bool,
    pub(super) upgrade: Upgrade,
}

/// Which protocol a client offers to go on with (RFC 9110 §7.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Upgrade {
    No,
    /// HTTP/2, whose requests nobody would judge; clients offer it that do not depend on it.
    Http2,
    Other,
}

/// `None` until the head is whole. The request line is judged as soon as it is, so that a client that speaks
/// something else and waits for an answer gets one.
pub(super) fn read(bytes: &[u8]) -> Result<Option<Request>> {
    let Some((line, rest)) = split_line(bytes)? else { return Ok(None) };
    let line = request_line(line)?;
    let Some(fields) = header_section(rest)? else { return Ok(None) };
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let headers = match httparse::parse_headers(fields, &mut headers) {
        Ok(httparse::Status::Complete((length, headers))) if length == fields.len() => headers,
        Ok(_) | Err(_) => return Err("a header line is not `name: value`"),
    };
    let name = match (line.target, host(headers)?) {
        (None, None) => AskedName::Absent,
        (Some(one), None) | (None, Some(one)) => one.into_name(),
        // RFC 9112 §3.2.2 has the target win. A server that goes by Host instead must not reach another name.
        (Some(target), Some(host)) if target.agrees_with(&host) => target.into_name(),
        (Some(_), Some(_)) => return Err("the target and the Host header disagree"),
    };
    let body = framing::of_request(line.method, line.minor, headers);
    Ok(Some(Request { name, body, by_head: line.method == "HEAD", upgrade: upgrade(headers) }))
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

struct RequestLine<'a> {
    method: &'a str,
    /// The authority, if the target is in absolute form.
    target: Option<Authority<'a>>,
    /// Of HTTP/1.
    minor: u8,
}

fn request_line(line: &[u8]) -> Result<RequestLine<'_>> {
    match line {
        b"\r\n" => return Err("an empty line instead of a request"),
        b"PRI * HTTP/2.0\r\n" => return Err("HTTP/2 without TLS"),
        _ => {}
    }
    let mut request = httparse::Request::new(&mut []);
    match request.parse(line) {
        Ok(_) => {}
        Err(httparse::Error::Version) => return Err("the version is not HTTP/1.0 or HTTP/1.1"),
        Err(_) => return Err("the request line is not one of HTTP/1"),
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return Err("the request line is not one of HTTP/1");
    };
    // Methods are told apart by case (RFC 9110 §9.1), but not by every server; what follows these depends on it.
    if FRAMING_METHODS.iter().any(|known| known.eq_ignore_ascii_case(method) && *known != method) {
        return Err("a method that some servers take for another");
    }
    let target = match (method, target) {
        ("CONNECT", _) => return Err("CONNECT is for forward proxies"),
        ("OPTIONS", "*") => None,
        (_, target) if target.starts_with('/') => None,
        (_, target) => Some(absolute(target)?),
    };
    Ok(RequestLine { method, target, minor })
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
fn host<'a>(headers: &[Header<'a>]) -> Result<Option<Authority<'a>>> {
    let mut hosts = headers.iter().filter(|header| header.name.eq_ignore_ascii_case("host"));
    let Some(host) = hosts.next() else { return Ok(None) };
    if hosts.next().is_some() {
        return Err("more than one Host header");
    }
    Authority::parse(host.value).map(Some)
}

/// A server may take any of the protocols offered, so one that is HTTP/2 counts.
fn upgrade(headers: &[Header<'_>]) -> Upgrade {
    let mut upgrade = Upgrade::No;
    for header in headers.iter().filter(|header| header.name.eq_ignore_ascii_case("upgrade")) {
        let mut offered = header.value.split(|&b| b == b',').map(<[u8]>::trim_ascii);
        if offered.any(|protocol| protocol.get(..2).is_some_and(|start| start.eq_ignore_ascii_case(b"h2"))) {
            return Upgrade::Http2;
        }
        upgrade = Upgrade::Other;
    }
    upgrade
}
