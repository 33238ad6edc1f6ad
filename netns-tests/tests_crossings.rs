//! Ends that cross: one side closes or resets while the other's last bytes are in flight.

use crate::clients::reset;
use crate::config::Config;
use crate::flows::Flow;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::requests::{FIRST, OK, expect, opened};
use crate::servers::Server;
use crate::tests_outcomes::{CLOSE_NOTIFY, RECORD, finish};
use crate::traffic::pass;
use crate::wait::wait_until;
use std::io::{Read, Write};
use std::net::TcpStream;

crate::trials! {
    both families:
        unaccepted_requests_are_no_failures,
        abandoned_download_is_found_late_too;
    once:
}

/// A server closes a connection that it has kept open, while the client's next request is on its way: the client repeats it on
/// another (RFC 9112 §9.3.1).
fn unaccepted_requests_are_no_failures(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Named, family, 80);
    let tool = if family == Family::V4 { "iptables" } else { "ip6tables" };
    // Requests do not arrive; handshakes and acknowledgements do.
    let lose = |action: &str| {
        let matching = "INPUT -p tcp --dport 80 -m length --length 100:65535 -j DROP";
        lab.server.shell(&format!("{tool} -{action} {matching}"));
    };
    let answered = || {
        let (client, mut upstream) = opened(&lab, &server, FIRST);
        expect(&upstream, FIRST);
        upstream.write_all(OK.as_bytes()).unwrap();
        expect(&client, OK);
        (client, upstream)
    };
    let up = || gateway.metric("egret_flow_bytes_total", &[("direction", "up")]);
    // A reset does not tell how much its sender had taken.
    let closings = [(drop as fn(TcpStream), "closed"), (reset, "upstream_reset")];
    for (closes, lost) in closings {
        // Both are found at once.
        let (mut client, upstream) = answered();
        let local = client.local_addr().unwrap();
        gateway.while_stopped(|| {
            client.write_all(FIRST.as_bytes()).unwrap();
            closes(upstream);
        });
        gateway.expect_outcome(local, "closed");
        // The request is sent first, and lost.
        let (mut client, upstream) = answered();
        let local = client.local_addr().unwrap();
        let before = up();
        lose("I");
        client.write_all(FIRST.as_bytes()).unwrap();
        wait_until("the request to pass", || up() == before + FIRST.len() as u64);
        closes(upstream);
        let _ = client.read(&mut [0]);
        drop(client);
        lose("D");
        gateway.expect_outcome(local, lost);
        // It arrives, and the server closes without an answer.
        let (mut client, mut upstream) = answered();
        let local = client.local_addr().unwrap();
        client.write_all(FIRST.as_bytes()).unwrap();
        upstream.read_exact(&mut [0; FIRST.len()]).unwrap();
        closes(upstream);
        let _ = client.read(&mut [0]);
        drop(client);
        gateway.expect_outcome(local, "upstream_reset");
        // No client repeats the first of a connection.
        lose("I");
        let (mut client, upstream) = opened(&lab, &server, FIRST);
        let local = client.local_addr().unwrap();
        closes(upstream);
        let _ = client.read(&mut [0]);
        drop(client);
        lose("D");
        gateway.expect_outcome(local, "upstream_reset");
    }
}

/// Bytes that the gateway has read and cannot write are undelivered, like those that it has not read.
fn abandoned_download_is_found_late_too(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = Server::raw(&lab, family, 7000);
    for (rest, outcome) in [(&[1; 5000][..], "client_reset"), (CLOSE_NOTIFY, "closed")] {
        let Flow { client, mut upstream } = Flow::open(&lab, Tenant::Alpha, &server);
        let local = client.local_addr().unwrap();
        pass(&upstream, &client, RECORD);
        gateway.while_stopped(|| {
            upstream.write_all(rest).unwrap();
            finish(&upstream);
            reset(client);
        });
        gateway.expect_outcome(local, outcome);
    }
}
