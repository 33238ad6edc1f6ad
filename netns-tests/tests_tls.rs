//! TLS as it may come: in pieces, with names in every spelling, without names, and wrong.

use crate::clients::{ACCESS_DENIED, connect_from, expect_alert, expect_reset, read_all};
use crate::config::Config;
use crate::gateway::Gateway;
use crate::hello::{Hello, record};
use crate::lab::{Family, Host, Lab, Tenant};
use crate::servers::Server;
use crate::traffic::expect_delivery;
use crate::wait::{PATIENCE, wait_until};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

crate::trials! {
    both families:
        a_hello_split_at_every_byte_arrives_whole,
        a_post_quantum_hello_split_at_every_byte_arrives_whole,
        a_hello_in_one_byte_records_arrives_whole,
        a_name_is_compared_in_its_canonical_spelling,
        a_bad_name_is_denied_with_an_alert,
        a_name_that_no_rule_allows_is_denied_with_an_alert,
        without_a_name_only_a_cidr_rule_lets_a_hello_through,
        an_encrypted_hello_is_judged_by_its_outer_name_or_denied,
        a_malformed_hello_is_denied_with_an_alert,
        what_is_neither_tls_nor_http_is_reset,
        a_client_that_says_nothing_is_reset_at_the_deadline,
        a_hello_that_stops_half_way_is_denied_at_the_deadline,
        a_hello_beyond_the_bound_is_denied,
        a_client_that_leaves_during_inspection_is_recorded,
        a_name_never_opens_a_private_address;
    once:
}

/// Sends `bytes` as alpha.
fn send(lab: &Lab, to: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut client = lab.connect(Tenant::Alpha, to);
    client.write_all(bytes).unwrap();
    client
}

/// Alpha sends a hello that must be denied with an alert, long before the usual deadline, and be recorded so.
fn expect_denial(lab: &Lab, gateway: &Gateway, server: &Server, hello: &[u8], outcome: &str, why: &str) {
    denied(gateway, server, send(lab, server.address(), hello), outcome, why);
}

fn denied(gateway: &Gateway, server: &Server, client: TcpStream, outcome: &str, why: &str) {
    expect_alert(&client, ACCESS_DENIED);
    let local = client.local_addr().unwrap();
    drop(client); // the record is written when both sides have closed
    let flow = gateway.flow_from(local);
    assert_eq!(flow["outcome"], outcome, "{why}: {flow:#}");
    assert_eq!(
        (&flow["source"], &flow["dialled"]),
        (&serde_json::Value::Null, &serde_json::Value::Null),
        "{why}"
    );
    server.assert_untouched();
}

fn a_hello_split_at_every_byte_arrives_whole(family: Family) {
    every_split(family, &Hello::to("allowed.example.org").record());
}

fn a_post_quantum_hello_split_at_every_byte_arrives_whole(family: Family) {
    every_split(family, &Hello::to("a.wild.example.org").post_quantum().record());
}

/// For each offset: the bytes before it, and when they have reached the gateway those after it.
fn every_split(family: Family, hello: &[u8]) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Named, family, 443);
    let (to, from) = (server.address(), Tenant::Alpha.client(family));
    let next = AtomicUsize::new(1);
    let client = || {
        loop {
            let offset = next.fetch_add(1, Ordering::Relaxed);
            let Some((first, second)) = hello.split_at_checked(offset).filter(|(_, rest)| !rest.is_empty())
            else {
                return;
            };
            let mut stream = connect_from(from, to, PATIENCE).unwrap();
            stream.write_all(first).unwrap();
            wait_until_acknowledged(&stream);
            stream.write_all(second).unwrap();
            assert_eq!(read_all(&stream), b"whole", "split at {offset}");
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 1..hello.len() {
                let mut stream = server.accept();
                let mut got = vec![0; hello.len()];
                stream.read_exact(&mut got).unwrap();
                assert!(got == hello, "it arrived changed");
                stream.write_all(b"whole").unwrap();
            }
        });
        for _ in 0..8 {
            scope.spawn(|| lab.client.run(client));
        }
    });
    let flows = gateway.wait_for_flows(hello.len() - 1);
    for flow in &flows {
        assert_eq!((&flow["outcome"], &flow["rule"]), (&"closed".into(), &"alpha-names".into()), "{flow:#}");
        assert_eq!((&flow["bytes_up"], &flow["bytes_down"]), (&hello.len().into(), &5.into()), "{flow:#}");
    }
}

/// Waits until the gateway's kernel has every byte sent.
fn wait_until_acknowledged(stream: &TcpStream) {
    wait_until("the kernel to deliver the first part", || {
        egret::sys::stream::unacknowledged(stream).unwrap() == 0
    });
}

