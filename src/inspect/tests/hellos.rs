use super::hello::{Hello, record};
use super::tls::{inspected, rustls_client};
use super::*;
use rustls::crypto::ring::kx_group::{SECP384R1, X25519};
use std::sync::Arc;

const CCS: &[u8] = b"\x14\x03\x03\x00\x01\x01";
const EARLY: &[u8] = b"\x17\x03\x03\x00\x05early";
const WARNING: &[u8] = b"\x15\x03\x03\x00\x02\x01\x5a";

/// The start of a ServerHello with the first byte of its random changed, or of a HelloRetryRequest.
pub(super) fn server_hello(retry: bool) -> Vec<u8> {
    let mut random = *b"\xcf\x21\xad\x74\xe5\x9a\x61\x11\xbe\x1d\x8c\x02\x1e\x65\xb8\x91\xc2\xa2\x11\x16\x7a\xbb\x8c\x5e\x07\x9e\x09\xe2\xc8\xa8\x33\x9c";
    random[0] ^= u8::from(!retry);
    let body = [&[3, 3][..], &random, &[0, 0x13, 1, 0, 0, 0]].concat();
    record(&[&[2, 0, 0, u8::try_from(body.len()).unwrap()][..], &body].concat())
}

/// Follows alternating turns of the client and the server, the client's first. Returns how many client bytes were
/// forwarded, the next step, and true if no further hello counts.
fn follow(turns: &[&[u8]]) -> (usize, Then<Changed>, bool) {
    let (passed, then, over) =
        same_in_any_pieces(|piece| checks::hellos(Hellos::after(&inspected(turns[0]), MAX), turns, piece));
    (passed.len(), then, over)
}

fn first() -> Vec<u8> {
    Hello::to("a.example").record()
}

#[test]
fn server_hello_ends_following() {
    let hello = first();
    for answer in [
        server_hello(false),
        [WARNING, &server_hello(false)].concat(),
        [record(&server_hello(false)[5..7]), record(&server_hello(false)[7..])].concat(),
        b"SSH-2.0-x\r\n".to_vec(),
        record(&[0, 0, 0, 0]),
    ] {
        let after = Hello::to("b.example").record();
        assert_eq!(
            follow(&[&hello, &answer, &after]),
            (hello.len() + after.len(), Then::More, true),
            "{answer:02x?}"
        );
    }
}

#[test]
fn proven_servers_continue_the_handshake() {
    let (hello, secret) = (first(), b"what the two agree on".to_vec());
    let strict = |turns: &[&[u8]]| {
        let relay = |piece| {
            let hellos = Hellos::after(&inspected(turns[0]), MAX).needing_server_hello(true);
            checks::hellos(hellos, turns, piece)
        };
        let (passed, then, _) = same_in_any_pieces(relay);
        (passed.len(), then)
    };
    let dropped = (hello.len(), Then::Denied(Changed::NoHandshake));
    for answer in [b"SSH-2.0-x\r\n".to_vec(), record(&[11, 0, 0, 0]), b"\x16\x03\x03 whatever".to_vec()] {
        assert_eq!(strict(&[&hello, &answer, &secret]), dropped, "{answer:02x?}");
    }
    assert_eq!(strict(&[&hello, b"", &secret]), dropped, "the client went on to something else");
    for answer in [server_hello(false), [WARNING, &server_hello(false)].concat()] {
        assert_eq!(strict(&[&hello, &answer, &secret]), (hello.len() + secret.len(), Then::More));
    }
}

#[test]
fn second_hello_with_same_name_passes() {
    let (hello, retry) = (first(), server_hello(true));
    let same = Hello::to("A.Example.").with(44, &[0, 2, 7, 7]);
    for second in [
        same.record(),
        same.records(1),
        [CCS, EARLY, &same.record()].concat(),
        [WARNING, &same.record()].concat(),
    ] {
        let all = hello.len() + second.len();
        assert_eq!(follow(&[&hello, &retry, &second]), (all, Then::More, false));
        assert_eq!(
            follow(&[&hello, &[&retry, CCS].concat(), &second, &server_hello(false)]),
            (all, Then::More, true)
        );
    }
}

