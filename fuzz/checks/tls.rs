//! Properties of the hellos that `inspect` reads.

use super::rustls_name::name_by_rustls;
use super::{AskedName, Hostname, Inspected, ParseProgress, Protocol};

/// The verdict, apart from how many bytes it took.
pub(crate) fn but_for_length(mut verdict: ParseProgress) -> ParseProgress {
    if let ParseProgress::Done(inspected) = &mut verdict {
        inspected.length = 0;
    }
    verdict
}

/// The same handshake bytes in records of `size` bytes of payload, with what followed the records left out.
pub(crate) fn refragmented(hello: &[u8], size: usize) -> Vec<u8> {
    let mut payload = Vec::new();
    let mut rest = hello;
    while let [22, 3, _, high, low, after @ ..] = rest {
        let (fragment, after) = after.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        payload.extend_from_slice(fragment);
        let length =
            payload.get(1..4).map(|l| usize::from(l[0]) << 16 | usize::from(l[1]) << 8 | usize::from(l[2]));
        if length.is_some_and(|length| payload.len() >= 4 + length) {
            break;
        }
        rest = after;
    }
    let mut records = Vec::new();
    for fragment in payload.chunks(size) {
        records.extend_from_slice(&[22, 3, 1]);
        records.extend_from_slice(&u16::try_from(fragment.len()).unwrap().to_be_bytes());
        records.extend_from_slice(fragment);
    }
    records
}

/// Whatever name rustls would take the client to want, it is that one, or the client is refused. Says whether rustls
/// had an opinion, for tests that must not pass for lack of one.
pub(crate) fn same_name_as_rustls_or_refused(bytes: &[u8], verdict: &ParseProgress) -> bool {
    let Ok(theirs) = name_by_rustls(bytes) else { return false };
    match verdict {
        ParseProgress::Malformed(_) | ParseProgress::TooLarge(Protocol::Tls) => {}
        ParseProgress::Done(Inspected { protocol: Protocol::Tls, name, .. }) => match (name, theirs) {
            (AskedName::Valid(ours), Some(theirs)) => {
                assert_eq!(Some(ours), Hostname::canonicalize(theirs.as_bytes()).ok().as_ref());
            }
            (AskedName::Invalid(_), _) | (AskedName::Absent, None) => {}
            (ours, theirs) => panic!("{ours:?}, but rustls reads {theirs:?}"),
        },
        ParseProgress::NeedMore { .. } | ParseProgress::TooLarge(_) | ParseProgress::Done(_) => {
            panic!("{verdict:?}, but rustls reads {theirs:?}")
        }
    }
    true
}