fn a_hello_in_one_byte_records_arrives_whole(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Named, family, 443);
    for hello in [Hello::to("allowed.example.org"), Hello::to("allowed.example.org").post_quantum()] {
        for size in [1, 2, 5, 100] {
            let bytes = hello.records_of(size);
            let client = send(&lab, server.address(), &bytes);
            let local = client.local_addr().unwrap();
            expect_delivery(client, server.accept(), &bytes);
            gateway.expect_outcome(local, "closed");
        }
    }
}

fn a_name_is_compared_in_its_canonical_spelling(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Named, family, 443);
    for (sent, canonical) in [
        ("allowed.example.org", "allowed.example.org"),
        ("ALLOWED.Example.ORG", "allowed.example.org"),
        ("allowed.example.org.", "allowed.example.org"),
        ("a.WILD.example.org.", "a.wild.example.org"),
        ("deep.down.in.the.wild.example.org", "deep.down.in.the.wild.example.org"),
        ("xn--mnchen-3ya.wild.example.org", "xn--mnchen-3ya.wild.example.org"),
        ("_service.wild.example.org", "_service.wild.example.org"),
    ] {
        let bytes = Hello::to(sent).record();
        let client = send(&lab, server.address(), &bytes);
        let local = client.local_addr().unwrap();
        expect_delivery(client, server.accept(), &bytes);
        let flow = gateway.expect_outcome(local, "closed");
        assert_eq!(
            (&flow["hostname"], &flow["hostname_from"]),
            (&canonical.into(), &"sni".into()),
            "{flow:#}"
        );
        assert_eq!((&flow["alpn"], &flow["protocol"]), (&"h2,http/1.1".into(), &"tls".into()), "{flow:#}");
    }
}

fn a_bad_name_is_denied_with_an_alert(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Named, family, 443);
    let allowed: &[u8] = b"allowed.example.org";
    let long = format!("{}.wild.example.org", "a".repeat(64));
    let longer = format!("{}wild.example.org", "a.".repeat(130));
    let table: &[(&str, &str, Hello)] = &[
        ("a leading dot", "invalid_hostname", Hello::to(".wild.example.org")),
        ("an empty label", "invalid_hostname", Hello::to("a..wild.example.org")),
        ("two trailing dots", "invalid_hostname", Hello::to("allowed.example.org..")),
        ("a lone dot", "invalid_hostname", Hello::to(".")),
        ("an embedded NUL", "invalid_hostname", Hello::to("allowed.example.org\0.evil.example")),
        ("a NUL at the end", "invalid_hostname", Hello::to("allowed.example.org\0")),
        (
            "a NUL before the wildcard's part",
            "invalid_hostname",
            Hello::to("evil.example\0.wild.example.org"),
        ),
        ("a slash", "invalid_hostname", Hello::to("evil.example/.wild.example.org")),
        ("a space", "invalid_hostname", Hello::to(" allowed.example.org")),
        ("a port", "invalid_hostname", Hello::to("allowed.example.org:443")),
        ("a wildcard", "invalid_hostname", Hello::to("*.wild.example.org")),
        ("not ASCII", "invalid_hostname", Hello::to("\u{e4}.wild.example.org")),
        ("not UTF-8", "invalid_hostname", Hello::to(b"\xff.wild.example.org")),
        ("a leading hyphen", "invalid_hostname", Hello::to("-a.wild.example.org")),
        ("a label of 64 letters", "invalid_hostname", Hello::to(long)),
        ("more than 253 letters", "invalid_hostname", Hello::to(longer)),
        ("an IPv4 address", "invalid_hostname", Hello::to("198.51.100.11")),
        ("an IPv4 address in hex", "invalid_hostname", Hello::to("0xc6.0x33.0x64.0xb")),
        ("an IPv4 address as a number", "invalid_hostname", Hello::to("3325256715")),
        ("an IPv6 address", "invalid_hostname", Hello::to("2001:db8:51::b")),
        ("an IPv6 address in brackets", "invalid_hostname", Hello::to("[2001:db8:51::b]")),
        ("no letters", "malformed_tls", Hello::to("")),
        ("one name twice", "malformed_tls", Hello::nameless().with_names(&[allowed, allowed])),
        (
            "an allowed name, then another",
            "malformed_tls",
            Hello::nameless().with_names(&[allowed, b"evil.example"]),
        ),
        (
            "another name, then an allowed",
            "malformed_tls",
            Hello::nameless().with_names(&[b"evil.example", allowed]),
        ),
        ("two extensions", "malformed_tls", Hello::to(allowed).with_names(&[b"evil.example"])),
        ("two extensions, allowed last", "malformed_tls", Hello::to("evil.example").with_names(&[allowed])),
        (
            "an empty list, then an allowed name",
            "malformed_tls",
            Hello::nameless().with_names(&[]).with_names(&[allowed]),
        ),
    ];
    for (why, outcome, hello) in table {
        expect_denial(&lab, &gateway, &server, &hello.record(), outcome, why);
    }
    gateway.wait_for_flows(table.len());
    gateway.wait_for_metric("egret_denials_total", &[("tenant", "alpha")], |sum| sum == table.len() as u64);
}