#[test]
fn second_hello_with_other_name_stops() {
    let hello = first();
    let grease = |name| Hello::to(name).with(0xfe0d, &[0; 20]);
    for (second, changed) in [
        (Hello::to("b.example"), Changed::Name),
        (Hello::nameless(), Changed::Name),
        (grease("b.example"), Changed::Name),
        (grease("a.example"), Changed::Ech),
    ] {
        for before in [&b""[..], CCS, EARLY, WARNING, &first()] {
            for second in [second.record(), second.records(3)] {
                let client = [before, &second].concat();
                let stopped = (hello.len() + before.len(), Then::Denied(changed), false);
                for answers in [
                    &b""[..],
                    &server_hello(true),
                    &[WARNING, &server_hello(true), CCS].concat(),
                    &server_hello(true)[..20],
                ] {
                    assert_eq!(follow(&[&hello, answers, &client]), stopped);
                }
            }
        }
    }
    assert_eq!(follow(&[&grease("a.example").record(), &server_hello(true), &first()]).1, Then::More);
}

#[test]
fn unexpected_records_are_malformed() {
    let hello = first();
    for second in [
        record(&[20, 0, 0, 0]),
        record(&[]),
        record(&[&first()[5..], b"x"].concat()),
        Hello::to("a.example").named(b"b.example").record(),
        [record(&first()[5..20]), CCS.to_vec(), record(&first()[20..])].concat(),
    ] {
        let (passed, then, _) = follow(&[&hello, &server_hello(true), &second]);
        assert!(passed == hello.len() && matches!(then, Then::Unclear(Unclear::Malformed(_))), "{then:?}");
    }
    let huge = [22, 3, 3, 0, 4, 1, 0xff, 0xff, 0xff];
    assert_eq!(
        follow(&[&hello, &server_hello(true), &huge]).1,
        Then::Unclear(Unclear::TooLarge(Protocol::Tls))
    );
}

/// A client and a server without a common key share in the first hello.
#[test]
fn non_tls_bytes_end_following() {
    let first = first();
    for byte in [0, b'H', 19, 25, 255] {
        let (passed, then, over) = follow(&[&first, &[], &[byte, 3, 3, 0, 1, 22, 3, 3, 0, 4]]);
        assert_eq!((passed, then, over), (first.len() + 10, Then::More, true), "{byte}");
    }
}

#[test]
fn real_hello_retry_is_followed() {
    let key = rcgen::generate_simple_self_signed(["a.example".to_owned()]).unwrap();
    let provider = |groups| {
        let mut provider = rustls::crypto::ring::default_provider();
        provider.kx_groups = groups;
        Arc::new(provider)
    };
    let mut server = rustls::ServerConnection::new(Arc::new(
        rustls::ServerConfig::builder_with_provider(provider(vec![SECP384R1]))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![key.cert.der().clone()],
                key.signing_key.serialize_der().try_into().unwrap(),
            )
            .unwrap(),
    ))
    .unwrap();
    let mut client = rustls_client(provider(vec![X25519, SECP384R1]), "a.example", &[]);
    let mut followed: Option<Hellos> = None;
    let mut flights = 0;
    while client.is_handshaking() && flights < 3 {
        let mut flight = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut flight).unwrap();
        }
        let hellos = followed.get_or_insert_with(|| Hellos::after(&inspected(&flight), MAX));
        assert_eq!(hellos.client(&flight, |changed| changed), (flight.len(), Then::More));
        assert!(!hellos.are_over());
        flights += 1;
        server.read_tls(&mut flight.as_slice()).unwrap();
        server.process_new_packets().unwrap();
        let mut answer = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut answer).unwrap();
        }
        hellos.server(&answer);
        client.read_tls(&mut answer.as_slice()).unwrap();
        if client.process_new_packets().is_err() {
            break; // it does not know the certificate
        }
    }
    assert_eq!(flights, 2, "the server asked for a second hello");
    assert!(followed.unwrap().are_over());
}

proptest! {
    #[test]
    fn flights_follow_alike_in_any_fragmentation(
        records in prop::collection::vec((20_u8..25, prop::collection::vec(any::<u8>(), 0..20)), 0..5),
        second in any::<bool>(),
        retry in any::<bool>(),
        piece in 1_usize..50,
    ) {
        let mut client: Vec<u8> = records.iter().flat_map(|(kind, payload)| {
            [&[*kind, 3, 3, 0, u8::try_from(payload.len()).unwrap()], &payload[..]].concat()
        }).collect();
        if second { client.extend(Hello::to("b.example").record()); }
        let (hello, answer) = (first(), server_hello(retry));
        let turns: [&[u8]; 3] = [&hello, &answer, &client];
        let relay = |piece| checks::hellos(Hellos::after(&inspected(&hello), MAX), &turns, piece);
        let whole = relay(usize::MAX);
        prop_assert_eq!(&relay(piece), &whole);
        prop_assert!(!(second && retry && whole.0.len() == hello.len() + client.len()), "another name passed");
    }
}
