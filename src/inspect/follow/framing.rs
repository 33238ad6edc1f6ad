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
    let mut declared = Declared::Nothing;
    for header in headers {
        declared = declared.and(header.name.as_bytes(), header.value)?;
    }
    let body = match declared {
        Declared::Nothing => return Ok(Body::Empty),
        Declared::Length(length) => length,
        Declared::Coding(_) if minor == 0 => return Err("a Transfer-Encoding in HTTP/1.0"),
        Declared::Coding(Coding::Chunked) => Body::Chunked,
        Declared::Coding(Coding::ThenChunked | Coding::Other) => {
            return Err("a Transfer-Encoding that is not `chunked` alone");
        }
    };
    // RFC 9110 §9.3: such content has no meaning, and servers that do not expect it take it for the next request.
    if body != Body::Empty && matches!(method, "GET" | "HEAD" | "TRACE") {
        return Err("a body where the method has none");
    }
    Ok(body)
}

/// What follows an answer's head; `to_head`: to a HEAD request.
pub(super) fn of_answer(status: u16, to_head: bool, declared: Result<Declared>) -> Result<Body> {
    if to_head || matches!(status, 100..=199 | 204 | 304) {
        return Ok(Body::Empty);
    }
    Ok(match declared? {
        Declared::Length(length) => length,
        Declared::Coding(Coding::Chunked | Coding::ThenChunked) => Body::Chunked,
        Declared::Coding(Coding::Other) | Declared::Nothing => Body::UntilClose,
    })
}

/// What headers say of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Declared {
    Nothing,
    Length(Body),
    Coding(Coding),
}

/// The value of a Transfer-Encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    /// `chunked` alone.
    Chunked,
    /// `chunked` after others.
    ThenChunked,
    Other,
}

const CONTENT_LENGTH: &str = "content-length";
const TRANSFER_ENCODING: &str = "transfer-encoding";

/// Whether a field says anything of the body.
pub(super) fn declares(name: &[u8]) -> bool {
    [CONTENT_LENGTH, TRANSFER_ENCODING].iter().any(|field| name.eq_ignore_ascii_case(field.as_bytes()))
}

impl Declared {
    /// With one more header, which must not say it a second time.
    pub(super) fn and(self, name: &[u8], value: &[u8]) -> Result<Self> {
        let value = value.trim_ascii();
        let says = if name.eq_ignore_ascii_case(CONTENT_LENGTH.as_bytes()) {
            Self::Length(length(value)?)
        } else if name.eq_ignore_ascii_case(TRANSFER_ENCODING.as_bytes()) {
            Self::Coding(Coding::of(value))
        } else {
            return Ok(self);
        };
        match (self, says) {
            (Self::Nothing, says) => Ok(says),
            (Self::Length(_), Self::Length(_)) => Err("more than one Content-Length"),
            (Self::Coding(_), Self::Coding(_)) => Err("more than one Transfer-Encoding"),
            (Self::Length(_) | Self::Coding(_), _) => Err("both Content-Length and Transfer-Encoding"),
        }
    }
}

impl Coding {
    fn of(value: &[u8]) -> Self {
        let last = value.rsplit(|&b| b == b',').next().unwrap_or_default();
        match last.trim_ascii().eq_ignore_ascii_case(b"chunked") {
            true if last.len() == value.len() => Self::Chunked,
            true => Self::ThenChunked,
            false => Self::Other,
        }
    }
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
