use super::hello::{Hello, record, server_name_list};
use super::*;
use crate::hostname::NotAHostname;
use std::sync::Arc;

pub(super) fn inspected(bytes: &[u8]) -> Inspected {
    let verdict = verdict(bytes);
    let ParseProgress::Done(inspected) = verdict else { panic!("{verdict:?}") };
    assert_eq!(inspected.protocol, Protocol::Tls);
    inspected
}

/// Returns a hello as the rustls client sends it.
fn rustls_hello(name: &str, alpn: &[&[u8]]) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut bytes = Vec::new();
    rustls_client(provider, name, alpn).write_tls(&mut bytes).unwrap();
    bytes
}

/// A client without trusted roots.
pub(super) fn rustls_client(
    provider: Arc<rustls::crypto::CryptoProvider>,
    name: &str,
    alpn: &[&[u8]],
) -> rustls::ClientConnection {
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    rustls::ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap()).unwrap()
}

#[test]
fn name_protocols_and_encrypted_hello_are_read() {
    let hello = Hello::to("API.Example.com.").offering(&[b"h2", b"http/1.1"]).with(0xfe0d, &[0; 40]);
    let expected = Inspected {
        protocol: Protocol::Tls,
        name: name("api.example.com"),
        alpn: "h2,http/1.1".into(),
        ech: true,
        length: hello.record().len(),
        unframed: None,
    };
    assert_eq!(inspected(&hello.record()), expected);
    let bare = inspected(&Hello::nameless().record());
    assert_eq!((bare.name, &*bare.alpn, bare.ech), (AskedName::Absent, "", false));
}

#[test]
fn hello_of_real_client_is_read() {
    let hello = rustls_hello("api.example.com", &[b"h2"]);
    let understood = inspected(&hello);
    assert_eq!((understood.name, &*understood.alpn), (name("api.example.com"), "h2"));
    assert_split_at_every_byte(&hello, MAX);
    assert_eq!(inspected(&rustls_hello("10.0.0.1", &[])).name, AskedName::Absent);
}

#[test]
fn hello_may_be_split_anywhere() {
    let hello = Hello::to("api.example.com").offering(&[b"h2"]);
    for size in [1, 2, 3, 4, 5, 7, 64, 1 << 14] {
        let bytes = hello.records(size);
        assert_split_at_every_byte(&bytes, MAX);
        assert_split_at_every_byte(&bytes, bytes.len());
        assert_eq!(inspected(&bytes).length, bytes.len());
        let apart = |bytes: &[u8]| checks::but_for_length(verdict(bytes));
        assert_eq!(apart(&bytes), apart(&hello.record()), "records of {size}");
    }
    assert_split_at_every_byte(&hello.padded_to(1900).record(), MAX);
}

#[test]
fn hello_of_several_full_records_is_read() {
    let hello = Hello::to("api.example.com").with(51, &vec![0; 40_000]);
    assert_eq!(inspected(&hello.records(1 << 14)).name, name("api.example.com"));
}

#[test]
fn needed_bytes_reach_next_header() {
    let bytes = Hello::to("api.example.com").records(100);
    let mut scratch = Vec::new();
    let mut waits = vec![0];
    while let ParseProgress::NeedMore { at_least } =
        inspect(&bytes[..waits[waits.len() - 1]], MAX, &mut scratch)
    {
        waits.push(at_least);
    }
    assert_eq!(waits, [0, 1, 2, 5, 9, 110, bytes.len()]);
}

#[test]
fn bytes_after_hello_are_ignored() {
    let hello = Hello::to("api.example.com").record();
    let expected = inspected(&hello);
    for after in
        [&b"\x14\x03\x03\x00\x01\x01"[..], b"\x17\x03\x03\x00\x02zz", b"\x16\x03\x03\x00\x00", b"x", &hello]
    {
        assert_eq!(inspected(&[&hello, after].concat()), expected);
    }
}

#[test]
fn bound_counts_every_byte_on_the_wire() {
    let hello = Hello::to("api.example.com");
    for bytes in [hello.record(), hello.records(100), hello.records(1)] {
        assert!(matches!(checks::stable_verdict(&bytes, bytes.len()), ParseProgress::Done(_)));
        let short = checks::stable_verdict(&bytes, bytes.len() - 1);
        assert_eq!(short, ParseProgress::TooLarge(Protocol::Tls));
    }
    // Known from the lengths, before the bytes have arrived.
    let bytes = hello.record();
    assert_eq!(checks::stable_verdict(&bytes[..9], bytes.len() - 1), ParseProgress::TooLarge(Protocol::Tls));
    let bytes = hello.records(100);
    assert_eq!(checks::stable_verdict(&bytes[..9], bytes.len() - 1), ParseProgress::TooLarge(Protocol::Tls));
    let huge = [22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff];
    assert_eq!(verdict(&huge), ParseProgress::TooLarge(Protocol::Tls));
}

