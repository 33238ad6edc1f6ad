//! Another configuration is activated while flows live: each is judged again.

use crate::clients::{ACCESS_DENIED, expect_alert, expect_reset};
use crate::config::Config;
use crate::flows::{End, Flow};
use crate::gateway::Gateway;
use crate::hello::Hello;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::namespace::text;
use crate::servers::Server;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

crate::trials! {
    both families:
        revoked_flow_is_reset_at_both_ends,
        revocation_judges_the_requested_name;
    once:
        on_reload_keep_spares_live_flows,
        flow_of_moved_client_is_reset,
        later_request_is_judged_by_current_rules,
        client_in_inspection_meets_new_rules,
        repeated_reloads_lose_no_allowed_flow,
        no_flow_slips_through_a_reload
}

pub(crate) fn with_rules(lab: &Lab, rules: &str) -> Config {
    let gateway = format!("admin = \"unix:{}\"", lab.control_socket());
    Config { gateway, alpha_rules: rules.into(), ..Config::default() }
}

/// Runs `egret reload`, which must succeed.
fn reload(gateway: &Gateway<'_>, config: &str) -> Value {
    gateway.write(config);
    let output = gateway.egret(&["reload", "--json"]);
    assert!(output.status.success(), "{}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

pub(crate) fn reload_to(gateway: &Gateway<'_>, config: &Config) -> Value {
    reload(gateway, &config.render(&gateway.flow_log()))
}

fn deny_port(port: u16) -> String {
    format!("[[tenant.deny]]\nname = \"no-more\"\nports = [{port}]\ncidrs = [\"0.0.0.0/0\", \"::/0\"]\n")
}

/// Asserts that both ends are reset, and that the record has the reason.
pub(crate) fn expect_revoked(gateway: &Gateway<'_>, flow: Flow) -> Value {
    let Flow { client, upstream } = flow;
    assert_eq!(expect_reset(&client), b"");
    assert_eq!(expect_reset(&upstream), b"");
    let flow = gateway.expect_outcome(client.local_addr().unwrap(), "policy_revoked");
    assert!(flow["detail"].is_string(), "{flow:#}");
    flow
}

/// Opens a flow of alpha's to a name, with the hello delivered.
pub(crate) fn open_by_name(lab: &Lab, server: &Server, name: &str) -> Flow {
    delivered(hello_to(lab, server, name), server, name)
}

/// Connects a client of alpha's that has requested a name.
pub(crate) fn hello_to(lab: &Lab, server: &Server, name: &str) -> TcpStream {
    let mut client = lab.connect(Tenant::Alpha, server.address());
    client.write_all(&Hello::to(name).record()).unwrap();
    client
}

/// Returns its flow, once the server has the hello.
pub(crate) fn delivered(client: TcpStream, server: &Server, name: &str) -> Flow {
    let mut upstream = server.accept();
    upstream.read_exact(&mut vec![0; Hello::to(name).record().len()]).unwrap();
    Flow { client, upstream }
}

fn revoked_flow_is_reset_at_both_ends(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&with_rules(&lab, ""));
    let servers = [Server::raw(&lab, family, 7000), Server::raw(&lab, family, 7001)];
    let denied = Flow::open(&lab, Tenant::Alpha, &servers[0]);
    let others = [
        Flow::open(&lab, Tenant::Alpha, &servers[1]),
        Flow::open(&lab, Tenant::Beta, &servers[0]),
        Flow::open(&lab, Tenant::Alpha, &servers[1]),
    ];
    denied.assert_alive();
    let source = denied.source();
    let answer = reload_to(&gateway, &with_rules(&lab, &deny_port(7000)));
    assert_eq!(answer["revoked"], 1, "{answer}");
    let flow = expect_revoked(&gateway, denied);
    assert_eq!((flow["verdict"].as_str(), flow["rule"].as_str()), (Some("allow"), Some("alpha-raw")));
    assert_eq!(flow["source"], source.to_string());
    assert_eq!(flow["detail"], "no rule lets it out without listening to its client");
    others.iter().for_each(Flow::assert_alive);
    let change = gateway.change(2);
    assert!(change["revoked"] == 1 && change["difference"]["rules"]["added"] == 1, "{change}");
    assert_eq!(gateway.metric("egret_flows_total", &[("outcome", "policy_revoked")]), 1);
    // Its port is free at once, and a second reload does not affect the others.
    assert_eq!(reload_to(&gateway, &with_rules(&lab, ""))["revoked"], 0);
    others.iter().for_each(Flow::assert_alive);
}

fn revocation_judges_the_requested_name(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&with_rules(&lab, ""));
    let server = lab.listen(Host::Named, family, 443);
    let stays = open_by_name(&lab, &server, "allowed.example.org");
    let goes = open_by_name(&lab, &server, "b.wild.example.org");
    let deny = "[[tenant.deny]]\nhosts = [\"*.wild.example.org\"]\n";
    assert_eq!(reload_to(&gateway, &with_rules(&lab, deny))["revoked"], 1);
    let flow = expect_revoked(&gateway, goes);
    assert_eq!(
        (&flow["hostname"], &flow["detail"]),
        (&"b.wild.example.org".into(), &"denied_by_rule".into())
    );
    stays.assert_alive();
}

