//! A reset of one leg resets the other, and never looks like an end of file.

use crate::clients::{expect_reset, expect_reset_while_sending, read_all, reset};
use crate::config::Config;
use crate::flows::Flow;
use crate::gateway::Gateway;
use crate::lab::{Family, Lab, Tenant};
use crate::servers::Server;
use crate::traffic::pass;
use std::net::Shutdown;

crate::trials! {
    both families:
        client_reset_reaches_the_server,
        client_leaving_mid_answer_is_no_success,
        server_reset_reaches_the_client;
    once:
}

fn client_reset_reaches_the_server(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = Server::raw(&lab, family, 7000);
    for (count, greeted) in (1..).zip([true, false]) {
        let Flow { client, upstream } = open(&lab, &server, greeted);
        // A client that leaves before the gateway has seen the connection established would only have left.
        wait_for_connects(&gateway, count);
        let local = client.local_addr().unwrap();
        reset(client);
        assert_eq!(expect_reset(&upstream), b"");
        gateway.expect_outcome(local, "client_reset");
    }
    // Even if the client had finished, and bytes for it are in flight.
    let Flow { client, upstream } = Flow::open(&lab, Tenant::Alpha, &server);
    let local = client.local_addr().unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&upstream), b"");
    pass(&upstream, &client, b"part of an answer");
    reset(client);
    expect_reset_while_sending(&upstream);
    gateway.expect_outcome(local, "client_reset");
}

/// At any stage of the connection to the server: what the client broke off never looks finished.
fn client_leaving_mid_answer_is_no_success(family: Family) {
    const FLOWS: usize = 300;
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = Server::raw(&lab, family, 7000);
    for _ in 0..FLOWS {
        reset(lab.connect(Tenant::Alpha, server.address()));
    }
    for flow in gateway.wait_for_flows(FLOWS) {
        assert!(flow["outcome"] == "client_left" || flow["outcome"] == "client_reset", "{flow:#}");
    }
    for upstream in server.accept_those_that_came() {
        assert_eq!(expect_reset(&upstream), b"");
    }
    gateway.wait_for_metric("egret_pool_ports", &[("pool", "alpha")], |live_or_held| live_or_held == 0);
}

fn server_reset_reaches_the_client(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = Server::raw(&lab, family, 7000);
    for (count, greeted) in (1..).zip([true, false]) {
        let Flow { client, upstream } = open(&lab, &server, greeted);
        // A reset before the gateway has seen the connection established would be a refusal.
        wait_for_connects(&gateway, count);
        reset(upstream);
        assert_eq!(expect_reset(&client), b"");
        gateway.expect_outcome(client.local_addr().unwrap(), "upstream_reset");
    }
    let Flow { client, upstream } = Flow::open(&lab, Tenant::Alpha, &server);
    upstream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&client), b"");
    pass(&client, &upstream, b"part of a request");
    reset(upstream);
    expect_reset_while_sending(&client);
    // It had sent everything.
    gateway.expect_outcome(client.local_addr().unwrap(), "closed");
}

/// Opens a flow in which each side has already sent something, or neither.
fn open(lab: &Lab, server: &Server, greeted: bool) -> Flow {
    let flow = Flow::open(lab, Tenant::Alpha, server);
    if greeted {
        pass(&flow.client, &flow.upstream, b"hello");
        pass(&flow.upstream, &flow.client, b"welcome");
    }
    flow
}

/// Waits until the gateway has seen that many of alpha's connections to servers established.
fn wait_for_connects(gateway: &Gateway, count: u64) {
    gateway.wait_for_metric("egret_connect_duration_seconds_count", &[("tenant", "alpha")], |seen| {
        seen == count
    });
}
