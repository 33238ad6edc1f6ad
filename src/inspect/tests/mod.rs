//! Tests of the room as a whole.

mod answers;
mod checks;
mod exchange;
mod hello;
mod hellos;
mod http;
mod seeds;
mod tls;

use super::{
    Changed, Hellos, HttpExchange, Inspected, Malformed, ParseProgress, Protocol, Remainder, Then, Unclear,
    inspect,
};
use crate::hostname::{AskedName, Hostname};
use proptest::prelude::*;
use std::fmt::Debug;

/// The gateway's default bound.
const MAX: usize = 64 * 1024;

fn verdict(bytes: &[u8]) -> ParseProgress {
    checks::stable_verdict(bytes, MAX)
}

/// The result of a relayed connection does not depend on how the bytes are split.
fn same_in_any_pieces<T: PartialEq + Debug>(relay: impl Fn(usize) -> T) -> T {
    let whole = relay(usize::MAX);
    for piece in [1, 2, 7, 100, 16 * 1024] {
        assert_eq!(relay(piece), whole, "pieces of {piece}");
    }
    whole
}

fn reason(bytes: &[u8]) -> &'static str {
    let verdict = verdict(bytes);
    let ParseProgress::Malformed(Malformed { reason, .. }) = verdict else {
        panic!("{verdict:?}: {}", bytes.escape_ascii());
    };
    reason
}

fn name(name: &str) -> AskedName {
    AskedName::Valid(name.parse().unwrap())
}

/// Asserts that every prefix needs more bytes, and only the whole yields a result.
fn assert_split_at_every_byte(bytes: &[u8], max: usize) {
    let mut scratch = Vec::new();
    let whole = inspect(bytes, max, &mut scratch);
    assert!(matches!(whole, ParseProgress::Done(_)), "{whole:?}");
    for length in 0..bytes.len() {
        let verdict = inspect(&bytes[..length], max, &mut scratch);
        let ParseProgress::NeedMore { at_least } = verdict else {
            panic!("{length} of {}: {verdict:?}", bytes.len());
        };
        assert!(length < at_least && at_least <= bytes.len());
    }
}

#[test]
fn other_protocol_is_known_by_first_bytes() {
    let ssl_request = [0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f];
    let sslv2_hello = [0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10];
    let long_word = [&[b'A'; 400][..], b"("].concat();
    let cases: &[(&[u8], usize)] = &[
        (b"SSH-2.0-OpenSSH_9.6\r\n", 21),
        (b"SSH-2.0-OpenSSH_9.6 Debian\r\n", 28),
        (b"0032git-upload-pack /project\0host=example.com\0", 29),
        (&ssl_request, 1),
        (&sslv2_hello, 1),
        (b"\x15\x03\x01\x00\x02\x03\x28", 6),
        (b"\x15\x01\x00\x00\x02\x00\x00\x00", 6), // MongoDB: a length of 277
        (b"\x16\x01\x00\x00\x01\x00\x00\x00", 6),
        (b"\x16\x10\x00\x00\x2e", 2),
        (b"\x17\x03\x03\x00\x02\x01", 6),
        (b"\x14\x03\x00\x00\x01\x00\x00\x00", 6), // MongoDB: a length of 788
        (b"\x18\x03\x00\x00\x13\x01\x00\x00", 6),
        (b"\x14\x10\x00\x00\x01\x01", 2),
        (b"get key\r\n", 9),
        (b"57 <34>1 2026-01-01T00:00:00Z host app - - - no end of line", 4), // RFC 6587
        (b"get / HTTP/1.1\0\r\n", 15),
        (b"GET/ HTTP/1.1\r\n", 4),
        (b"\r\n\r\n\0\r\nQUIT\n", 5),
        (b"\r\nget\r\n", 7),
        (b"*1\r\n$4\r\nPING\r\n", 1),
        (b"PING\r\n", 6),
        (b"\0", 1),
        (b"\x0b\x0c\0", 3),
        (b"\nA\x0b\x01", 4),
        (b"\x0cQUIT\r\n", 7),
        (b"{\"id\": 1", 1),
        (&long_word, 401),
    ];
    for (bytes, decisive) in cases {
        let ParseProgress::Done(inspected) = verdict(bytes) else { panic!("{}", bytes.escape_ascii()) };
        assert_eq!((inspected.protocol, inspected.name), (Protocol::Other, AskedName::Unread));
        for length in 0..*decisive {
            assert_eq!(verdict(&bytes[..length]), ParseProgress::NeedMore { at_least: length + 1 });
        }
    }
}