fn a_name_that_no_rule_allows_is_denied_with_an_alert(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Named, family, 443);
    for (name, outcome) in [
        ("denied.example.org", "not_allowed"),
        ("beta.example.org", "not_allowed"),
        ("wild.example.org", "not_allowed"),
        ("notwild.example.org", "not_allowed"),
        ("allowed.example.org.evil.example", "not_allowed"),
        ("example.org", "not_allowed"),
        ("secret.wild.example.org", "denied_by_rule"),
    ] {
        expect_denial(&lab, &gateway, &server, &Hello::to(name).record(), outcome, name);
    }
    let elsewhere = lab.listen(Host::Named, family, 8443);
    let hello = Hello::to("allowed.example.org").record();
    expect_denial(&lab, &gateway, &elsewhere, &hello, "not_allowed", "another port than the rule's");
    let denials = gateway.metric("egret_denials_total", &[("tenant", "alpha"), ("reason", "denied_by_rule")]);
    assert_eq!(denials, 1);

    let stranger = lab.expect_reset(Tenant::Stranger, server.address(), &hello);
    gateway.expect_outcome(stranger, "unknown_tenant");
    server.assert_untouched();
}

fn without_a_name_only_a_cidr_rule_lets_a_hello_through(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let hello = Hello::nameless().record();
    let named = lab.listen(Host::Named, family, 443);
    expect_denial(&lab, &gateway, &named, &hello, "no_hostname", "no server name");

    let inspected = lab.listen(Host::Inspected, family, 443);
    let client = send(&lab, inspected.address(), &hello);
    let local = client.local_addr().unwrap();
    expect_delivery(client, inspected.accept(), &hello);
    let flow = gateway.expect_outcome(local, "closed");
    assert_eq!((&flow["rule"], &flow["protocol"]), (&"alpha-inspected".into(), &"tls".into()), "{flow:#}");
}

/// What browsers send with every hello is allowed by default, and counted apart.
fn an_encrypted_hello_is_judged_by_its_outer_name_or_denied(family: Family) {
    let lab = Lab::new();
    let server = lab.listen(Host::Named, family, 443);
    // RFC 9849 § 5: outer, KDF and AEAD, config id, enc, payload
    let extension = [&[0, 0, 1, 0, 1, 7, 0, 32], &[0x11; 32][..], &[0, 144], &[0x22; 144]].concat();
    let allowed = Hello::to("allowed.example.org").with_extension(0xfe0d, &extension).record();
    let other = Hello::to("denied.example.org").with_extension(0xfe0d, &extension).record();
    let plain = Hello::to("allowed.example.org").record();
    for (ech, outcomes) in [("", ["closed", "not_allowed"]), ("ech = \"deny\"", ["ech_denied", "ech_denied"])]
    {
        let gateway = lab.start_gateway(&Config { alpha_tenant: ech.into(), ..Config::default() });
        for (hello, outcome) in [&allowed, &other].into_iter().zip(outcomes) {
            if outcome == "closed" {
                let client = send(&lab, server.address(), hello);
                let local = client.local_addr().unwrap();
                expect_delivery(client, server.accept(), hello);
                let flow = gateway.expect_outcome(local, outcome);
                assert_eq!(flow["ech"], true, "{flow:#}");
            } else {
                expect_denial(&lab, &gateway, &server, hello, outcome, ech);
            }
        }
        let client = send(&lab, server.address(), &plain);
        let local = client.local_addr().unwrap();
        expect_delivery(client, server.accept(), &plain);
        assert_eq!(gateway.expect_outcome(local, "closed")["ech"], false);
        assert_eq!(gateway.metric("egret_ech_flows_total", &[("tenant", "alpha")]), 2);
        let denied = outcomes.iter().filter(|outcome| **outcome == "ech_denied").count() as u64;
        let labels = [("tenant", "alpha"), ("reason", "ech_denied")];
        assert_eq!(gateway.metric("egret_denials_total", &labels), denied);
    }
}

