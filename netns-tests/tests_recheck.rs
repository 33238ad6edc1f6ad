//! A new policy needs checks of a live flow that were not made before: whether its address is the name's, whether its
//! server proves the name.

use crate::clients::connect_from;
use crate::config::Config;
use crate::dns::Dns;
use crate::flows::Flow;
use crate::gateway::Gateway;
use crate::hello::Hello;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::rollout::Rollout;
use crate::servers::Server;
use crate::tests_certificates::{Authority, Has, NAME as PROVED};
use crate::tests_revoke::{delivered, expect_revoked, hello_to, open_by_name, reload_to};
use crate::verified::{NAME, rule};
use crate::wait::{PATIENCE, wait_until};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

crate::trials! {
    both families:
        flow_to_verified_address_survives_reload,
        resolved_flow_is_judged_by_actual_address;
    once:
        unverifiable_flow_is_reset_eventually,
        late_answer_still_proves_the_flow,
        flow_to_proven_server_survives_reload,
        reloads_keep_flows_every_policy_checks,
        canary_flows_are_rechecked_when_it_ends,
        relaxed_recheck_proves_only_its_checks,
        shared_recheck_outlives_its_first_flow,
        keeping_flows_cancels_their_recheck
}

const CUT: &str = "  [[tenant.deny]]\n  hosts = [\"nobody.example.org\"]\n";

fn config(lab: &Lab, destination: &str, more: &str) -> Config {
    let more = rule(destination) + more;
    Config { more: "[resolver]\nservers = [\"198.51.100.10\"]".into(), ..Rollout::config(lab, &more) }
}

/// Number of live flows that the gateway then checks, after none was reset at once.
fn unproved(gateway: &Gateway<'_>, config: &Config) -> u64 {
    let answer = reload_to(gateway, config);
    assert_eq!(answer["revoked"], 0, "{answer}");
    answer["unproved"].as_u64().unwrap()
}

/// Waits until this many rounds of checks are complete.
fn wait_for_rounds(gateway: &Gateway<'_>, count: usize) {
    let said = "live flows were asked what the policy in force asks";
    wait_until("live flows to be rechecked", || gateway.stderr().matches(said).count() == count);
}

fn flow_to_verified_address_survives_reload(family: Family) {
    let lab = Lab::new();
    let _dns = Dns::start(&lab, Host::Web, &[(NAME, Host::Named.ip(family))]);
    for destination in ["verify", "resolve"] {
        let gateway = lab.start_gateway(&config(&lab, "original", ""));
        let (server, other) =
            (lab.listen(Host::Named, family, 443), lab.listen(Host::Elsewhere, family, 443));
        let (right, wrong) = (open_by_name(&lab, &server, NAME), open_by_name(&lab, &other, NAME));
        // The name has no known address.
        let unknown = open_by_name(&lab, &server, "no.cdn.example.org");
        let unasked = open_by_name(&lab, &other, "allowed.example.org");
        assert_eq!(unproved(&gateway, &config(&lab, destination, "")), 3);
        for (flow, detail) in
            [(wrong, "the name has other addresses"), (unknown, "the name has no address of this family")]
        {
            let flow = expect_revoked(&gateway, flow);
            assert_eq!(flow["detail"], detail, "{flow:#}");
            assert_eq!((&flow["verdict"], &flow["rule"]), (&"allow".into(), &"by-name".into()), "{flow:#}");
        }
        wait_for_rounds(&gateway, 1);
        right.assert_alive();
        unasked.assert_alive();
        gateway.expect_logged("proved=1 revoked=2");
    }
}

fn resolved_flow_is_judged_by_actual_address(family: Family) {
    let lab = Lab::new();
    let _dns = Dns::start(&lab, Host::Web, &[(NAME, Host::Named.ip(family))]);
    let gateway = lab.start_gateway(&config(&lab, "resolve", ""));
    let server = lab.listen(Host::Named, family, 443);
    let open = || {
        let hello = Hello::to(NAME).record();
        let mut client = lab.connect(Tenant::Alpha, Host::Elsewhere.at(family, 443));
        client.write_all(&hello).unwrap();
        let mut upstream = server.accept();
        upstream.read_exact(&mut vec![0; hello.len()]).unwrap();
        Flow { client, upstream }
    };
    let flow = open();
    // It is known already.
    assert_eq!(unproved(&gateway, &config(&lab, "verify", "")), 0);
    assert_eq!(unproved(&gateway, &config(&lab, "resolve", CUT)), 0);
    flow.assert_alive();
    let deny = format!("  [[tenant.deny]]\n  cidrs = [\"{}\"]\n", server.address().ip());
    for destination in ["resolve", "original"] {
        let flow = open();
        let answer = reload_to(&gateway, &config(&lab, destination, &deny));
        assert!(answer["revoked"].as_u64() >= Some(1), "{answer}");
        expect_revoked(&gateway, flow);
        reload_to(&gateway, &config(&lab, "resolve", ""));
    }
    expect_revoked(&gateway, flow);
}

