//! Properties of the request heads that `inspect` reads.

use super::{AskedName, Hostname, Inspected, ParseProgress, Protocol};

/// A request head that yields a name is one that a plain parser reads too, and the name is the one that it would
/// find, written in no more than one place.
pub(crate) fn same_host_as_httparse(bytes: &[u8], verdict: &ParseProgress) {
    let ParseProgress::Done(Inspected { protocol: Protocol::Http, name, .. }) = verdict else { return };
    // Bytes outside ASCII may stand in a target, where httparse takes UTF-8 alone.
    let line = bytes.iter().position(|&b| b == b'\n').unwrap_or(bytes.len());
    let mut plain = bytes.to_vec();
    plain[..line].iter_mut().filter(|b| !b.is_ascii()).for_each(|b| *b = b'x');
    let mut headers = [httparse::EMPTY_HEADER; 128];
    let mut request = httparse::Request::new(&mut headers);
    let Ok(httparse::Status::Complete(length)) = request.parse(&plain) else {
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
    let target = bytes.split(|&b| b == b' ').nth(1).unwrap_or_default();
    let authority = match (hosts.as_slice(), target.get(..7)) {
        ([host], _) => host.value,
        ([], Some(scheme)) if scheme.eq_ignore_ascii_case(b"http://") => {
            let rest = &target[7..];
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
