//! Parser of the HTTP/1 request head (RFC 9112): returns the host only if every reader would agree on it.

use super::authority::Authority;
use super::framing::{self, Body};
use super::protocol_detect::is_token;
use super::upgrade::Upgrade;
use super::{Inspected, Malformed, ParseProgress, Protocol};
use crate::hostname::AskedName;
use httparse::Header;
use std::io::BufRead;

/// Maximum number of headers in one request. Servers commonly stop at 100.
const MAX_HEADERS: usize = 128;

/// Methods that affect the framing of the request or of its response.
const FRAMING_METHODS: [&str; 4] = ["GET", "HEAD", "TRACE", "CONNECT"];

type HeadResult<T, E = &'static str> = Result<T, E>;

/// Inspects at most `max` bytes that start with a method and a space.
pub(super) fn inspect(bytes: &[u8], max: usize) -> ParseProgress {
    match read(bytes) {
        Ok(Some(request)) => ParseProgress::Done(Inspected {
            name: request.name,
            unframed: request.body.err().or(request.upgrade.err()),
            ..Inspected::nothing(Protocol::Http)
        }),
        // A single byte can complete or invalidate the head.
        Ok(None) if bytes.len() < max => ParseProgress::NeedMore { at_least: bytes.len() + 1 },
        Ok(None) => ParseProgress::TooLarge(Protocol::Http),
        Err(reason) => ParseProgress::Malformed(Malformed { protocol: Protocol::Http, reason }),
    }
}

/// A whole request head.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) name: AskedName,
    /// Body framing, or why it is ambiguous.
    pub(super) body: HeadResult<Body>,
    /// True if the method is HEAD, whose response has no body whatever its headers declare.
    pub(super) by_head: bool,
    /// Upgrade offered, or why the offer is refused.
    pub(super) upgrade: HeadResult<Upgrade>,
    /// True if the connection ends with its response (RFC 9112 §9.3): it says `Connection: close`, or is HTTP/1.0 without
    /// `keep-alive`.
    pub(super) is_last: bool,
}

/// Parses a head; `None` until it is complete. The request line is judged as soon as it is complete, so that a client
/// of another protocol that waits for an answer gets one.
pub(super) fn read(bytes: &[u8]) -> HeadResult<Option<Request>> {
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
        // RFC 9112 §3.2.2: the target takes precedence. A server that uses Host instead must not reach another name.
        (Some(target), Some(host)) if target.agrees_with(&host) => target.into_name(),
        (Some(_), Some(_)) => return Err("the target and the Host header disagree"),
    };
    let body = framing::of_request(line.method, line.minor, headers);
    let is_last = has_option(headers, "close") || (line.minor == 0 && !has_option(headers, "keep-alive"));
    Ok(Some(Request { name, body, by_head: line.method == "HEAD", upgrade: Upgrade::of(headers), is_last }))
}

/// Splits off the first line with its CRLF. A lone LF is an error: RFC 9112 §2.2 lets a server accept it as a line end,
/// so readers would disagree on the headers.
fn split_line(bytes: &[u8]) -> HeadResult<Option<(&[u8], &[u8])>> {
    // std's fast byte search; reading from a slice cannot fail.
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
    /// Authority of a target in absolute form.
    target: Option<Authority<'a>>,
    /// Minor version of HTTP/1.
    minor: u8,
}

fn request_line(line: &[u8]) -> HeadResult<RequestLine<'_>> {
    const NOT_ONE: &str = "the request line is not one of HTTP/1";
    let line = line.strip_suffix(b"\r\n").unwrap_or(line);
    match line {
        b"" => return Err("an empty line instead of a request"),
        b"PRI * HTTP/2.0" => return Err("HTTP/2 without TLS"),
        _ => {}
    }
    let mut words = line.split(|&b| b == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(NOT_ONE);
    };
    let method = std::str::from_utf8(method).map_err(|_| NOT_ONE)?;
    // Bytes outside ASCII are invalid in a URI (RFC 3986), but servers accept them.
    if method.is_empty()
        || !method.bytes().all(is_token)
        || target.is_empty()
        || target.iter().any(u8::is_ascii_control)
    {
        return Err(NOT_ONE);
    }
    let minor = match version {
        b"HTTP/1.1" => 1,
        b"HTTP/1.0" => 0,
        _ if version.iter().any(u8::is_ascii_control) => return Err(NOT_ONE),
        _ => return Err("the version is not HTTP/1.0 or HTTP/1.1"),
    };
    // Methods are case-sensitive (RFC 9110 §9.1), but not in every server, and these affect the framing.
    if FRAMING_METHODS.iter().any(|known| known.eq_ignore_ascii_case(method) && *known != method) {
        return Err("a method that some servers take for another");
    }
    let target = match (method, target) {
        ("CONNECT", _) => return Err("CONNECT is for forward proxies"),
        ("OPTIONS", b"*") | (_, [b'/', ..]) => None,
        (_, target) => Some(absolute(target)?),
    };
    Ok(RequestLine { method, target, minor })
}

/// Returns the authority of `http://authority/…`, delimited by RFC 3986 §3.2.
fn absolute(target: &[u8]) -> HeadResult<Authority<'_>> {
    let scheme =
        target.windows(3).position(|w| w == b"://").ok_or("the target is neither a path nor a URL")?;
    let (scheme, rest) = (&target[..scheme], &target[scheme + 3..]);
    if !scheme.eq_ignore_ascii_case(b"http") {
        return Err("the target's scheme is not http");
    }
    let end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
    let authority = Authority::parse(&rest[..end])?;
    if authority.is_hostless() { Err("the target has no host") } else { Ok(authority) }
}

/// Returns the header lines with the empty line that ends them; `None` until it is there.
fn header_section(bytes: &[u8]) -> HeadResult<Option<&[u8]>> {
    let mut rest = bytes;
    for _ in 0..=MAX_HEADERS {
        let Some((line, after)) = split_line(rest)? else { return Ok(None) };
        match line {
            b"\r\n" => return Ok(Some(&bytes[..bytes.len() - after.len()])),
            // RFC 9112 §5.2: a folded line, which some readers unfold and others do not.
            [b' ' | b'\t', ..] => return Err("a folded header line"),
            _ => rest = after,
        }
    }
    Err("too many headers")
}

/// Returns the value of the only Host header.
fn host<'a>(headers: &[Header<'a>]) -> HeadResult<Option<Authority<'a>>> {
    let mut hosts = headers.iter().filter(|header| header.name.eq_ignore_ascii_case("host"));
    let Some(host) = hosts.next() else { return Ok(None) };
    if hosts.next().is_some() {
        return Err("more than one Host header");
    }
    if framing::drops(headers, &["host"]) {
        return Err("a Connection header that has proxies remove the Host header");
    }
    Authority::parse(host.value).map(Some)
}

/// True if `Connection` lists the option.
fn has_option(headers: &[Header<'_>], option: &str) -> bool {
    let mut options = headers.iter().filter(|header| header.name.eq_ignore_ascii_case("connection"));
    options.any(|header| {
        header.value.split(|&b| b == b',').any(|one| one.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
    })
}
