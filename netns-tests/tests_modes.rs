//! Monitor mode: flows that policy would deny reach their server unchanged, and are recorded; other refusals stay.

use crate::clients::{ACCESS_DENIED, expect_alert, expect_http_denial};
use crate::config::Config;
use crate::gateway::Gateway;
use crate::hello::{Hello, record};
use crate::lab::{Family, Host, Lab, Tenant};
use crate::namespace::text;
use crate::rollout::Rollout;
use crate::servers::Server;
use crate::tests_reload::reload;
use crate::tests_revoke::{expect_revoked, open_by_name};
use crate::traffic::{expect_delivery, pass};
use crate::wait::wait_for;
use jiff::Timestamp;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

crate::trials! {
    both families:
        monitor_passes_and_records_denials,
        monitor_passes_server_first_after_deadline,
        monitor_counts_no_allowed_flow,
        monitor_waives_no_limit_or_loop,
        monitor_passes_private_addresses,
        suggestions_from_monitoring_can_be_enforced;
    once:
        past_monitoring_date_enforces_at_start,
        monitoring_ends_at_its_date,
        monitor_passes_flows_beyond_inspection_limit
}

/// Alpha in monitor mode, with a short deadline for silent clients.
fn monitor() -> Config {
    Config {
        alpha_tenant: "mode = \"monitor\"\nlimits = { flows = 3 }".into(),
        inspect: "deadline = \"300ms\"\nmax_hello = \"2KiB\"".into(),
        ..Config::default()
    }
}

/// A client that sends at once.
fn send(lab: &Lab, gateway: &Gateway, to: SocketAddr, bytes: &[u8]) -> TcpStream {
    send_from(Tenant::Alpha, lab, gateway, to, bytes)
}

fn send_from(tenant: Tenant, lab: &Lab, gateway: &Gateway, to: SocketAddr, bytes: &[u8]) -> TcpStream {
    gateway.while_stopped(|| {
        let mut client = lab.connect(tenant, to);
        client.write_all(bytes).unwrap();
        client
    })
}

/// Asserts that the bytes reach the server unchanged, and that the record has the reason of the waived denial.
fn expect_waived(lab: &Lab, gateway: &Gateway, server: &Server, bytes: &[u8], reason: &str, rule: &str) {
    let client = send(lab, gateway, server.address(), bytes);
    let local = client.local_addr().unwrap();
    expect_delivery(client, server.accept(), bytes);
    let flow = gateway.expect_outcome(local, "closed");
    assert_eq!((&flow["would_deny"], &flow["verdict"]), (&reason.into(), &"allow".into()), "{flow:#}");
    assert_eq!(flow["rule"].as_str().unwrap_or(""), rule, "{flow:#}");
    assert_eq!(flow["dialled"], server.address().to_string());
}

fn monitor_passes_and_records_denials(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&monitor());
    let server = lab.listen(Host::Named, family, 443);
    let hello = |name: &str| Hello::to(name).record();
    let cases: [(&str, Vec<u8>, &str); 9] = [
        ("not_allowed", hello("unheard.example.org"), ""),
        ("denied_by_rule", hello("secret.wild.example.org"), "secrets"),
        ("no_hostname", Hello::nameless().record(), ""),
        ("no_hostname", b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), ""),
        ("invalid_hostname", hello("198.51.100.11"), ""),
        ("malformed_tls", record(&[]), ""),
        ("malformed_http", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_vec(), ""),
        ("hello_too_large", [b"GET / HTTP/1.1\r\nX: ".to_vec(), vec![b'x'; 4096]].concat(), ""),
        ("inspect_timeout", hello("allowed.example.org")[..40].to_vec(), ""),
    ];
    for (reason, bytes, rule) in &cases {
        expect_waived(&lab, &gateway, &server, bytes, reason, rule);
    }
    let dates = |labels: &[(&str, &str)]| gateway.gauges("egret_monitor_until_timestamp_seconds", labels);
    let counted = |labels: &[(&str, &str)]| gateway.metric("egret_would_deny_total", labels);
    assert_eq!(counted(&[("tenant", "alpha")]), cases.len() as u64);
    assert_eq!(counted(&[("tenant", "alpha"), ("reason", "no_hostname")]), 2);
    assert_eq!(gateway.metric("egret_denials_total", &[("tenant", "alpha")]), 0);
    assert_eq!(dates(&[("tenant", "alpha")]), [f64::INFINITY]);
    assert!(dates(&[("tenant", "beta")]).is_empty());
}

