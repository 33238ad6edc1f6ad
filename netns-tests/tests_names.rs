//! Names of verifying rules: `egret names`, and later requests for them on one connection.

use crate::config::Config;
use crate::dns::Dns;
use crate::gateway::Gateway;
use crate::hello::Hello;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::requests::{OK, expect, expect_denial_after, opened};
use crate::verified::{NAME, config};
use serde_json::Value;
use std::io::Write;

crate::trials! {
    both families:
        names_command_shows_addresses_and_mismatches,
        verified_connection_serves_one_name;
    once:
        unverified_connection_denies_verified_names
}

const SIBLING: &str = "a.cdn.example.org";

/// Runs `egret names`; returns its output and its exit code.
fn names(gateway: &Gateway, arguments: &[&str]) -> (String, Option<i32>) {
    let output = gateway.egret(&[&["names"], arguments].concat());
    (String::from_utf8(output.stdout).unwrap(), output.status.code())
}

fn names_command_shows_addresses_and_mismatches(family: Family) {
    let lab = Lab::new();
    let named = Host::Named.ip(family);
    let _dns = Dns::start(&lab, Host::Web, &[(NAME, named)]);
    let admin = format!("admin = \"unix:{}\"", lab.control_socket());
    let mut gateway = lab.start_gateway(&Config { gateway: admin.clone(), ..config("observe") });
    let elsewhere = lab.listen(Host::Elsewhere, family, 443);
    for _ in 0..2 {
        let mut client = lab.connect(Tenant::Alpha, elsewhere.address());
        client.write_all(&Hello::to(NAME).record()).unwrap();
        drop(elsewhere.accept());
    }
    gateway.wait_for_metric("egret_verify_total", &[("result", "mismatch")], |count| count == 2);
    let (said, code) = names(&gateway, &[]);
    let row = format!("2 × {NAME} at {}  (alpha, by-name)", elsewhere.address());
    assert!(
        code == Some(0) && said.contains("DNS servers: 198.51.100.10:53\n") && said.contains(&row),
        "{said}"
    );
    let (said, code) = names(&gateway, &[NAME, "--json"]);
    let told: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &told["addresses"]), (Some(0), &serde_json::json!([named])), "{told:#}");
    let mismatch = &told["mismatches"][0];
    assert_eq!((&mismatch["flows"], &mismatch["name"]), (&2.into(), &NAME.into()), "{told:#}");
    let (said, code) = names(&gateway, &["unknown.example.org"]);
    assert!(code == Some(1) && said.contains("no address is known"), "{said}");
    gateway.kill();
    assert_eq!(names(&gateway, &[]), (String::new(), Some(2)), "nobody is there to ask");
    drop(gateway);
    let gateway = lab.start_gateway(&Config { gateway: admin, ..Config::default() });
    let (said, code) = names(&gateway, &[]);
    assert!(code == Some(0) && said.contains("No rule asks"), "{said}");
}

fn request(host: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

fn verified_connection_serves_one_name(family: Family) {
    let lab = Lab::new();
    // The address is the sibling's as well, but it was never looked up.
    let here = Host::Named.ip(family);
    let _dns = Dns::start(&lab, Host::Web, &[(NAME, here), (SIBLING, here)]);
    let server = lab.listen(Host::Named, family, 80);
    for (destination, other) in [("verify", SIBLING), ("verify", "allowed.example.org"), ("resolve", SIBLING)]
    {
        let gateway = lab.start_gateway(&config(destination));
        let (mut client, mut upstream) = opened(&lab, &server, &request(NAME));
        expect(&upstream, &request(NAME));
        upstream.write_all(OK.as_bytes()).unwrap();
        expect(&client, OK);
        client.write_all(request(NAME).as_bytes()).unwrap();
        expect(&upstream, &request(NAME));
        upstream.write_all(OK.as_bytes()).unwrap();
        expect(&client, OK);
        client.write_all(request(other).as_bytes()).unwrap();
        expect_denial_after(&client, "", "destination_mismatch");
        let flow = gateway.expect_outcome(client.local_addr().unwrap(), "destination_mismatch");
        assert_eq!(
            (&flow["hostname"], &flow["denied_hostname"], &flow["requests"]),
            (&NAME.into(), &other.into(), &2.into()),
            "{flow:#}"
        );
        // On a connection of its own the name passes.
        let (client, upstream) = opened(&lab, &server, &request(other));
        expect(&upstream, &request(other));
        drop((client, upstream));
    }
}

fn unverified_connection_denies_verified_names() {
    let lab = Lab::new();
    let _dns = Dns::start(&lab, Host::Web, &[(NAME, Host::Named.ip(Family::V4))]);
    let gateway = lab.start_gateway(&config("verify"));
    let server = lab.listen(Host::Elsewhere, Family::V4, 80);
    let (mut client, mut upstream) = opened(&lab, &server, &request("allowed.example.org"));
    expect(&upstream, &request("allowed.example.org"));
    upstream.write_all(OK.as_bytes()).unwrap();
    expect(&client, OK);
    client.write_all(request(NAME).as_bytes()).unwrap();
    expect_denial_after(&client, "", "destination_mismatch");
    gateway.expect_outcome(client.local_addr().unwrap(), "destination_mismatch");
}
