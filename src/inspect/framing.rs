//! Message framing (RFC 9112 §6). Ambiguous request framing is an error, because the body as one reader sees it is the
//! next request to another (request smuggling).

use httparse::Header;

/// Body framing of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// Nothing.
    Empty,
    /// Length in bytes, at least 1.
    Length(u64),
    /// Chunks, then trailers.
    Chunked,
    /// Delimited by end of file; responses only.
    UntilClose,
}

type FramingResult<T, E = &'static str> = Result<T, E>;

/// Returns the framing of a request's body, in HTTP/1.`minor`.
pub(super) fn of_request(method: &str, minor: u8, headers: &[Header<'_>]) -> FramingResult<Body> {
    if drops(headers, &FIELDS) {
        return Err("a Connection header that has proxies remove a header about the body");
    }
    let mut declared = Declared::Nothing;
    for header in headers {
        if resembles(header.name) {
            return Err("a header that some servers take for one about the body");
        }
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
    // RFC 9110 §9.3: such content has no meaning, and servers that do not expect it parse it as the next request.
    if body != Body::Empty && matches!(method, "GET" | "HEAD" | "TRACE") {
        return Err("a body where the method has none");
    }
    Ok(body)
}

/// Returns the framing of a response's body; `to_head`: the request's method was HEAD.
pub(super) fn of_answer(
    status: u16,
    to_head: bool,
    declared: FramingResult<Declared>,
) -> FramingResult<Body> {
    if to_head || matches!(status, 100..=199 | 204 | 304) {
        return Ok(Body::Empty);
    }
    Ok(match declared? {
        Declared::Length(length) => length,
        Declared::Coding(Coding::Chunked | Coding::ThenChunked) => Body::Chunked,
        Declared::Coding(Coding::Other) | Declared::Nothing => Body::UntilClose,
    })
}

/// Framing that the headers declare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Declared {
    Nothing,
    Length(Body),
    Coding(Coding),
}

/// Value of a Transfer-Encoding header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    /// `chunked` alone.
    Chunked,
    /// `chunked` after other codings.
    ThenChunked,
    Other,
}

const CONTENT_LENGTH: &str = "content-length";
const TRANSFER_ENCODING: &str = "transfer-encoding";

/// Fields that declare framing.
const FIELDS: [&str; 2] = [CONTENT_LENGTH, TRANSFER_ENCODING];

/// True if a field declares framing.
pub(super) fn declares(name: &[u8]) -> bool {
    FIELDS.iter().any(|field| name.eq_ignore_ascii_case(field.as_bytes()))
}

/// True if servers that pass fields on as variables (RFC 3875 §4.1.18) take a field for one that declares framing,
/// and others do not.
fn resembles(name: &str) -> bool {
    name.contains('_') && FIELDS.iter().any(|field| is_like(name.as_bytes(), field))
}

/// True if `Connection` lists one of these fields: a proxy before the server then removes it (RFC 9110 §7.6.1), and another
/// request reaches the server than was judged. Lenient readers may separate names by more than commas.
pub(super) fn drops(headers: &[Header<'_>], fields: &[&str]) -> bool {
    let mut lists = headers.iter().filter(|header| header.name.eq_ignore_ascii_case("connection"));
    lists.any(|list| {
        let mut names = list.value.split(|&b| !b.is_ascii_alphanumeric() && b != b'-' && b != b'_');
        names.any(|name| fields.iter().any(|field| is_like(name, field)))
    })
}

/// True if a name is that of the field, with `_` for `-` too.
fn is_like(name: &[u8], field: &str) -> bool {
    let is_same = |(a, b): (&u8, u8)| a.eq_ignore_ascii_case(&b) || (*a == b'_' && b == b'-');
    name.len() == field.len() && name.iter().zip(field.bytes()).all(is_same)
}

impl Declared {
    /// Adds one more header of a request, which must not repeat a declaration.
    pub(super) fn and(self, name: &[u8], value: &[u8]) -> FramingResult<Self> {
        let says = Self::of(name, value, length)?;
        match (self, says) {
            (Self::Nothing, says) => Ok(says),
            (Self::Length(_), Self::Length(_)) => Err("more than one Content-Length"),
            (Self::Coding(_), Self::Coding(_)) => Err("more than one Transfer-Encoding"),
            (declared, Self::Nothing) => Ok(declared),
            (Self::Length(_) | Self::Coding(_), _) => Err("both Content-Length and Transfer-Encoding"),
        }
    }

    /// Adds one more header of an answer, as clients do: a length may be repeated, chunks overrule it, and `identity` says
    /// nothing (RFC 9112 §6.3).
    pub(super) fn and_of_answer(self, name: &[u8], value: &[u8]) -> FramingResult<Self> {
        const CHUNKS: &[Coding] = &[Coding::Chunked, Coding::ThenChunked];
        if name.eq_ignore_ascii_case(TRANSFER_ENCODING.as_bytes())
            && value.trim_ascii().eq_ignore_ascii_case(b"identity")
        {
            return Ok(self);
        }
        match (self, Self::of(name, value, repeated_length)?) {
            (Self::Nothing, says) => Ok(says),
            (declared, Self::Nothing) => Ok(declared),
            (Self::Length(one), Self::Length(other)) if one != other => {
                Err("more than one Content-Length, and not the same")
            }
            (Self::Length(_), Self::Length(length)) => Ok(Self::Length(length)),
            (Self::Coding(_), Self::Coding(last)) => Ok(Self::Coding(last)),
            (Self::Length(_), Self::Coding(coding)) | (Self::Coding(coding), Self::Length(_))
                if CHUNKS.contains(&coding) =>
            {
                Ok(Self::Coding(coding))
            }
            (Self::Length(_) | Self::Coding(_), _) => Err("both Content-Length and Transfer-Encoding"),
        }
    }

    fn of(name: &[u8], value: &[u8], length: fn(&[u8]) -> FramingResult<Body>) -> FramingResult<Self> {
        let value = value.trim_ascii();
        Ok(if name.eq_ignore_ascii_case(CONTENT_LENGTH.as_bytes()) {
            Self::Length(length(value)?)
        } else if name.eq_ignore_ascii_case(TRANSFER_ENCODING.as_bytes()) {
            Self::Coding(Coding::of(value))
        } else {
            Self::Nothing
        })
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

/// Parses a length, of as many digits as fit any integer in which a server may store it.
fn length(value: &[u8]) -> FramingResult<Body> {
    if !(1..=18).contains(&value.len()) || !value.iter().all(u8::is_ascii_digit) {
        return Err("a Content-Length that is not a number");
    }
    Ok(match value.iter().fold(0, |length, digit| length * 10 + u64::from(digit - b'0')) {
        0 => Body::Empty,
        length => Body::Length(length),
    })
}

/// Parses a length that may be repeated, as by a server that joins headers of one name: `5, 5`.
fn repeated_length(value: &[u8]) -> FramingResult<Body> {
    let mut lengths = value.split(|&b| b == b',').map(|value| length(value.trim_ascii()));
    let first = length(value.split(|&b| b == b',').next().unwrap_or_default().trim_ascii())?;
    let same = lengths.all(|other| other == Ok(first));
    if same { Ok(first) } else { Err("more than one Content-Length, and not the same") }
}
