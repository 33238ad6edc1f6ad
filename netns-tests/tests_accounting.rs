//! Every accepted connection is counted once in the flow log and in the metrics.

use crate::clients::{connect_from, expect_reset, read_all, reset};
use crate::config::Config;
use crate::hello::Hello;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::tests_revoke::{reload_to, with_rules};
use crate::traffic::{self, pass};
use crate::wait::{PATIENCE, wait_until};
use nix::sys::signal::Signal;
use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::net::Shutdown;

crate::trials! {
    both families:
        every_connection_leaves_one_record,
        bytes_are_counted_during_the_flow;
    once:
        stop_resets_and_records_live_flows,
        stop_drains_flows_within_period,
        stop_serves_connections_that_wait,
        rotated_logs_are_reopened,
        tenant_flow_limit_is_answered,
        full_gateway_is_answered,
        inspection_limit_is_answered
}

fn every_connection_leaves_one_record(family: Family) {
    const ROUNDS: usize = 25;
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let raw = lab.listen(Host::Raw, family, 7000);
    let named = Host::Named.at(family, 443); // nobody listens
    let from = Tenant::Alpha.client(family);
    for _ in 0..ROUNDS {
        // Relayed: to the end, reset by the client, reset by the server.
        for how in 0..3 {
            let client = lab.connect(Tenant::Alpha, raw.address());
            let upstream = raw.accept();
            pass(&client, &upstream, b"hello");
            match how {
                0 => drop((client, upstream)),
                1 => reset(client),
                _ => reset(upstream),
            }
        }
        // Denied, refused, and closed before sending anything, without waiting for the result.
        lab.client.run(|| {
            let open = |to, bytes: &[u8]| {
                let mut client = connect_from(from, to, PATIENCE).unwrap();
                client.write_all(bytes).unwrap();
                client
            };
            drop(open(named, &Hello::to("denied.example.org").record()));
            drop(open(named, &Hello::to("allowed.example.org").record()));
            drop(open(named, b"GET / HTTP/1.1\r\nHost: denied.example.org\r\n\r\n"));
            drop(open(named, b"\x16\x03"));
            reset(open(named, b""));
            drop(connect_from(Tenant::Stranger.client(family), raw.address(), PATIENCE));
        });
    }
    let flows = gateway.wait_for_flows(9 * ROUNDS);
    let ids: HashSet<_> = flows.iter().map(|flow| flow["flow"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 9 * ROUNDS, "flow ids repeat");
    gateway.wait_for_metric("egret_flows_total", &[], |total| total == 9 * ROUNDS as u64);
    gateway.wait_for_metric("egret_flows_active", &[], |active| active == 0);
    for outcome in flows.iter().map(|flow| flow["outcome"].as_str().unwrap()).collect::<HashSet<_>>() {
        let logged = flows.iter().filter(|flow| flow["outcome"] == outcome).count() as u64;
        gateway.wait_for_metric("egret_flows_total", &[("outcome", outcome)], |counted| counted == logged);
    }
    let strangers = flows.iter().filter(|flow| flow["tenant"].is_null()).count();
    assert_eq!(strangers, ROUNDS);
    assert_eq!(gateway.metric("egret_flow_log_dropped_total", &[]), 0);
    gateway.wait_for_metric("egret_pool_ports", &[("state", "live")], |live| live == 0);
}

fn bytes_are_counted_during_the_flow(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Raw, family, 7000);
    let client = lab.connect(Tenant::Alpha, server.address());
    let upstream = server.accept();
    let bytes = |direction, wanted: u64| {
        let labels = [("tenant", "alpha"), ("direction", direction)];
        gateway.wait_for_metric("egret_flow_bytes_total", &labels, |bytes| bytes == wanted);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| traffic::send(&client, 3_000_000));
        traffic::receive(&upstream, 3_000_000);
    });
    bytes("up", 3_000_000);
    pass(&upstream, &client, b"a few");
    bytes("down", 5);
    gateway.wait_for_metric("egret_flows_active", &[("tenant", "alpha")], |active| active == 1);
    assert!(gateway.flows().is_empty(), "it has not ended");
    drop((client, upstream));
    gateway.wait_for_flows(1);
    bytes("up", 3_000_000);
    bytes("down", 5);
    for (path, says) in [("/healthz", 200), ("/readyz", 200), ("/nothing", 404)] {
        assert_eq!(gateway.get(path).unwrap().0, says, "{path}");
    }
}