/// Under a rule by address, a name in these would pass where a rule denies it.
#[test]
fn lenient_tls_and_http_are_recognised() {
    let hello = hello::Hello::to("api.example.com").record();
    let with_version = |major| [&[22, major], &hello[2..]].concat();
    for first in [with_version(0), with_version(4), with_version(15)] {
        assert_eq!(reason(&first), "a record of another major version");
    }
    for alert in [b"\x15\x03\x01\x00\x02\x01\x00", b"\x15\x0f\x01\x00\x02\x02\x70"] {
        let first = [&alert[..], &hello].concat();
        assert_eq!(reason(&first), "another record before the ClientHello is whole");
    }
    for record in [
        &b"\x14\x03\x01\x00\x00"[..],
        b"\x14\x03\x01\x00\x01\x01",
        b"\x14\x02\x00\x00\x01\x01",
        b"\x15\x03\x03\x00\x00",
        b"\x15\x03\x03\x00\x01\x01\x15\x03\x03\x00\x01\x00",
        b"\x15\x03\x03\x00\x04\x01\x00\x01\x00",
        b"\x17\x03\x03\x00\x00",
        b"\x18\x03\x03\x00\x00",
        b"\x18\x03\x03\x00\x13\x01\x00\x00xxxxxxxxxxxxxxxx",
    ] {
        for twice in [record.to_vec(), record.repeat(2)] {
            let first = [&twice[..], &hello].concat();
            assert_eq!(reason(&first), "another record before the ClientHello is whole");
        }
    }
    let empty = [b"\x16\x03\x01\x00\x00", &hello[..]].concat();
    assert_eq!(reason(&empty), "a handshake record without content");
    for empty in ["\r\n", "\n", "\r\n\r\n\r\n"] {
        let first = format!("{empty}GET / HTTP/1.1\r\nHost: api.example.com\r\n\r\n");
        reason(first.as_bytes());
        reason(first.replace("GET", "get").as_bytes());
    }
    let long = "X".repeat(300);
    for method in ["patch", "Post", "p0st", "*", &long] {
        let first = format!("{method} / HTTP/1.1\r\nHost: api.example.com\r\n\r\n");
        let ParseProgress::Done(inspected) = verdict(first.as_bytes()) else { panic!("{first}") };
        assert_eq!(
            (inspected.protocol, inspected.name),
            (Protocol::Http, name("api.example.com")),
            "{first}"
        );
        for (lenient, why) in [("/ http/1.1", "version"), ("/\tHTTP/1.1 \t", "request line")] {
            assert!(reason(first.replace("/ HTTP/1.1", lenient).as_bytes()).contains(why));
        }
    }
    // Python treats as white space what `str.split` does, needs no version after GET, and parses the headers all the
    // same.
    for line in [
        &b" GET / HTTP/1.1"[..],
        b"\tget / HTTP/1.1",
        b"\xa0GET / HTTP/1.1",
        b" \r\n\x0bGET / HTTP/1.1",
        b"\x85POST\x1c/\x0cHTTP/1.1",
        b"POST\x1f?\x01 HTTP/1.1",
        b"PUT\r/\rHTTP/1.1",
        b"put\r/\rHTTP/1.1",
        b"a\x0b/ HTTP/1.1\x0b",
        b"GET\xa0\x01",
        b"GET\t/",
        b" GET /",
    ] {
        let first = [line, b"\r\nHost: api.example.com\r\n\r\n"].concat();
        let ParseProgress::Malformed(Malformed { protocol: Protocol::Http, .. }) = verdict(&first) else {
            panic!("{}", first.escape_ascii())
        };
    }
    for method in ["get", "Head", "TRACe", "connect"] {
        let first = format!("{method} / HTTP/1.1\r\nHost: api.example.com\r\n\r\n");
        assert_eq!(reason(first.as_bytes()), "a method that some servers take for another");
    }
}

#[test]
fn bound_of_a_few_bytes_is_kept() {
    for max in 0..20 {
        for bytes in [&b""[..], b"G", b"GET / HTTP/1.1\r\n\r\n", &[22, 3, 1, 0, 60, 1, 0, 0, 56, 3, 3]] {
            let verdict = checks::stable_verdict(bytes, max);
            assert!(!matches!(verdict, ParseProgress::Malformed(_)), "{verdict:?}");
        }
    }
    assert_eq!(checks::stable_verdict(b"GE", 2), ParseProgress::TooLarge(Protocol::Other));
    assert_eq!(checks::stable_verdict(b"GET ", 4), ParseProgress::TooLarge(Protocol::Http));
}

proptest! {
    #[test]
    fn verdict_is_stable_for_any_bytes(
        start in prop::sample::select(vec![&b""[..], b"\x16\x03\x01", b"\x16\x03\x01\x00\x01\x01", b"\x16\x04", b"\x15\x03\x01\x00\x02", b"\x14\x03\x01\x00", b"\x18\x03\x03", b"\r\n", b"\x0b", b"get ", b"get\r", b"GET ", b"GET\x1c", b"GET / HTTP/1.1\r\n"]),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        max in 0_usize..300,
    ) {
        let bytes = [start, &bytes].concat();
        checks::stable_verdict(&bytes, max);
    }
}
