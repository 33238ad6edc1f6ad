//! Trailer section of a request (RFC 9112 §7.1.2). Some servers merge it into the headers, others parse it as the next
//! request; so only fields without effect pass, on lines that no server parses as a request line.

/// Maximum bytes of a section, with the empty line.
pub(super) const MAX_TRAILERS: usize = 8 * 1024;
const MAX_FIELDS: usize = 128;

/// Fields that a sender must not put in trailers (RFC 9110 §6.5.1): framing, connection, routing, authentication,
/// request modifiers. Also those that servers behind a proxy trust for the real client, host or target.
const FORBIDDEN: &[&str] = &[
    "authorization",
    "cache-control",
    "client-ip",
    "connection",
    "content-encoding",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "forwarded",
    "front-end-https",
    "host",
    "http2-settings",
    "keep-alive",
    "max-forwards",
    "method-override",
    "origin",
    "pragma",
    "proxy",
    "range",
    "referer",
    "sec-websocket-key",
    "te",
    "trailer",
    "transfer-encoding",
    "true-client-ip",
    "upgrade",
    "via",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-host",
    "x-http-host-override",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-host",
    "x-original-url",
    "x-real-ip",
    "x-remote-addr",
    "x-remote-ip",
    "x-rewrite-url",
];

/// Prefixes of forbidden fields: conditions, and fields that proxies add.
const FORBIDDEN_PREFIXES: &[&str] = &["if-", "proxy-", "x-forwarded", "x-proxy"];

/// Checks a complete section, with its empty line.
pub(super) fn check(section: &[u8]) -> Result<(), &'static str> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let fields = match httparse::parse_headers(section, &mut fields) {
        Ok(httparse::Status::Complete((length, fields))) if length == section.len() => fields,
        Err(httparse::Error::TooManyHeaders) => return Err("too many trailers"),
        Ok(_) | Err(_) => return Err("a trailer line is not `name: value`"),
    };
    for field in fields {
        if is_forbidden(field.name) {
            return Err("a trailer that belongs into the head");
        }
        // `Name: http://host/ HTTP/1.1`, to a server that accepts any word as a method. Servers also split a line at white
        // space outside ASCII, in Latin-1 or UTF-8.
        let mut words = field.value.rsplit(|byte| !byte.is_ascii_graphic());
        let last = words.find(|word| !word.is_empty()).unwrap_or_default();
        if last.first_chunk::<5>().is_some_and(|start| start.eq_ignore_ascii_case(b"HTTP/")) {
            return Err("a trailer that ends like a request line");
        }
    }
    Ok(())
}

/// True if a field is forbidden. `_` counts as `-`, because servers that pass fields on as variables map both to one
/// (RFC 3875 §4.1.18).
fn is_forbidden(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('_', "-");
    FORBIDDEN.contains(&&*name) || FORBIDDEN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harmless_trailers_pass() {
        for section in [
            "\r\n",
            "A: b\r\n\r\n",
            "Digest:x\r\nX-Checksum: \t y z \r\nEmpty:\r\n\r\n",
            "A: caf\u{e9}\r\n\r\n",
        ] {
            assert_eq!(check(section.as_bytes()), Ok(()), "{section:?}");
        }
    }

    #[test]
    fn malformed_trailers_are_refused() {
        for section in [
            "GET /evil HTTP/1.1\r\n\r\n",
            "xx\r\n\r\n",
            "A : b\r\n\r\n",
            ": b\r\n\r\n",
            "A: b\r\n c\r\n\r\n",
            " A: b\r\n\r\n",
            "A: b\rHost: c\r\n\r\n",
            "A: \0\r\n\r\n",
            "A\0: b\r\n\r\n",
            "A: \u{1}\r\n\r\n",
            "A: b\r\n\r\nC: d\r\n\r\n",
            "A: b\r\n",
        ] {
            assert_eq!(check(section.as_bytes()), Err("a trailer line is not `name: value`"), "{section:?}");
        }
        assert_eq!(check(format!("{}\r\n", "A: b\r\n".repeat(129)).as_bytes()), Err("too many trailers"));
    }

    #[test]
    fn significant_trailers_are_refused() {
        for name in FORBIDDEN.iter().chain(&[
            "If-Match",
            "Proxy-Authorization",
            "X-Forwarded-Host",
            "X_FORWARDED_FOR",
        ]) {
            for name in [(*name).to_owned(), name.to_ascii_uppercase(), name.replace('-', "_")] {
                let section = format!("Digest: x\r\n{name}: y\r\n\r\n");
                assert_eq!(check(section.as_bytes()), Err("a trailer that belongs into the head"), "{name}");
            }
        }
    }

    #[test]
    fn trailers_never_resemble_request_lines() {
        for value in [
            &b"/evil HTTP/1.1"[..],
            b"http://evil.example/ http/1.0 \t",
            b"/\tHTTP/1.1",
            b"HTTP/1.1",
            b"\xa0http://evil.example/\xa0HTTP/1.1",
            b"/evil HTTP/1.1\x85\xa0",
            b"/evil\x85HTTP/1.1 \xa0\t",
            "/evil\u{2003}HTTP/1.1\u{3000}".as_bytes(),
            "/evil\u{a0}HTTP/1.1".as_bytes(),
        ] {
            let section = [b"GET:", value, b"\r\n\r\n"].concat();
            let found = check(&section);
            assert_eq!(found, Err("a trailer that ends like a request line"), "{}", value.escape_ascii());
        }
    }
}