fn stop_resets_and_records_live_flows() {
    let lab = Lab::new();
    // Nothing ends before the stop.
    let patient = Config { gateway: "connect_timeout = \"60s\"".into(), ..Config::default() };
    let mut gateway = lab.start_gateway(&patient);
    let server = lab.listen(Host::Raw, Family::V4, 7000);
    let live: Vec<_> = (0..20)
        .map(|_| {
            let client = lab.connect(Tenant::Alpha, server.address());
            let upstream = server.accept();
            pass(&client, &upstream, b"hello");
            (client, upstream)
        })
        .collect();
    let inspected = lab.connect(Tenant::Alpha, Host::Named.at(Family::V4, 443));
    let dialled = lab.connect(Tenant::Alpha, Host::Silent.at(Family::V4, 7000));
    gateway.wait_for_metric("egret_flows_active", &[], |active| active == 22);
    gateway.signal(Signal::SIGTERM);
    let status = gateway.wait_for_end();
    assert!(status.success(), "{status}");
    for (client, upstream) in &live {
        assert_eq!(expect_reset(client), b"");
        assert_eq!(expect_reset(upstream), b"");
    }
    assert_eq!(expect_reset(&inspected), b"");
    assert_eq!(expect_reset(&dialled), b"");
    let flows = gateway.wait_for_flows(22);
    let drained = flows.iter().filter(|flow| flow["outcome"] == "drained").count();
    assert_eq!(drained, 22, "{:?}", flows.iter().map(|flow| &flow["outcome"]).collect::<Vec<_>>());
}

fn stop_drains_flows_within_period() {
    let lab = Lab::new();
    let config = Config { drain: "\"30s\"".into(), ..Config::default() };
    let mut gateway = lab.start_gateway(&config);
    let server = lab.listen(Host::Raw, Family::V4, 7000);
    let client = lab.connect(Tenant::Alpha, server.address());
    let upstream = server.accept();
    gateway.signal(Signal::SIGTERM);
    wait_until("the gateway to report that it is not ready", || {
        gateway.get("/readyz").is_ok_and(|got| got.0 == 503)
    });
    pass(&client, &upstream, b"one more thing");
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&upstream), b"");
    pass(&upstream, &client, b"that was all");
    drop(upstream);
    assert_eq!(read_all(&client), b"");
    let status = gateway.wait_for_end();
    assert!(status.success(), "{status}");
    assert_eq!(gateway.wait_for_flows(1)[0]["outcome"], "closed");
}

fn stop_serves_connections_that_wait() {
    const WAITING: usize = 400;
    let lab = Lab::new();
    let config = Config { drain: "\"30s\"".into(), ..Config::default() };
    let mut gateway = lab.start_gateway(&config);
    let server = lab.listen(Host::Raw, Family::V4, 7000);
    let clients: Vec<_> = gateway.while_stopped(|| {
        let clients = (0..WAITING).map(|_| lab.connect(Tenant::Alpha, server.address())).collect();
        gateway.signal(Signal::SIGTERM);
        clients
    });
    for _ in 0..WAITING {
        drop(server.accept());
    }
    for client in &clients {
        assert_eq!(read_all(client), b"");
    }
    drop(clients);
    let status = gateway.wait_for_end();
    assert!(status.success(), "{status}");
    let flows = gateway.wait_for_flows(WAITING);
    assert!(flows.iter().all(|flow| flow["outcome"] == "closed"), "{flows:#?}");
}