#[test]
fn invalid_records_are_refused() {
    let message = Hello::to("api.example.com").message();
    let (first, second) = message.split_at(50);
    let between = |middle: &[u8]| [&record(first), middle, &record(second)].concat();
    let mut too_long = vec![22, 3, 1, 0x40, 1];
    too_long.extend_from_slice(&message);
    let cases: &[(Vec<u8>, &str)] = &[
        (record(&[]), "without content"),
        (between(&record(&[])), "without content"),
        (between(&[20, 3, 3, 0, 1, 1]), "another record"),
        (between(&[21, 3, 3, 0, 2, 1, 0]), "another record"),
        (between(&[23, 3, 3, 0, 1, 1]), "another record"),
        (between(&[22, 2, 0, 0, 1, 1]), "major version"),
        (too_long, "longer than 2^14"),
        (record(&[2, 0, 0, 0]), "not a ClientHello"),
        (record(&[0]), "not a ClientHello"),
        (record(&[&message[..], b"x"].concat()), "after the ClientHello"),
        ([record(first), record(&[second, &message].concat())].concat(), "after the ClientHello"),
        (record(&[1, 0, 0, 0]), "cut off"),
    ];
    for (bytes, why) in cases {
        assert!(reason(bytes).contains(why), "{why}: {}", reason(bytes));
    }
}

#[test]
fn invalid_hellos_are_refused() {
    let to = || Hello::to("api.example.com");
    let list = |names: &[(u8, &[u8])]| Hello::nameless().with(0, &server_name_list(names));
    let cases: &[(Hello, &str)] = &[
        (to().named(b"evil.example"), "two extensions"),
        (to().with(0x2a2a, &[]).with(0x2a2a, &[]), "two extensions"),
        (list(&[(0, b"a.example"), (0, b"b.example")]), "more than one server name"),
        (list(&[(0, b"a.example"), (1, b"b.example")]), "more than one server name"),
        (list(&[(1, b"a.example")]), "not a host_name"),
        (list(&[(0, b"")]), "an empty server name"),
        (list(&[]), "server names is empty"),
        (Hello::nameless().with(0, &[]), "server names is empty"),
        (Hello::nameless().with(0, &[0]), "server names is empty"),
        (Hello::nameless().with(0, &[0, 4, 0, 0, 1, b'a', 0]), "server names is empty or inconsistent"),
        (Hello::nameless().with(0, &[0, 4, 0, 0, 2, b'a']), "server name is cut off"),
        (Hello::nameless().with(0, &[0, 5, 0, 0, 1, b'a', 0]), "more than one server name"),
        (to().offering(&[]), "application protocols is empty"),
        (to().offering(&[b"h2", b""]), "empty application protocol"),
        (to().with(16, &[0, 3, 9, b'h', b'2']), "application protocol is cut off"),
        (to().with(16, &[0, 3, 2, b'h', b'2', 0]), "application protocols is empty or inconsistent"),
        (to().trailed_by(b"\0"), "after the extensions"),
        ((100..223).fold(to(), |hello, kind| hello.with(kind, &[])), "too many extensions"),
    ];
    for (hello, why) in cases {
        let bytes = hello.record();
        assert!(reason(&bytes).contains(why), "{why}: {}", reason(&bytes));
    }
}

#[test]
fn invalid_hellos_the_parser_accepts_are_refused() {
    let message = Hello::to("api.example.com").message();
    let mut old = message.clone();
    old[4] = 2;
    assert!(reason(&record(&old)).contains("another major version"));
    let ciphers = 4 + 2 + 32 + 33;
    for (list, length) in [(ciphers..ciphers + 8, 2), (ciphers + 8..ciphers + 10, 1)] {
        let mut empty = message.clone();
        empty.splice(list, vec![0; length]);
        let body = u32::try_from(empty.len() - 4).unwrap();
        empty[1..4].copy_from_slice(&body.to_be_bytes()[1..]);
        assert!(reason(&record(&empty)).contains("no cipher suite or no compression"));
    }
}

