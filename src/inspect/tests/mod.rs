//! Tests of the room as a whole.

mod exchange;
#[path = "../../../fuzz/followers.rs"]
mod followers;
mod hello;
mod hellos;
mod http;
#[path = "../../../fuzz/invariants.rs"]
mod invariants;
mod seeds;
mod tls;

use super::{
    Changed, Exchange, Hellos, Inspected, Malformed, Protocol, Remainder, Then, Unclear, Verdict, inspect,
};
use crate::hostname::{AskedName, Hostname};
use proptest::prelude::*;

/// The bound that the gateway uses unless told otherwise.
const MAX: usize = 64 * 1024;

fn verdict(bytes: &[u8]) -> Verdict {
    invariants::stable_verdict(bytes, MAX)
}

fn reason(bytes: &[u8]) -> &'static str {
    let verdict = verdict(bytes);
    let Verdict::Malformed(Malformed { reason, .. }) = verdict else {
        panic!("{verdict:?}: {}", bytes.escape_ascii());
    };
    reason
}

fn name(name: &str) -> AskedName {
    AskedName::Valid(name.parse().unwrap())
}

/// Every first part is waited on, and only the whole yields something.
fn assert_split_at_every_byte(bytes: &[u8], max: usize) {
    let mut scratch = Vec::new();
    let whole = inspect(bytes, max, &mut scratch);
    assert!(matches!(whole, Verdict::Done(_)), "{whole:?}");
    for length in 0..bytes.len() {
        let verdict = inspect(&bytes[..length], max, &mut scratch);
        let Verdict::NeedMore { at_least } = verdict else {
            panic!("{length} of {}: {verdict:?}", bytes.len());
        };
        assert!(length < at_least && at_least <= bytes.len());
    }
}

#[test]
fn another_protocol_is_known_by_its_first_bytes() {
    let ssl_request = [0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f];
    let sslv2_hello = [0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10];
    let long_word = [b'A'; 21];
    let cases: &[(&[u8], usize)] = &[
        (b"SSH-2.0-OpenSSH_9.6\r\n", 5),
        (&ssl_request, 1),
        (&sslv2_hello, 1),
        (b"\x15\x03\x01\x00\x02\x02\x28", 1),
        (b"\x16\x02\x00\x00\x2e", 2),
        (b"get / HTTP/1.1\r\n", 1),
        (b"\r\nGET / HTTP/1.1\r\n", 1),
        (b"Get / HTTP/1.1\r\n", 2),
        (b"GET/ HTTP/1.1\r\n", 4),
        (b"*1\r\n$4\r\nPING\r\n", 1),
        (b"PING\r\n", 5),
        (b"\0", 1),
        (&long_word, 21),
    ];
    for (bytes, decisive) in cases {
        let Verdict::Done(inspected) = verdict(bytes) else { panic!("{}", bytes.escape_ascii()) };
        assert_eq!((inspected.protocol, inspected.name), (Protocol::Other, AskedName::Absent));
        for length in 0..*decisive {
            assert_eq!(verdict(&bytes[..length]), Verdict::NeedMore { at_least: length + 1 });
        }
    }
}

#[test]
fn a_bound_of_a_few_bytes_is_kept() {
    for max in 0..20 {
        for bytes in [&b""[..], b"G", b"GET / HTTP/1.1\r\n\r\n", &[22, 3, 1, 0, 60, 1, 0, 0, 56, 3, 3]] {
            let verdict = invariants::stable_verdict(bytes, max);
            assert!(!matches!(verdict, Verdict::Malformed(_)), "{verdict:?}");
        }
    }
    assert_eq!(invariants::stable_verdict(b"GE", 2), Verdict::TooLarge(Protocol::Other));
    assert_eq!(invariants::stable_verdict(b"GET ", 4), Verdict::TooLarge(Protocol::Http));
}

proptest! {
    #[test]
    fn any_bytes_have_a_stable_verdict(
        start in prop::sample::select(vec![&b""[..], b"\x16\x03\x01", b"\x16\x03\x01\x00\x01\x01", b"GET ", b"GET / HTTP/1.1\r\n"]),
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        max in 0_usize..300,
    ) {
        let bytes = [start, &bytes].concat();
        invariants::stable_verdict(&bytes, max);
    }
}