fn rotated_logs_are_reopened() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let server = lab.listen(Host::Raw, Family::V4, 7000);
    let flow = || {
        let client = lab.connect(Tenant::Alpha, server.address());
        drop((server.accept(), client));
    };
    flow();
    gateway.wait_for_flows(1);
    for (n, signal) in [Signal::SIGUSR1, Signal::SIGHUP].into_iter().enumerate() {
        let rotated = gateway.flow_log().with_extension(n.to_string());
        fs::rename(gateway.flow_log(), &rotated).unwrap();
        gateway.signal(signal);
        wait_until("a new flow log", || gateway.flow_log().exists());
        flow();
        gateway.wait_for_flows(1);
        assert_eq!(fs::read_to_string(rotated).unwrap().lines().count(), 1);
    }
    // Only the second one was a reload.
    assert_eq!(gateway.change(2)["by"], "signal");
}

fn tenant_flow_limit_is_answered() {
    let lab = Lab::new();
    let config = Config { alpha_tenant: "limits = { flows = 2 }".into(), ..Config::default() };
    let gateway = lab.start_gateway(&config);
    let server = lab.listen(Host::Raw, Family::V4, 7000);
    let open = || (lab.connect(Tenant::Alpha, server.address()), server.accept());
    let mut live = vec![open(), open()];
    let refused = lab.expect_reset(Tenant::Alpha, server.address(), b"");
    gateway.expect_outcome(refused, "tenant_flow_limit");
    server.assert_untouched();
    // Another tenant's flows are not affected.
    let beta = lab.connect(Tenant::Beta, server.address());
    pass(&beta, &server.accept(), b"hello");
    let (client, upstream) = live.remove(0);
    let local = client.local_addr().unwrap();
    drop((client, upstream));
    gateway.expect_outcome(local, "closed");
    live.push(open());
}

fn full_gateway_is_answered() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config { gateway: "max_flows = 2".into(), ..Config::default() });
    let server = lab.listen(Host::Raw, Family::V6, 7000);
    let alpha = (lab.connect(Tenant::Alpha, server.address()), server.accept());
    let beta = (lab.connect(Tenant::Beta, server.address()), server.accept());
    for tenant in [Tenant::Alpha, Tenant::Beta] {
        let refused = lab.expect_reset(tenant, server.address(), b"");
        gateway.expect_outcome(refused, "gateway_full");
    }
    server.assert_untouched();
    let local = alpha.0.local_addr().unwrap();
    drop(alpha);
    gateway.expect_outcome(local, "closed");
    let another = (lab.connect(Tenant::Alpha, server.address()), server.accept());
    pass(&another.0, &another.1, b"there is room again");
    pass(&beta.0, &beta.1, b"still here");
}

fn inspection_limit_is_answered() {
    let lab = Lab::new();
    let config =
        |rules| Config { inspect: "deadline = \"60s\"\nmax_pending = 2".into(), ..with_rules(&lab, rules) };
    let gateway = lab.start_gateway(&config(""));
    let server = lab.listen(Host::Named, Family::V4, 443);
    let pending =
        [lab.connect(Tenant::Alpha, server.address()), lab.connect(Tenant::Alpha, server.address())];
    gateway.wait_for_metric("egret_flows_active", &[("tenant", "alpha")], |active| active == 2);
    let refused = || lab.expect_reset(Tenant::Alpha, server.address(), b"");
    gateway.expect_outcome(refused(), "inspection_busy");
    // A change of the rules does not forget them.
    reload_to(&gateway, &config("[[tenant.deny]]\nhosts = [\"denied.example.org\"]\n"));
    gateway.expect_outcome(refused(), "inspection_busy");
    // Flows without inspection, and those of other tenants, are not affected.
    let raw = lab.listen(Host::Raw, Family::V4, 7000);
    let client = lab.connect(Tenant::Alpha, raw.address());
    pass(&client, &raw.accept(), b"hello");
    let hello = Hello::to("beta.example.org").record();
    let mut beta = lab.connect(Tenant::Beta, server.address());
    beta.write_all(&hello).unwrap();
    traffic::expect_delivery(beta, server.accept(), &hello);
    drop(pending);
}