fn on_reload_keep_spares_live_flows() {
    let lab = Lab::new();
    let keep = |rules: &str| Config { policy: "on_reload = \"keep\"".into(), ..with_rules(&lab, rules) };
    let gateway = lab.start_gateway(&with_rules(&lab, ""));
    let server = Server::raw(&lab, Family::V4, 7000);
    let flow = Flow::open(&lab, Tenant::Alpha, &server);
    assert_eq!(reload_to(&gateway, &keep(&deny_port(7000)))["revoked"], 0);
    flow.assert_alive();
    let refused = lab.expect_reset(Tenant::Alpha, server.address(), b"hello\n");
    gateway.expect_outcome(refused, "denied_by_rule");
    // The new configuration applies.
    assert_eq!(reload_to(&gateway, &with_rules(&lab, &deny_port(7000)))["revoked"], 1);
    expect_revoked(&gateway, flow);
}

fn flow_of_moved_client_is_reset() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&with_rules(&lab, ""));
    let server = Server::raw(&lab, Family::V4, 7000);
    let before = with_rules(&lab, "").render(&gateway.flow_log());
    let gamma = "[[tenant]]\nname = \"gamma\"\nsources = [\"10.0.1.2\"]\npool = \"alpha\"\n\
                 [[tenant.allow]]\ncidrs = [\"198.51.100.20/32\"]\ninspect = \"none\"\n";
    for (after, tenant) in [
        // It is permitted the same, but belongs to another tenant.
        (format!("{before}{gamma}"), Some("gamma")),
        (before.replace("\"10.0.1.0/24\", ", ""), None),
        (before.replace("name = \"alpha\"\nsources", "name = \"renamed\"\nsources"), Some("renamed")),
    ] {
        let flow = Flow::open(&lab, Tenant::Alpha, &server);
        let other = Flow::open(&lab, Tenant::Beta, &server);
        assert_eq!(reload(&gateway, &after)["revoked"], 1, "{tenant:?}");
        let flow = expect_revoked(&gateway, flow);
        assert_eq!(flow["tenant"], "alpha");
        assert_eq!(flow["detail"], "the client is another tenant's now, or nobody's");
        other.assert_alive();
        match Flow::try_open(&lab, Tenant::Alpha, &server) {
            Ok(again) => {
                let local = again.client.local_addr().unwrap();
                drop(again);
                assert_eq!(gateway.flow_from(local)["tenant"].as_str(), tenant);
            }
            Err(refused) => {
                assert_eq!(tenant, None);
                gateway.expect_outcome(refused, "unknown_tenant");
            }
        }
        drop(other);
        reload(&gateway, &before);
    }
}