/// From monitor to enforce: watch, suggest, paste, reload.
fn suggestions_from_monitoring_can_be_enforced(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&monitor());
    let server = lab.listen(Host::Named, family, 443);
    let hello = |name: &str| Hello::to(name).record();
    expect_waived(&lab, &gateway, &server, &hello("unheard.example.org"), "not_allowed", "");
    expect_waived(&lab, &gateway, &server, &hello("secret.wild.example.org"), "denied_by_rule", "secrets");
    let output = gateway.egret(&["suggest", "--tenant", "alpha"]);
    assert!(output.status.success(), "{}", text(&output));
    let rules = String::from_utf8(output.stdout).unwrap();
    assert!(rules.contains("  \"unheard.example.org\",  # 1 flow (1 by monitor mode), last "), "{rules}");
    reload(&gateway, &Config { alpha_rules: rules, ..Config::default() });
    let client = send(&lab, &gateway, server.address(), &hello("unheard.example.org"));
    let local = client.local_addr().unwrap();
    expect_delivery(client, server.accept(), &hello("unheard.example.org"));
    let flow = gateway.expect_outcome(local, "closed");
    assert!(
        flow["would_deny"].is_null() && flow["rule"].as_str().unwrap().starts_with("egret.toml:"),
        "{flow:#}"
    );
    for name in ["other.example.org", "secret.wild.example.org"] {
        expect_alert(&send(&lab, &gateway, server.address(), &hello(name)), ACCESS_DENIED);
    }
}

fn monitor_passes_server_first_after_deadline(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&monitor());
    let server = lab.listen(Host::Elsewhere, family, 25);
    let client = lab.connect(Tenant::Alpha, server.address());
    let upstream = server.accept();
    pass(&upstream, &client, b"220 mail.example.org ESMTP\r\n");
    pass(&client, &upstream, b"EHLO client\r\n");
    let local = client.local_addr().unwrap();
    drop((upstream, client));
    let flow = gateway.expect_outcome(local, "closed");
    assert_eq!(flow["would_deny"], "inspect_timeout", "{flow:#}");
}

fn monitor_counts_no_allowed_flow(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&monitor());
    let server = lab.listen(Host::Named, family, 443);
    let hello = Hello::to("allowed.example.org").record();
    let client = send(&lab, &gateway, server.address(), &hello);
    let local = client.local_addr().unwrap();
    expect_delivery(client, server.accept(), &hello);
    let flow = gateway.expect_outcome(local, "closed");
    assert_eq!((&flow["would_deny"], &flow["rule"]), (&serde_json::Value::Null, &"alpha-names".into()));
    assert_eq!(gateway.metric("egret_would_deny_total", &[]), 0);
    // beta enforces
    let client = send_from(Tenant::Beta, &lab, &gateway, server.address(), &hello);
    expect_alert(&client, ACCESS_DENIED);
    server.assert_untouched();
}

fn monitor_waives_no_limit_or_loop(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&monitor());
    let request = b"GET /latest/meta-data/ HTTP/1.1\r\nHost: metadata.example.org\r\n\r\n";
    let metadata: SocketAddr = match family {
        Family::V4 => "169.254.169.254:80".parse().unwrap(),
        Family::V6 => "[fd00:ec2::254]:80".parse().unwrap(),
    };
    let client = send(&lab, &gateway, metadata, request);
    expect_http_denial(&client, 403, &["alpha", "not_allowed"]);
    let local = client.local_addr().unwrap();
    drop(client);
    let flow = gateway.expect_outcome(local, "not_allowed");
    assert_eq!((&flow["would_deny"], &flow["verdict"]), (&serde_json::Value::Null, &"deny".into()));
    for own in [family.gateway(), family.pool()] {
        let refused = lab.expect_reset(Tenant::Alpha, SocketAddr::new(own, 15001), b"");
        gateway.expect_outcome(refused, "destination_local");
    }
    let server = lab.listen(Host::Raw, family, 7000);
    let _live: Vec<_> =
        (0..3).map(|_| (lab.connect(Tenant::Alpha, server.address()), server.accept())).collect();
    let refused = lab.expect_reset(Tenant::Alpha, server.address(), b"");
    gateway.expect_outcome(refused, "tenant_flow_limit");
    assert_eq!(gateway.metric("egret_would_deny_total", &[]), 0);
}

