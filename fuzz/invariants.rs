//! What holds for `inspect` whatever the bytes: asserted by the fuzz targets, and by the unit tests on generated input.
//!
//! The includer names the room under test: `use …::{Inspected, Protocol, Verdict, inspect};` beside `mod invariants;`.

#![allow(dead_code)] // every includer uses its part

use super::{AskedName, Hostname, Inspected, Protocol, Verdict, inspect};

/// The verdict, after making sure that it does not depend on how the bytes arrived, on what follows it, or on what
/// the scratch buffer held; and that waiting for `at_least` bytes misses nothing.
pub(crate) fn stable_verdict(bytes: &[u8], max: usize) -> Verdict {
    let mut scratch = Vec::new();
    let whole = inspect(bytes, max, &mut scratch);
    let mut dirty = vec![0xa5; 64];
    let mut length = 0;
    loop {
        let verdict = inspect(&bytes[..length], max, &mut dirty);
        let Verdict::NeedMore { at_least } = verdict else {
            assert_eq!(verdict, whole, "the verdict on {length} bytes changed with more");
            break;
        };
        assert!(length < at_least && at_least <= max, "{length} bytes, bound {max}: at least {at_least}");
        let last_in_vain = bytes.len().min(at_least - 1);
        assert_eq!(inspect(&bytes[..last_in_vain], max, &mut scratch), verdict, "a call was worth it sooner");
        if at_least > bytes.len() {
            assert_eq!(verdict, whole);
            break;
        }
        length = at_least;
    }
    assert!(scratch.len() <= max.max(64) && dirty.len() <= max.max(64));
    whole
}

/// The verdict, apart from how many bytes it took.
pub(crate) fn but_for_length(mut verdict: Verdict) -> Verdict {
    if let Verdict::Done(inspected) = &mut verdict {
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
pub(crate) fn same_name_as_rustls_or_refused(bytes: &[u8], verdict: &Verdict) -> bool {
    let Ok(theirs) = name_by_rustls(bytes) else { return false };
    match verdict {
        Verdict::Malformed(_) | Verdict::TooLarge(Protocol::Tls) => {}
        Verdict::Done(Inspected { protocol: Protocol::Tls, name, .. }) => match (name, theirs) {
            (AskedName::Valid(ours), Some(theirs)) => {
                assert_eq!(Some(ours), Hostname::canonicalize(theirs.as_bytes()).ok().as_ref());
            }
            (AskedName::Invalid(_), _) | (AskedName::Absent, None) => {}
            (ours, theirs) => panic!("{ours:?}, but rustls reads {theirs:?}"),
        },
        Verdict::NeedMore { .. } | Verdict::TooLarge(_) | Verdict::Done(_) => {
            panic!("{verdict:?}, but rustls reads {theirs:?}")
        }
    }
    true
}

/// The name that rustls takes the client to want; an error if it does not accept the hello.
pub(crate) fn name_by_rustls(bytes: &[u8]) -> Result<Option<String>, ()> {
    let hello = rustls_hello(bytes).ok_or(())?;
    Ok(hello.client_hello().server_name().map(str::to_owned))
}

/// The hello, if rustls accepts it.
fn rustls_hello(mut bytes: &[u8]) -> Option<rustls::server::Accepted> {
    let mut acceptor = rustls::server::Acceptor::default();
    while !bytes.is_empty() {
        if acceptor.read_tls(&mut bytes).ok()? == 0 {
            return None;
        }
        if let Some(accepted) = acceptor.accept().ok()? {
            return Some(accepted);
        }
    }
    None
}

/// A request head that yields a name is one that a plain parser reads too, and the name is the one that it would
/// find, written in no more than one place.
pub(crate) fn same_host_as_httparse(bytes: &[u8], verdict: &Verdict) {
    let Verdict::Done(Inspected { protocol: Protocol::Http, name, .. }) = verdict else { return };
    let mut headers = [httparse::EMPTY_HEADER; 128];
    let mut request = httparse::Request::new(&mut headers);
    let Ok(httparse::Status::Complete(length)) = request.parse(bytes) else {
        panic!("httparse refuses what yielded {name:?}");
    };
    let head = &bytes[..length];
    assert!(head.ends_with(b"\r\n\r\n"));
    for (at, byte) in head.iter().enumerate() {
        match byte {
            b'\n' => assert!(at > 0 && head[at - 1] == b'\r'),
            b'\r' => assert_eq!(head.get(at + 1), Some(&b'\n')),
            byte => assert!(!byte.is_ascii_control() || *byte == b'\t'),
        }
    }
    let hosts: Vec<_> = request.headers.iter().filter(|h| h.name.eq_ignore_ascii_case("host")).collect();
    let authority = match (hosts.as_slice(), request.path.unwrap_or_default().get(..7)) {
        ([host], _) => host.value,
        ([], Some(scheme)) if scheme.eq_ignore_ascii_case("http://") => {
            let rest = &request.path.unwrap_or_default().as_bytes()[7..];
            &rest[..rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len())]
        }
        ([], _) => return assert_eq!(*name, AskedName::Absent),
        (several, _) => panic!("{} Host headers, and still {name:?}", several.len()),
    };
    let host = authority.split(|&b| b == b':').next().unwrap_or_default();
    match Hostname::canonicalize(host) {
        Ok(host) => assert_eq!(*name, AskedName::Valid(host)),
        Err(_) => assert!(matches!(name, AskedName::Invalid(_))),
    }
}