fn a_malformed_hello_is_denied_with_an_alert(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    // A CIDR rule covers this host: even so nothing malformed may pass.
    let server = lab.listen(Host::Inspected, family, 443);
    let whole = Hello::to("allowed.example.org");
    let handshake = whole.handshake();
    let with = |at: usize, byte: u8| {
        let mut changed = handshake.clone();
        changed[at] = byte;
        record(&changed)
    };
    let cut = |bytes: &[u8]| [&bytes[..1], &[0, 0, 40], &bytes[4..44]].concat();
    for (why, bytes) in [
        ("a ServerHello", with(0, 2)),
        ("a session id beyond the end", with(38, 0xff)),
        ("a body shorter than its parts", record(&cut(&handshake))),
        ("an extension beyond the end", {
            let mut bytes = whole.clone().with_extension(0x1234, &[1, 2, 3]).handshake();
            let at = bytes.len() - 4;
            bytes[at] = 9;
            record(&bytes)
        }),
        ("a list of names longer than its extension", {
            record(&Hello::nameless().with_extension(0, &[0, 9, 0, 0, 1, b'a']).handshake())
        }),
        ("a record longer than TLS allows", [&[22, 3, 1, 0x41, 0x01], &handshake[..]].concat()),
        ("an empty record", [record(&[]), record(&handshake)].concat()),
        ("a record version that Go takes for TLS", [&[22, 4], &whole.record()[2..]].concat()),
        ("an alert before the hello", [&[21, 3, 1, 0, 2, 1, 0], &whole.record()[..]].concat()),
        ("an alert between the parts", [record(&handshake[..20]), vec![21, 3, 3, 0, 2, 1, 0]].concat()),
    ] {
        expect_denial(&lab, &gateway, &server, &bytes, "malformed_tls", why);
    }
}

fn what_is_neither_tls_nor_http_is_reset(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Named, family, 443);
    for bytes in [
        &b"SSH-2.0-OpenSSH_9.2\r\n"[..],
        b"\x00\x01\x02\x03\x04\x05\x06\x07",
        b"\x80\x2e\x01\x00\x02\x00\x15\x00",
    ] {
        let client = send(&lab, server.address(), bytes);
        assert_eq!(expect_reset(&client), b"");
        gateway.expect_outcome(client.local_addr().unwrap(), "no_hostname");
    }
    server.assert_untouched();
}

fn hasty() -> Config {
    Config { inspect: "deadline = \"200ms\"".into(), ..Config::default() }
}

fn a_client_that_says_nothing_is_reset_at_the_deadline(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&hasty());
    let server = lab.listen(Host::Inspected, family, 443);
    let start = Instant::now();
    let client = send(&lab, server.address(), b"");
    assert_eq!(expect_reset(&client), b"");
    let default = Duration::from_secs(5);
    assert!((Duration::from_millis(190)..default).contains(&start.elapsed()), "{:?}", start.elapsed());
    gateway.expect_outcome(client.local_addr().unwrap(), "inspect_timeout");
    server.assert_untouched();
}

fn a_hello_that_stops_half_way_is_denied_at_the_deadline(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&hasty());
    let server = lab.listen(Host::Named, family, 443);
    let hello = Hello::to("allowed.example.org").record();
    let client = gateway.while_stopped(|| send(&lab, server.address(), &hello[..hello.len() - 1]));
    denied(&gateway, &server, client, "inspect_timeout", "one byte is missing");
}

fn a_hello_beyond_the_bound_is_denied(family: Family) {
    let lab = Lab::new();
    let bounded = Config { inspect: "deadline = \"60s\"\nmax_hello = \"4KiB\"".into(), ..Config::default() };
    let gateway = lab.start_gateway(&bounded);
    let server = lab.listen(Host::Named, family, 443);
    let big = Hello::to("allowed.example.org").with_extension(21, &[0; 8000]);
    expect_denial(&lab, &gateway, &server, &big.record(), "hello_too_large", "8 KB");
    let bytes = Hello::to("allowed.example.org").post_quantum().record();
    let client = send(&lab, server.address(), &bytes);
    expect_delivery(client, server.accept(), &bytes);
}

fn a_client_that_leaves_during_inspection_is_recorded(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Named, family, 443);
    let hello = Hello::to("allowed.example.org").record();
    for said in [0, 1, hello.len() - 1] {
        let client = send(&lab, server.address(), &hello[..said]);
        let local = client.local_addr().unwrap();
        drop(client);
        gateway.expect_outcome(local, "client_left");
        let client = send(&lab, server.address(), &hello[..said]);
        let local = client.local_addr().unwrap();
        crate::clients::reset(client);
        gateway.expect_outcome(local, "client_left");
    }
    server.assert_untouched();
}

fn a_name_never_opens_a_private_address(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let addresses = match family {
        Family::V4 => ["10.77.0.1:443", "192.168.0.1:443", "169.254.169.254:443", "100.64.0.1:443"],
        Family::V6 => ["[fd77::1]:443", "[fd00:ec2::254]:443", "[fec0::1]:443", "[64:ff9b::a4d:1]:443"],
    };
    for address in addresses {
        let to: SocketAddr = address.parse().unwrap();
        let client = send(&lab, to, &Hello::to("allowed.example.org").record());
        expect_alert(&client, ACCESS_DENIED);
        let local = client.local_addr().unwrap();
        drop(client);
        gateway.expect_outcome(local, "destination_private");
    }
}
