//! Names in TLS: in every spelling, wrong, not allowed, missing, encrypted; and for private addresses.

use crate::clients::{expect_hello_denied, expect_tls_denial};
use crate::config::Config;
use crate::hello::Hello;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::traffic::expect_delivery;

crate::trials! {
    both families:
        names_compare_in_canonical_spelling,
        bad_name_gets_alert,
        unlisted_name_gets_alert,
        only_cidr_rule_permits_nameless_hello,
        encrypted_hello_is_judged_by_outer_name,
        names_never_open_private_addresses;
    once:
}

fn names_compare_in_canonical_spelling(family: Family) {
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
        let client = lab.send(Tenant::Alpha, server.address(), &bytes);
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

fn bad_name_gets_alert(family: Family) {
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
        expect_hello_denied(&lab, &gateway, &server, &hello.record(), outcome, why);
    }
    gateway.wait_for_flows(table.len());
    gateway.wait_for_metric("egret_denials_total", &[("tenant", "alpha")], |sum| sum == table.len() as u64);
}

fn unlisted_name_gets_alert(family: Family) {
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
        expect_hello_denied(&lab, &gateway, &server, &Hello::to(name).record(), outcome, name);
    }
    let elsewhere = lab.listen(Host::Named, family, 8443);
    let hello = Hello::to("allowed.example.org").record();
    expect_hello_denied(&lab, &gateway, &elsewhere, &hello, "not_allowed", "another port than the rule's");
    let denials = gateway.metric("egret_denials_total", &[("tenant", "alpha"), ("reason", "denied_by_rule")]);
    assert_eq!(denials, 1);

    let stranger = lab.expect_reset(Tenant::Stranger, server.address(), &hello);
    gateway.expect_outcome(stranger, "unknown_tenant");
    server.assert_untouched();
}

fn only_cidr_rule_permits_nameless_hello(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let hello = Hello::nameless().record();
    let named = lab.listen(Host::Named, family, 443);
    expect_hello_denied(&lab, &gateway, &named, &hello, "no_hostname", "no server name");

    let inspected = lab.listen(Host::Inspected, family, 443);
    let client = lab.send(Tenant::Alpha, inspected.address(), &hello);
    let local = client.local_addr().unwrap();
    expect_delivery(client, inspected.accept(), &hello);
    let flow = gateway.expect_outcome(local, "closed");
    assert_eq!((&flow["rule"], &flow["protocol"]), (&"alpha-inspected".into(), &"tls".into()), "{flow:#}");
}

/// The extension that browsers send with every hello is permitted by default, and counted separately.
fn encrypted_hello_is_judged_by_outer_name(family: Family) {
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
                let client = lab.send(Tenant::Alpha, server.address(), hello);
                let local = client.local_addr().unwrap();
                expect_delivery(client, server.accept(), hello);
                let flow = gateway.expect_outcome(local, outcome);
                assert_eq!(flow["ech"], true, "{flow:#}");
            } else {
                expect_hello_denied(&lab, &gateway, &server, hello, outcome, ech);
            }
        }
        let client = lab.send(Tenant::Alpha, server.address(), &plain);
        let local = client.local_addr().unwrap();
        expect_delivery(client, server.accept(), &plain);
        assert_eq!(gateway.expect_outcome(local, "closed")["ech"], false);
        assert_eq!(gateway.metric("egret_ech_flows_total", &[("tenant", "alpha")]), 2);
        let denied = outcomes.iter().filter(|outcome| **outcome == "ech_denied").count() as u64;
        let labels = [("tenant", "alpha"), ("reason", "ech_denied")];
        assert_eq!(gateway.metric("egret_denials_total", &labels), denied);
    }
}

fn names_never_open_private_addresses(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let addresses = match family {
        Family::V4 => ["10.77.0.1:443", "192.168.0.1:443", "169.254.169.254:443", "100.64.0.1:443"],
        Family::V6 => ["[fd77::1]:443", "[fd00:ec2::254]:443", "[fec0::1]:443", "[64:ff9b::a4d:1]:443"],
    };
    for address in addresses {
        let hello = Hello::to("allowed.example.org").record();
        let client = lab.send(Tenant::Alpha, address.parse().unwrap(), &hello);
        expect_tls_denial(&gateway, client, "destination_private", address);
    }
}