/// With a short time limit: twelve times this.
fn hasty(lab: &Lab, destination: &str, deadline: &str) -> Config {
    Config { inspect: format!("deadline = \"{deadline}\""), ..config(lab, destination, "") }
}

/// A gateway with a short time limit that checks the address of a live flow; with the flow's server and the flow.
fn asked_about<'l>(lab: &'l Lab, deadline: &str) -> (Gateway<'l>, Server, Flow) {
    let gateway = lab.start_gateway(&hasty(lab, "original", deadline));
    let server = lab.listen(Host::Named, Family::V4, 443);
    let client = gateway.while_stopped(|| hello_to(lab, &server, NAME));
    let flow = delivered(client, &server, NAME);
    assert_eq!(unproved(&gateway, &hasty(lab, "verify", deadline)), 1);
    (gateway, server, flow)
}

fn unverifiable_flow_is_reset_eventually() {
    let lab = Lab::new();
    // No server answers there.
    let (gateway, _server, flow) = asked_about(&lab, "700ms");
    flow.assert_alive();
    let flow = expect_revoked(&gateway, flow);
    assert_eq!(flow["detail"], "nobody could say in time whether the address is one of the name's");
}

fn late_answer_still_proves_the_flow() {
    let lab = Lab::new();
    let (gateway, server, flow) = asked_about(&lab, "1s");
    gateway.wait_for_metric("egret_resolver_lookups_total", &[("result", "failed")], |failed| failed > 0);
    flow.assert_alive();
    let _dns = Dns::start(&lab, Host::Web, &[(NAME, server.address().ip())]);
    wait_for_rounds(&gateway, 1);
    flow.assert_alive();
}

/// A relayed connection to a server that answers by itself.
fn open_hello(lab: &Lab, to: SocketAddr) -> TcpStream {
    let mut client = lab.connect(Tenant::Alpha, to);
    client.write_all(&Hello::to(PROVED).record()).unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
    client
}