#[test]
fn mutated_hello_yields_no_other_name() {
    let message = Hello::to("api.example.com").message();
    for end in 4..message.len() - 1 {
        let mut cut = message[..end].to_vec();
        cut[1..4].copy_from_slice(&u32::try_from(end - 4).unwrap().to_be_bytes()[1..]);
        let accepted = matches!(verdict(&record(&cut)), ParseProgress::Done(_));
        // TLS 1.2 (RFC 5246 §7.4.1.2) lets a hello end before the length of the extensions.
        assert_eq!(accepted, end == 4 + 2 + 32 + 33 + 8 + 2, "cut at {end}");
    }
    for at in 4..message.len() {
        for bit in 0..8 {
            let mut flipped = message.clone();
            flipped[at] ^= 1 << bit;
            let bytes = record(&flipped);
            checks::same_name_as_rustls_or_refused(&bytes, &verdict(&bytes));
        }
    }
}

#[test]
fn invalid_server_name_is_reported() {
    for (raw, why) in [
        (&b"allowed.example\0.evil.example"[..], NotAHostname::Nul),
        (b".wild.example.org", NotAHostname::EmptyLabel),
        (b"a..b", NotAHostname::EmptyLabel),
        (b".", NotAHostname::Empty),
        (b"10.0.0.1", NotAHostname::IpLiteral),
        (b"[::1]", NotAHostname::IpLiteral),
        (&[b'a'; 300], NotAHostname::TooLong),
    ] {
        assert_eq!(inspected(&Hello::nameless().named(raw).record()).name, AskedName::Invalid(why));
    }
}

#[test]
fn alpn_is_bounded_and_printable() {
    let kept = |protocols: &[&[u8]]| inspected(&Hello::nameless().offering(protocols).record()).alpn;
    assert_eq!(&*kept(&[&[0x2a, 0x0a], b"h2", b"a,b", b"a b", b"http/1.1"]), "h2,http/1.1");
    assert_eq!(&*kept(&[&[b'a'; 64], b"h2"]), "a".repeat(64));
    assert_eq!(&*kept(&[&[b'a'; 61], b"h2"]), format!("{},h2", "a".repeat(61)));
    assert_eq!(&*kept(&[&[b'a'; 62], b"h2"]), "a".repeat(62));
    assert_eq!(&*kept(&[&[b'a'; 255]]), "");
}

prop_compose! {
    fn any_name()(labels in "[a-zA-Z0-9_-]{1,12}(\\.[a-zA-Z0-9_-]{1,12}){0,4}\\.?|[ -~]{0,20}") -> String { labels }
}

prop_compose! {
    /// Hellos that are often valid and sometimes not: repeated, empty and unknown extensions, any order.
    fn any_hello()(
        names in prop::collection::vec(any_name(), 0..3),
        others in prop::collection::vec((any::<u16>(), prop::collection::vec(any::<u8>(), 0..40)), 0..4),
        alpn in prop::option::of(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..12), 0..4)),
        one_list in any::<bool>(),
        name_last in any::<bool>(),
    ) -> Hello {
        let entries: Vec<(u8, &[u8])> = names.iter().map(|name| (0, name.as_bytes())).collect();
        let add_names = |hello: Hello| match entries.as_slice() {
            [] => hello,
            several if one_list => hello.with(0, &server_name_list(several)),
            several => several.iter().fold(hello, |hello, (_, name)| hello.named(name)),
        };
        let mut hello = Hello::nameless();
        if !name_last { hello = add_names(hello); }
        for (kind, data) in &others { hello = hello.with(*kind, data); }
        if let Some(alpn) = &alpn {
            hello = hello.offering(&alpn.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }
        if name_last { hello = add_names(hello); }
        hello
    }
}

proptest! {
    #[test]
    fn rustls_agrees_on_the_name(hello in any_hello(), size in 1_usize..400) {
        let bytes = hello.records(size);
        checks::same_name_as_rustls_or_refused(&bytes, &verdict(&bytes));
    }

    #[test]
    fn plain_names_agree_with_rustls(labels in "[a-z0-9]{1,20}(\\.[a-z0-9]{1,20}){0,3}\\.[a-z]{2,5}") {
        let bytes = Hello::to(&labels).record();
        let verdict = verdict(&bytes);
        prop_assert!(checks::same_name_as_rustls_or_refused(&bytes, &verdict));
        prop_assert!(matches!(verdict, ParseProgress::Done(inspected) if inspected.name == name(&labels)));
        let real = rustls_hello(&labels, &[]);
        prop_assert_eq!(inspected(&real).name, name(&labels));
    }

    #[test]
    fn hello_verdict_ignores_fragmentation(hello in any_hello(), size in 1_usize..400) {
        let [many, one] = [hello.records(size), hello.record()].map(|bytes| checks::but_for_length(verdict(&bytes)));
        prop_assert_eq!(many, one);
        prop_assert_eq!(checks::refragmented(&hello.record(), size), hello.records(size));
    }
}
