//! Properties of the follower of HTTP/1 connections.

use super::{AskedName, Hostname, HttpExchange, Remainder, Then};

/// Result of a connection.
#[derive(Debug, PartialEq)]
pub(crate) struct Followed<D> {
    /// The client's bytes that reached the server.
    pub(crate) passed: Vec<u8>,
    /// The names that were asked for and permitted.
    pub(crate) permitted: Vec<AskedName>,
    pub(crate) then: Then<D>,
    pub(crate) remainder: Remainder,
    /// The server took an upgrade.
    pub(crate) upgraded: bool,
}

/// Relays turns of the client and the server, the client's first, cut into pieces. Every name is permitted but for
/// those that start with `evil`.
pub(crate) fn exchange(turns: &[&[u8]], piece: usize, max_head: usize) -> Followed<()> {
    let mut exchange = HttpExchange::new(max_head);
    let mut permitted = Vec::new();
    let mut permit = |name: &AskedName| {
        if matches!(name, AskedName::Valid(name) if name.as_str().starts_with("evil")) {
            return Err(());
        }
        permitted.push(name.clone());
        Ok(())
    };
    let (mut passed, mut kept, mut then) = (Vec::new(), Vec::new(), Then::More);
    for (turn, bytes) in turns.iter().enumerate() {
        let mut pieces = bytes.chunks(piece).peekable();
        while let Some(bytes) = pieces.next() {
            if turn % 2 == 1 {
                let free = usize::try_from(exchange.free_down()).unwrap_or(usize::MAX);
                if free >= bytes.len() {
                    exchange.passed_down(bytes.len() as u64);
                } else {
                    exchange.server(bytes);
                }
                // What waits for an answer goes to the server once this turn is over, in whatever pieces it comes: what else
                // it says in the turn is no answer to that.
                if pieces.peek().is_some() {
                    continue;
                }
            } else {
                kept.extend_from_slice(bytes);
            }
            if !matches!(then, Then::More | Then::Wait) || kept.is_empty() {
                continue;
            }
            let free = usize::try_from(exchange.free_up()).unwrap_or(usize::MAX);
            let n = if free >= kept.len() {
                exchange.passed_up(kept.len() as u64);
                then = Then::More;
                kept.len()
            } else {
                let n;
                (n, then) = exchange.client(&mut kept, &mut permit);
                assert!(
                    n <= kept.len()
                        && (n == kept.len() || !matches!(then, Then::More) || kept.len() - n < max_head)
                );
                n
            };
            passed.extend(kept.drain(..n));
        }
    }
    let (remainder, upgraded) = (exchange.remainder(), exchange.free_up() == u64::MAX);
    Followed { passed, permitted, then, remainder, upgraded }
}

/// The forwarded bytes are, for a plain reader that takes nothing amiss, the permitted requests and no other.
pub(crate) fn no_other_request_passed(followed: &Followed<()>) {
    // Bytes outside ASCII may stand in a target, where httparse takes UTF-8 alone.
    let plain: Vec<u8> = followed.passed.iter().map(|&b| if b.is_ascii() { b } else { b'x' }).collect();
    let mut rest = plain.as_slice();
    let mut read = Vec::new();
    while !rest.is_empty() {
        let mut headers = [httparse::EMPTY_HEADER; 128];
        let mut request = httparse::Request::new(&mut headers);
        let head = match request.parse(rest) {
            Ok(httparse::Status::Complete(head)) => head,
            Ok(httparse::Status::Partial) => {
                assert!(rest.iter().all(|b| matches!(b, b'\r' | b'\n')), "the start of a head passed");
                break;
            }
            Err(error) => panic!("{error} in what passed: {}", rest.escape_ascii()),
        };
        let value =
            |name: &str| request.headers.iter().find(|h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value);
        for offer in request.headers.iter().filter(|h| h.name.eq_ignore_ascii_case("upgrade")) {
            let mut offered = offer.value.split(|&b| b == b',');
            assert!(offered.all(|word| word.trim_ascii().eq_ignore_ascii_case(b"websocket")));
        }
        read.push((value("host").map(<[u8]>::to_vec), request.path.unwrap_or_default().to_owned()));
        let (length, chunked) = (value("content-length"), value("transfer-encoding").is_some());
        rest = &rest[head..];
        if chunked {
            rest = after_chunks(rest);
        } else if let Some(length) = length {
            let length: usize = std::str::from_utf8(length).unwrap().parse().unwrap();
            rest = rest.get(length..).unwrap_or_default();
        }
        if followed.upgraded && read.len() == followed.permitted.len() {
            break; // anything may follow
        }
    }
    assert!(
        read.len() <= followed.permitted.len(),
        "{read:?} passed, permitted were {:?}",
        followed.permitted
    );
    for ((host, target), permitted) in read.iter().zip(&followed.permitted) {
        if let (Some(host), AskedName::Valid(permitted)) = (host, permitted) {
            let host = host.split(|&b| b == b':').next().unwrap_or_default();
            assert_eq!(Hostname::canonicalize(host).as_ref(), Ok(permitted), "to {target}");
        }
    }
}

/// Bytes after a chunked body, for a reader that skips what it need not know.
fn after_chunks(mut rest: &[u8]) -> &[u8] {
    loop {
        let Ok(httparse::Status::Complete((line, size))) = httparse::parse_chunk_size(rest) else {
            return &[];
        };
        rest = &rest[line..];
        if size == 0 {
            let mut trailers = [httparse::EMPTY_HEADER; 256];
            let (length, trailers) = match httparse::parse_headers(rest, &mut trailers) {
                Ok(httparse::Status::Complete(read)) => read,
                Ok(httparse::Status::Partial) => {
                    assert!(rest.is_empty(), "a part of the trailers passed");
                    return rest;
                }
                Err(error) => panic!("{error} in trailers that passed: {}", rest.escape_ascii()),
            };
            for forbidden in ["host", "content-length", "transfer-encoding", "content_length", "upgrade"] {
                assert!(
                    !trailers.iter().any(|t| t.name.eq_ignore_ascii_case(forbidden)),
                    "{forbidden} passed"
                );
            }
            return &rest[length..];
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX).saturating_add(2);
        rest = rest.get(size..).unwrap_or_default();
    }
}
