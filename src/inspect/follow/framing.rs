//! Where a message ends (RFC 9112 §6). Of a request whatever two readers could see differently is an error, because
//! what one takes for its body is the next request for the other.

use httparse::Header;

/// What follows a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::inspect) enum Body {
    /// Nothing.
    Empty,
    /// So many bytes, at least one.
    Length(u64),
    /// Chunks and trailers.
    Chunked,
    /// All until the server finishes. Only an answer may have it.
    UntilClose,
}

type Result<T, E = &'static str> = std::result::Result<T, E>;

/// What follows a request's head, in HTTP/1.`minor`.
pub(in crate::inspect) fn of_request(method: &str, minor: u8, headers: &[Header<'_>]) -> Result<Body> {
    let body = match declared(headers)? {
        Declared::Nothing => return Ok(Body::Empty),
        Declared::Length(length) => length,
        Declared::Coding(_) if minor == 0 => return Err("a Transfer-Encoding in HTTP/1.0"),
        Declared::Coding(coding) if coding.eq_ignore_ascii_case(b"chunked") => Body::Chunked,
        Declared::Coding(_) => return Err("a Transfer-Encoding that is not `chunked` alone"),
    };
    // RFC 9110 §9.3: such content has no meaning, and servers that do not expect it take it for the next request.
    if body != Body::Empty && matches!(method, "GET" | "HEAD" | "TRACE") {
        return Err("a body where the method has none");
    }
    Ok(body)
}

/// What follows an answer's head; `to_head`: to a HEAD request.
pub(super) fn of_answer(status: u16, to_head: bool, headers: &[Header<'_>]) -> Result<Body> {
    if to_head || matches!(status, 100..=199 | 204 | 304) {
        return Ok(Body::Empty);
    }
    Ok(match declared(headers)? {
        Declared::Length(length) => length,
        Declared::Coding(coding) => match coding.rsplit(|&b| b == b',').next() {
            Some(last) if last.trim_ascii().eq_ignore_ascii_case(b"chunked") => Body::Chunked,
            Some(_) | None => Body::UntilClose,
        },
        Declared::Nothing => Body::UntilClose,
    })
}

enum Declared<'a> {
    Nothing,
    Length(Body),
    Coding(&'a [u8]),
}

/// What the headers say of the body, if they say it once.
fn declared<'a>(headers: &[Header<'a>]) -> Result<Declared<'a>> {
    let mut declared = Declared::Nothing;
    for header in headers {
        let says = if header.name.eq_ignore_ascii_case("content-length") {
            Declared::Length(length(header.value.trim_ascii())?)
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            Declared::Coding(header.value.trim_ascii())
        } else {
            continue;
        };
        declared = match (declared, says) {
            (Declared::Nothing, says) => says,
            (Declared::Length(_), Declared::Length(_)) => return Err("more than one Content-Length"),
            (Declared::Coding(_), Declared::Coding(_)) => return Err("more than one Transfer-Encoding"),
            _ => return Err("both Content-Length and Transfer-Encoding"),
        };
    }
    Ok(declared)
}

/// Digits, as many as fit any integer that a server may keep the length in.
fn length(value: &[u8]) -> Result<Body> {
    if !(1..=18).contains(&value.len()) || !value.iter().all(u8::is_ascii_digit) {
        return Err("a Content-Length that is not a number");
    }
    Ok(match value.iter().fold(0, |length, digit| length * 10 + u64::from(digit - b'0')) {
        0 => Body::Empty,
        length => Body::Length(length),
    })
}