fn flow_to_proven_server_survives_reload() {
    let lab = Lab::new();
    let authority = Authority::new();
    let [right, wrong] = [Host::Named, Host::Elsewhere].map(|host| host.at(Family::V4, 443));
    authority.serve(&lab, right, Has::Right);
    authority.serve(&lab, wrong, Has::AnotherName);
    let plain = lab.listen(Host::Named, Family::V4, 80);
    let gateway = lab.start_gateway(&authority.config(&lab, "off"));
    let (stays, mut goes) = (open_hello(&lab, right), open_hello(&lab, wrong));
    let mut http = lab.connect(Tenant::Alpha, plain.address());
    write!(http, "GET / HTTP/1.1\r\nHost: {PROVED}\r\n\r\n").unwrap();
    let _server = plain.accept();
    let answer = reload_to(&gateway, &authority.config(&lab, "require"));
    // A client that speaks no TLS has no name to prove.
    assert_eq!((&answer["revoked"], &answer["unproved"]), (&1.into(), &2.into()), "{answer}");
    let detail =
        |local| gateway.expect_outcome(local, "policy_revoked")["detail"].as_str().unwrap().to_owned();
    assert_eq!(detail(http.local_addr().unwrap()), "the client does not speak TLS");
    let mut rest = Vec::new();
    assert_eq!(goes.read_to_end(&mut rest).unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(detail(goes.local_addr().unwrap()), "the certificate is for another name");
    wait_for_rounds(&gateway, 1);
    assert_eq!(gateway.metric("egret_flows_active", &[("tenant", "alpha")]), 1);
    let local = stays.local_addr().unwrap();
    drop(stays);
    assert_ne!(gateway.flow_from(local)["outcome"], "policy_revoked");
    gateway.wait_for_metric("egret_pool_ports", &[("pool", "alpha"), ("state", "live")], |live| live == 0);
}

fn canary_flows_are_rechecked_when_it_ends() {
    let lab = Lab::new();
    let _dns = Dns::start(&lab, Host::Web, &[(NAME, Host::Named.ip(Family::V4))]);
    let rollout = Rollout::with(&lab, &config(&lab, "verify", ""));
    let open = |server: &Server| open_by_name(&lab, server, NAME);
    let [right, wrong] = [Host::Named, Host::Elsewhere].map(|host| lab.listen(host, Family::V4, 443));
    rollout.load_config(&config(&lab, "original", ""), &["--percent", "100"]);
    let (stays, goes) = (open(&right), open(&wrong));
    rollout.must(&["drop"]);
    assert_eq!(expect_revoked(&rollout.gateway, goes)["canary"], true);
    wait_for_rounds(&rollout.gateway, 1);
    stays.assert_alive();
}

fn relaxed_recheck_proves_only_its_checks() {
    let lab = Lab::new();
    let authority = Authority::new();
    let server = lab.listen(Host::Named, Family::V4, 443);
    let _dns = Dns::start(&lab, Host::Web, &[(PROVED, server.address().ip())]);
    let config = |destination: &str, certificate: &str| {
        let Config { alpha_rules, more, .. } = authority.config(&lab, certificate);
        let alpha_rules = format!("{alpha_rules}  destination = \"{destination}\"\n");
        let more = format!("{more}[resolver]\nservers = [\"198.51.100.10\"]\n");
        Config { alpha_rules, more, ..authority.config(&lab, certificate) }
    };
    let gateway = lab.start_gateway(&config("original", "off"));
    let flow = open_by_name(&lab, &server, PROVED);
    // The server cannot be probed for its certificate.
    drop(server);
    assert_eq!(unproved(&gateway, &config("verify", "require")), 1);
    gateway.wait_for_metric("egret_resolver_lookups_total", &[], |asked| asked > 0);
    assert_eq!(unproved(&gateway, &config("verify", "off")), 1);
    wait_for_rounds(&gateway, 1);
    flow.assert_alive();
    // Its address is verified, its certificate is not.
    assert_eq!(unproved(&gateway, &config("verify", "off")), 0);
    assert_eq!(unproved(&gateway, &config("verify", "require")), 1);
}

fn shared_recheck_outlives_its_first_flow() {
    let lab = Lab::new();
    lab.client.ip("addr add 10.0.1.3/24 dev c0\n");
    let gateway = lab.start_gateway(&config(&lab, "original", ""));
    let server = lab.listen(Host::Elsewhere, Family::V4, 443);
    let hello = Hello::to(NAME).record();
    let [first, second] = ["10.0.1.2", "10.0.1.3"].map(|ip| {
        let to = server.address();
        let mut client = lab.client.run(|| connect_from(ip.parse().unwrap(), to, PATIENCE)).unwrap();
        client.write_all(&hello).unwrap();
        delivered(client, &server, NAME)
    });
    // No server answers yet.
    assert_eq!(unproved(&gateway, &config(&lab, "verify", "")), 2);
    gateway.wait_for_metric("egret_resolver_lookups_total", &[("result", "failed")], |failed| failed > 0);
    // The flow that started the lookup belongs to another tenant now.
    let mut moved = config(&lab, "verify", "");
    moved.more += "\n[[tenant]]\nname = \"gamma\"\nsources = [\"10.0.1.2\"]\npool = \"alpha\"\n";
    let answer = reload_to(&gateway, &moved);
    assert_eq!((&answer["revoked"], &answer["unproved"]), (&1.into(), &1.into()), "{answer}");
    expect_revoked(&gateway, first);
    let _dns = Dns::start(&lab, Host::Web, &[(NAME, Host::Named.ip(Family::V4))]);
    assert_eq!(expect_revoked(&gateway, second)["detail"], "the name has other addresses");
}

fn keeping_flows_cancels_their_recheck() {
    let lab = Lab::new();
    let keep = "on_reload = \"keep\"".to_owned();
    // No server answers.
    let (gateway, _server, flow) = asked_about(&lab, "1s");
    gateway.wait_for_metric("egret_resolver_lookups_total", &[("result", "failed")], |failed| failed > 0);
    assert_eq!(unproved(&gateway, &Config { policy: keep, ..hasty(&lab, "verify", "1s") }), 0);
    wait_for_rounds(&gateway, 1);
    gateway.expect_logged("proved=0 revoked=0");
    flow.assert_alive();
    assert_eq!(unproved(&gateway, &hasty(&lab, "verify", "1s")), 1);
}

fn reloads_keep_flows_every_policy_checks() {
    let lab = Lab::new();
    let server = lab.listen(Host::Named, Family::V4, 443);
    let _dns = Dns::start(&lab, Host::Web, &[(NAME, server.address().ip())]);
    let gateway = lab.start_gateway(&config(&lab, "verify", ""));
    let lived: Vec<_> = (0..20).map(|_| open_by_name(&lab, &server, NAME)).collect();
    let (stop, opened) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                open_by_name(&lab, &server, NAME).assert_alive();
                opened.fetch_add(1, Ordering::Relaxed);
            }
        });
        for n in 0..16 {
            let more = format!("  [[tenant.deny]]\n  hosts = [\"n{n}.example.net\"]\n");
            let destination = if n % 2 == 0 { "resolve" } else { "verify" };
            assert_eq!(unproved(&gateway, &config(&lab, destination, &more)), 0);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(opened.load(Ordering::Relaxed) > 0);
    lived.iter().for_each(Flow::assert_alive);
    assert_eq!(gateway.metric("egret_flows_total", &[("outcome", "policy_revoked")]), 0);
}