fn client_in_inspection_meets_new_rules() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&with_rules(&lab, ""));
    let server = lab.listen(Host::Named, Family::V4, 443);
    let hello = Hello::to("allowed.example.org").record();
    let begin = || {
        let mut client = lab.connect(Tenant::Alpha, server.address());
        client.write_all(&hello[..20]).unwrap();
        gateway.wait_for_metric("egret_flows_active", &[("tenant", "alpha")], |flows| flows == 1);
        client
    };
    let before = with_rules(&lab, "").render(&gateway.flow_log());
    let deny = "[[tenant.deny]]\nhosts = [\"allowed.example.org\"]\n";

    let mut client = begin();
    reload_to(&gateway, &with_rules(&lab, deny));
    client.write_all(&hello[20..]).unwrap();
    expect_alert(&client, ACCESS_DENIED);
    let local = client.local_addr().unwrap();
    drop(client);
    gateway.expect_outcome(local, "denied_by_rule");
    server.assert_untouched();

    let mut client = begin();
    reload(&gateway, &before);
    client.write_all(&hello[20..]).unwrap();
    let mut upstream = server.accept();
    upstream.read_exact(&mut vec![0; hello.len()]).unwrap();
    let flow = Flow { client, upstream };
    flow.assert_alive();
    drop(flow);
    gateway.wait_for_metric("egret_flows_active", &[("tenant", "alpha")], |flows| flows == 0);

    let mut client = begin();
    reload(&gateway, &before.replace("name = \"alpha\"\nsources", "name = \"renamed\"\nsources"));
    client.write_all(&hello[20..]).unwrap();
    assert_eq!(expect_reset(&client), b"");
    gateway.expect_outcome(client.local_addr().unwrap(), "policy_revoked");
    server.assert_untouched();
}

fn later_request_is_judged_by_current_rules() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&with_rules(&lab, ""));
    let server = lab.listen(Host::Named, Family::V4, 80);
    let request = |host: &str| format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes();
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let mut client = lab.connect(Tenant::Alpha, server.address());
    client.write_all(&request("allowed.example.org")).unwrap();
    let mut upstream = server.accept();
    let mut serve = |host: &str| {
        upstream.read_exact(&mut vec![0; request(host).len()]).unwrap();
        upstream.write_all(answer).unwrap();
    };
    serve("allowed.example.org");
    client.read_exact(&mut [0; 40]).unwrap();
    client.write_all(&request("b.wild.example.org")).unwrap();
    serve("b.wild.example.org");
    client.read_exact(&mut [0; 40]).unwrap();
    // The flow was permitted for the first name, and stays; the second is denied from now on.
    let deny = "[[tenant.deny]]\nhosts = [\"b.wild.example.org\"]\n";
    assert_eq!(reload_to(&gateway, &with_rules(&lab, deny))["revoked"], 0);
    client.write_all(&request("b.wild.example.org")).unwrap();
    crate::clients::expect_http_denial(&client, 403, &["denied_by_rule"]);
    let local = client.local_addr().unwrap();
    drop(client);
    gateway.expect_outcome(local, "denied_by_rule");
}

/// Opens flows, passes bytes and closes them, until stopped; returns their number. A failed flow is a failure.
fn churn(lab: &Lab, server: &Server, stop: &AtomicBool) -> usize {
    let mut flows = 0;
    while !stop.load(Ordering::Relaxed) {
        let flow = Flow { client: lab.connect(Tenant::Alpha, server.address()), upstream: server.accept() };
        flow.assert_alive();
        flow.end(End::ServerFirst);
        flows += 1;
    }
    flows
}