fn monitor_passes_private_addresses(family: Family) {
    let lab = Lab::new();
    lab.server.ip("addr add 10.77.0.1/32 dev s0\naddr add fd77::1/128 dev s0 nodad\n");
    let gateway = lab.start_gateway(&monitor());
    let private = match family {
        Family::V4 => "10.77.0.1:443".parse().unwrap(),
        Family::V6 => "[fd77::1]:443".parse().unwrap(),
    };
    let server = lab.server.run(|| Server::bind(private));
    let hello = Hello::to("allowed.example.org").record();
    expect_waived(&lab, &gateway, &server, &hello, "destination_private", "alpha-names");
}

fn past_monitoring_date_enforces_at_start() {
    let lab = Lab::new();
    let mode = "mode = \"monitor\"\nmonitor_until = 2020-01-01";
    let gateway = lab.start_gateway(&Config { alpha_tenant: mode.into(), ..Config::default() });
    gateway.expect_logged("is past, and the tenant enforces");
    let server = lab.listen(Host::Named, Family::V4, 443);
    let client = send(&lab, &gateway, server.address(), &Hello::to("unheard.example.org").record());
    expect_alert(&client, ACCESS_DENIED);
    let local = client.local_addr().unwrap();
    drop(client);
    let flow = gateway.expect_outcome(local, "not_allowed");
    assert_eq!((&flow["would_deny"], &flow["verdict"]), (&serde_json::Value::Null, &"deny".into()));
    assert!(gateway.gauges("egret_monitor_until_timestamp_seconds", &[]).is_empty());
    server.assert_untouched();
}

fn monitoring_ends_at_its_date() {
    let lab = Lab::new();
    let config = |mode: String| Config { alpha_tenant: mode, ..Rollout::config(&lab, "") };
    let rollout = Rollout::with(&lab, &config("mode = \"monitor\"".into()));
    let server = lab.listen(Host::Named, Family::V4, 443);
    let live = open_by_name(&lab, &server, "unheard.example.org");
    // Late enough for a reload and a few flows on this machine.
    let start = Instant::now();
    assert!(rollout.asks(&server, "unheard.example.org").0);
    let reload_until = |seconds: u64| {
        let second = Timestamp::now().as_second() + i64::try_from(seconds).unwrap();
        let until = Timestamp::from_second(second).unwrap();
        reload(&rollout.gateway, &config(format!("mode = \"monitor\"\nmonitor_until = {until}")));
        until
    };
    reload_until(3600);
    let until = reload_until(3 + 3 * start.elapsed().as_secs());
    let shown = || rollout.gateway.gauges("egret_monitor_until_timestamp_seconds", &[("tenant", "alpha")]);
    let mut let_out = 0;
    let denied = loop {
        let (allowed, flow) = rollout.asks(&server, "unheard.example.org");
        let time: Timestamp = flow["time"].as_str().unwrap().parse().unwrap();
        assert_eq!(allowed, time < until, "{flow:#}");
        if !allowed {
            break flow;
        }
        assert_eq!((&flow["would_deny"], &flow["verdict"]), (&"not_allowed".into(), &"allow".into()));
        let_out += 1;
    };
    assert_eq!(
        (&denied["outcome"], &denied["would_deny"]),
        (&"not_allowed".into(), &serde_json::Value::Null)
    );
    assert!(let_out > 0, "the machine has become too slow for this test");
    let changes = wait_for("the end of monitoring to be in the audit log", || {
        let changes = rollout.gateway.changes();
        if changes.iter().any(|line| line["change"] == "monitor_end") { Ok(changes) } else { Err("not yet") }
    });
    let told: Vec<_> = changes.iter().map(|line| line["change"].as_str().unwrap()).collect();
    assert_eq!(told, ["start", "reload", "reload", "monitor_end"]);
    assert_eq!((&changes[3]["subject"], &changes[3]["by"]), (&"alpha".into(), &"gateway".into()));
    assert!(shown().is_empty());
    // Flows of that time continue until the policy is replaced.
    live.assert_alive();
    let output = rollout.gateway.egret(&["reload"]);
    assert!(text(&output).contains("one live flow that is not allowed any more"), "{}", text(&output));
    expect_revoked(&rollout.gateway, live);
}

fn monitor_passes_flows_beyond_inspection_limit() {
    let lab = Lab::new();
    let config = Config { inspect: "deadline = \"60s\"\nmax_pending = 1".into(), ..monitor() };
    let gateway = lab.start_gateway(&config);
    let server = lab.listen(Host::Named, Family::V4, 443);
    let _silent = lab.connect(Tenant::Alpha, server.address());
    gateway.wait_for_metric("egret_flows_active", &[("tenant", "alpha")], |active| active == 1);
    let hello = Hello::to("allowed.example.org").record();
    expect_waived(&lab, &gateway, &server, &hello, "inspection_busy", "");
}
