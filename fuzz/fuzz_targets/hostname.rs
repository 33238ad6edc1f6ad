//! Names as clients send them: canonical is a fixed point, no address passes for a name, and patterns see through
//! spelling.
#![no_main]

use egret::hostname::{HostPattern, Hostname};
use libfuzzer_sys::fuzz_target;
use std::net::IpAddr;

fuzz_target!(|raw: &[u8]| {
    // What an operator writes, in any script, is a name that a client can send.
    if let Ok(written) = std::str::from_utf8(raw) {
        let read = written.parse::<Hostname>();
        if let Ok(name) = &read {
            assert_eq!(Hostname::canonicalize(name.as_str().as_bytes()).as_ref(), Ok(name));
        }
        if written.is_ascii() {
            assert_eq!(read, Hostname::canonicalize(raw));
        }
    }

    let Ok(name) = Hostname::canonicalize(raw) else { return };
    let canonical = name.as_str();
    assert_eq!(Hostname::canonicalize(canonical.as_bytes()).as_ref(), Ok(&name));
    assert!(!canonical.is_empty() && canonical.len() <= 253);
    assert!(canonical.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.')));
    assert!(canonical.split('.').all(|label| (1..=63).contains(&label.len())));
    assert!(canonical.parse::<IpAddr>().is_err());

    // The same name for anybody who ignores case and one final dot.
    let heard = raw.strip_suffix(b".").unwrap_or(raw);
    assert!(heard.eq_ignore_ascii_case(canonical.as_bytes()));
    let respelt = format!("{}.", canonical.to_ascii_uppercase());
    assert_eq!(Hostname::canonicalize(respelt.as_bytes()).as_ref(), Ok(&name));

    assert!(HostPattern::Exact(name.clone()).matches(&name));
    let below = HostPattern::Subdomains(name.clone());
    assert!(!below.matches(&name));
    if let Ok(child) = format!("a.{canonical}").parse::<Hostname>() {
        assert!(below.matches(&child) && child.parents().next() == Some(canonical));
    }
    if let Ok(cousin) = format!("a{canonical}").parse::<Hostname>() {
        assert!(!below.matches(&cousin));
    }
});