fn repeated_reloads_lose_no_allowed_flow() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&with_rules(&lab, ""));
    let (raw, named) = (Server::raw(&lab, Family::V4, 7000), lab.listen(Host::Named, Family::V4, 443));
    let lived: Vec<_> = (0..50)
        .map(|n| match n % 2 {
            0 => Flow::open(&lab, Tenant::Alpha, &raw),
            _ => open_by_name(&lab, &named, "allowed.example.org"),
        })
        .collect();
    let server = Server::raw(&lab, Family::V4, 7001);
    let stop = AtomicBool::new(false);
    let flows = thread::scope(|scope| {
        let churner = scope.spawn(|| churn(&lab, &server, &stop));
        for n in 0..40 {
            // Each differs from the one before, and denies something unused.
            let deny = format!("[[tenant.deny]]\nhosts = [\"n{n}.example.net\"]\nports = [{}]\n", 1000 + n);
            assert_eq!(reload_to(&gateway, &with_rules(&lab, &deny))["revoked"], 0);
            lived[n % lived.len()].assert_alive();
        }
        stop.store(true, Ordering::Relaxed);
        churner.join().unwrap()
    });
    lived.iter().for_each(Flow::assert_alive);
    for flow in lived {
        flow.end(End::ServerFirst);
    }
    let records = gateway.wait_for_flows(flows + 50);
    assert!(flows > 0 && records.iter().all(|flow| flow["outcome"] == "closed"), "{flows} flows");
    gateway.change(41);
}

/// Opens flows by name and keeps the successful ones, until stopped; returns their sockets.
fn pour(lab: &Lab, to: SocketAddr, stop: &AtomicBool, opened: &AtomicUsize) -> Vec<TcpStream> {
    let hello = Hello::to("allowed.example.org").record();
    let mut clients = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        if let Ok(mut client) = lab.dial(Tenant::Alpha, to) {
            // It may be reset already.
            let _ = client.write_all(&hello);
            clients.push(client);
            opened.fetch_add(1, Ordering::Relaxed);
        }
    }
    clients
}

fn no_flow_slips_through_a_reload() {
    const ROUNDS: usize = 8;
    let lab = Lab::new();
    let gateway = lab.start_gateway(&with_rules(&lab, ""));
    let server = lab.listen(Host::Named, Family::V4, 443);
    let before = with_rules(&lab, "").render(&gateway.flow_log());
    let after =
        with_rules(&lab, "[[tenant.deny]]\nhosts = [\"allowed.example.org\"]\n").render(&gateway.flow_log());
    let mut relayed = 0;
    for _ in 0..ROUNDS {
        let (stop, opened) = (AtomicBool::new(false), AtomicUsize::new(0));
        let clients = thread::scope(|scope| {
            let pouring = [(); 2].map(|()| scope.spawn(|| pour(&lab, server.address(), &stop, &opened)));
            crate::wait::wait_until("flows", || opened.load(Ordering::Relaxed) > 20);
            // In the midst of new flows.
            reload(&gateway, &after);
            stop.store(true, Ordering::Relaxed);
            pouring.map(|pouring| pouring.join().unwrap()).into_iter().flatten().collect::<Vec<_>>()
        });
        // Whichever policy judged them: none lives.
        for mut client in clients {
            let mut said = Vec::new();
            match client.read_to_end(&mut said) {
                Ok(_) => assert_eq!(said, [21, 3, 3, 0, 2, 2, ACCESS_DENIED], "an end that is no denial"),
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
            }
        }
        relayed += server.accept_those_that_came().len();
        reload(&gateway, &before);
    }
    gateway.wait_for_metric("egret_flows_active", &[], |flows| flows == 0);
    let outcomes: Vec<_> = gateway.flows().iter().map(|flow| flow["outcome"].clone()).collect();
    let count = |outcome: &str| outcomes.iter().filter(|found| **found == outcome).count();
    let (revoked, denied) = (count("policy_revoked"), count("denied_by_rule"));
    assert!(relayed > 0 && revoked > 0 && denied > 0, "{relayed} {revoked} {denied}");
}
