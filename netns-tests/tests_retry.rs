//! HelloRetryRequest: a second ClientHello must have the same name as the first.

use crate::clients::{expect_reset, read_all};
use crate::config::Config;
use crate::hello::{Hello, record};
use crate::lab::{Family, Host, Lab, Tenant};
use crate::namespace::text;
use crate::nginx::certificate;
use crate::traffic::pass;
use crate::wait::wait_until;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

crate::trials! {
    both families:
        openssl_completes_hello_retry,
        second_hello_for_other_name_is_reset;
    once:
        second_hello_for_same_name_passes,
        monitor_passes_and_records_second_hello
}

const CCS: &[u8] = b"\x14\x03\x03\x00\x01\x01";

/// A ServerHello with the random that makes it a HelloRetryRequest (RFC 8446 §4.1.3).
pub(crate) fn retry() -> Vec<u8> {
    let random = b"\xcf\x21\xad\x74\xe5\x9a\x61\x11\xbe\x1d\x8c\x02\x1e\x65\xb8\x91\xc2\xa2\x11\x16\x7a\xbb\x8c\x5e\x07\x9e\x09\xe2\xc8\xa8\x33\x9c";
    let body = [&[3, 3][..], random, &[0, 0x13, 1, 0, 0, 0]].concat();
    record(&[&[2, 0, 0, u8::try_from(body.len()).unwrap()], &*body].concat())
}

fn openssl_completes_hello_retry(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let (dir, to) = (certificate(), Host::Named.at(family, 443));
    let mut server = lab.server.spawn(
        Command::new("openssl")
            .args(["s_server", "-quiet", "-www", "-tls1_3", "-groups", "P-384", "-accept"])
            .arg(to.to_string())
            .arg("-cert")
            .arg(dir.path().join("cert.pem"))
            .arg("-key")
            .arg(dir.path().join("key.pem")),
    );
    wait_until("openssl to listen", || lab.server.run(|| TcpStream::connect(to).is_ok()));
    // Its key share is for a group that the server rejects.
    let output = lab.client.output(
        Command::new("openssl")
            .args([
                "s_client",
                "-brief",
                "-msg",
                "-tls1_3",
                "-groups",
                "X25519:P-384",
                "-servername",
                "allowed.example.org",
            ])
            .args(["-verify_return_error", "-verify_hostname", "allowed.example.org", "-CAfile"])
            .arg(dir.path().join("cert.pem"))
            .arg("-bind")
            .arg(SocketAddr::new(Tenant::Alpha.client(family), 0).to_string())
            .arg("-connect")
            .arg(to.to_string()),
    );
    let said = text(&output);
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(said.matches("ClientHello").count(), 2, "{said}");
    assert!(said.contains("CONNECTION ESTABLISHED"), "{said}");
    let flows = gateway.wait_for_flows(1);
    assert_eq!(
        (&flows[0]["hostname"], &flows[0]["verdict"]),
        (&"allowed.example.org".into(), &"allow".into())
    );
    assert_ne!(flows[0]["outcome"], "hello_changed", "{:#}", flows[0]);
}

fn second_hello_for_other_name_is_reset(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Named, family, 443);
    let first = Hello::to("allowed.example.org").record();
    for second in [Hello::to("denied.example.org"), Hello::to("any.wild.example.org"), Hello::nameless()] {
        for (before, second) in
            [(&b""[..], second.record()), (CCS, second.record()), (CCS, second.records_of(50))]
        {
            let mut client = lab.connect(Tenant::Alpha, server.address());
            client.write_all(&first).unwrap();
            let upstream = server.accept();
            expect(&upstream, &first);
            pass(&upstream, &client, &retry());
            client.write_all(&[before, &second].concat()).unwrap();
            assert_eq!(expect_reset(&client), b"");
            assert_eq!(expect_reset(&upstream), before, "the second hello did not arrive");
            let flow = gateway.expect_outcome(client.local_addr().unwrap(), "hello_changed");
            assert_eq!(
                (&flow["verdict"], &flow["detail"]),
                (&"deny".into(), &"another server name".into()),
                "{flow:#}"
            );
        }
    }
    assert_eq!(gateway.metric("egret_denials_total", &[("reason", "hello_changed")]), 9);
}

fn second_hello_for_same_name_passes() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Named, Family::V4, 443);
    let (first, second) =
        (Hello::to("allowed.example.org"), Hello::to("Allowed.Example.org.").post_quantum());
    let early = &b"\x17\x03\x03\x00\x05early"[..];
    for second in [second.record(), second.records_of(7)] {
        let mut client = lab.connect(Tenant::Alpha, server.address());
        client.write_all(&[&first.record(), CCS, early].concat()).unwrap();
        let upstream = server.accept();
        expect(&upstream, &[&first.record(), CCS, early].concat());
        pass(&upstream, &client, &retry());
        pass(&client, &upstream, &[early, &second].concat());
        // From the ServerHello on, nothing is inspected.
        let mut hello = retry();
        hello[11] ^= 1;
        pass(&upstream, &client, &hello);
        pass(&client, &upstream, &Hello::to("denied.example.org").record());
        let local = client.local_addr().unwrap();
        drop(client);
        assert_eq!(read_all(&upstream), b"");
        drop(upstream);
        gateway.expect_outcome(local, "closed");
    }
}

fn monitor_passes_and_records_second_hello() {
    let lab = Lab::new();
    let gateway =
        lab.start_gateway(&Config { alpha_tenant: "mode = \"monitor\"".into(), ..Config::default() });
    let server = lab.listen(Host::Named, Family::V4, 443);
    let mut client = lab.connect(Tenant::Alpha, server.address());
    client.write_all(&Hello::to("allowed.example.org").record()).unwrap();
    let upstream = server.accept();
    expect(&upstream, &Hello::to("allowed.example.org").record());
    pass(&upstream, &client, &retry());
    pass(&client, &upstream, &Hello::to("denied.example.org").record());
    let local = client.local_addr().unwrap();
    drop(client);
    drop(upstream);
    let flow = gateway.flow_from(local);
    assert_eq!(
        (&flow["verdict"], &flow["would_deny"]),
        (&"allow".into(), &"hello_changed".into()),
        "{flow:#}"
    );
}

fn expect(mut stream: &TcpStream, wanted: &[u8]) {
    use std::io::Read;
    let mut got = vec![0; wanted.len()];
    stream.read_exact(&mut got).unwrap();
    assert_eq!(got, wanted);
}
