//! SIGHUP activates another configuration while flows live.

use crate::config::Config;
use crate::flows::{End, Flow};
use crate::gateway::Gateway;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::namespace::text;
use crate::traffic::pass;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;

crate::trials! {
    both families:
        reload_applies_to_new_flows,
        shrinking_a_pool_keeps_live_flows;
    once:
        changed_files_are_reloaded,
        reload_command_waits_and_is_audited,
        broken_configuration_keeps_previous_one,
        flow_limit_counts_across_reloads
}

/// Reloads and waits until another configuration is active: the audit log has it last.
pub fn reload(gateway: &Gateway<'_>, config: &Config) {
    let reloads = || gateway.changes().iter().filter(|line| line["change"] == "reload").count();
    let (before, told) = (version(gateway), reloads());
    gateway.reload(&config.render(&gateway.flow_log()));
    crate::wait::wait_until("the reload to be done", || reloads() > told);
    assert_ne!(version(gateway), before);
    assert_eq!(gateway.metric("egret_config_reload_success", &[]), 1);
}

fn version(gateway: &Gateway<'_>) -> String {
    let (_, page) = gateway.get("/metrics").unwrap();
    page.lines().find(|line| line.starts_with("egret_config_info{")).unwrap().to_owned()
}

fn reload_applies_to_new_flows(family: Family) {
    let lab = Lab::new();
    let keep = || Config { policy: "on_reload = \"keep\"".into(), ..Config::default() };
    let gateway = lab.start_gateway(&keep());
    let server = lab.listen(Host::Raw, family, 7000);
    let client = lab.connect(Tenant::Alpha, server.address());
    let upstream = server.accept();
    pass(&client, &upstream, b"before");
    let deny = "[[tenant.deny]]\nname = \"no-more\"\nports = [7000]\ncidrs = [\"0.0.0.0/0\", \"::/0\"]\n";
    reload(&gateway, &Config { alpha_rules: deny.into(), ..keep() });
    let refused = lab.expect_reset(Tenant::Alpha, server.address(), b"hello\n");
    let flow = gateway.expect_outcome(refused, "denied_by_rule");
    assert_eq!(flow["rule"], "no-more");
    // A flow permitted at its start continues.
    pass(&client, &upstream, b"after");
    pass(&upstream, &client, b"after");
    reload(&gateway, &keep());
    let again = lab.connect(Tenant::Alpha, server.address());
    pass(&again, &server.accept(), b"again");
}

fn shrinking_a_pool_keeps_live_flows(family: Family) {
    let lab = Lab::new();
    let addresses = "[\"203.0.113.17\", \"2001:db8:100::1\"]";
    let pool = |ports: &str| Config {
        alpha_pool: format!("ports = \"{ports}\""),
        alpha_addresses: addresses.into(),
        ..Config::default()
    };
    let gateway = lab.start_gateway(&pool("40000-40003"));
    let server = lab.listen(Host::Raw, family, 7000);
    let open = || (lab.connect(Tenant::Alpha, server.address()), server.accept());
    let mut flows: Vec<_> = (0..4).map(|_| open()).collect();
    reload(&gateway, &pool("40000-40001"));
    for (client, upstream) in &flows {
        pass(client, upstream, b"still here");
    }
    let refused = lab.expect_reset(Tenant::Alpha, server.address(), b"");
    gateway.expect_outcome(refused, "ports_exhausted");
    // Only the remaining ports are used.
    let inside = |upstream: &std::net::TcpStream| upstream.peer_addr().unwrap().port() <= 40001;
    let (kept, gone): (Vec<_>, Vec<_>) = flows.drain(..).partition(|(_, upstream)| inside(upstream));
    for (client, upstream) in gone {
        let local = client.local_addr().unwrap();
        drop((client, upstream));
        gateway.expect_outcome(local, "closed");
    }
    let refused = lab.expect_reset(Tenant::Alpha, server.address(), b"");
    gateway.expect_outcome(refused, "ports_exhausted");
    for (client, upstream) in kept {
        let local = client.local_addr().unwrap();
        Flow { client, upstream }.end(End::ServerFirst);
        gateway.expect_outcome(local, "closed");
    }
    // Ports whose last ACK is outstanding are held briefly.
    gateway.wait_for_metric("egret_pool_ports", &[("pool", "alpha")], |busy| busy == 0);
    let again = [open(), open()];
    assert!(again.iter().all(|(_, upstream)| inside(upstream)));
}

fn broken_configuration_keeps_previous_one() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config::default());
    let before = version(&gateway);
    let server = lab.listen(Host::Raw, Family::V4, 7000);
    gateway.reload("[gateway]\nlisten = \"nowhere\"\n");
    gateway.wait_for_metric("egret_config_reload_success", &[], |success| success == 0);
    assert_eq!(version(&gateway), before);
    let client = lab.connect(Tenant::Alpha, server.address());
    pass(&client, &server.accept(), b"hello\n");
    // The same configuration again counts as a successful reload.
    gateway.reload(&Config::default().render(&gateway.flow_log()));
    gateway.wait_for_metric("egret_config_reload_success", &[], |success| success == 1);
}

fn flow_limit_counts_across_reloads() {
    let lab = Lab::new();
    let limit =
        |flows: u32| Config { alpha_tenant: format!("limits = {{ flows = {flows} }}"), ..Config::default() };
    let gateway = lab.start_gateway(&limit(2));
    let server = lab.listen(Host::Raw, Family::V4, 7000);
    let open = || (lab.connect(Tenant::Alpha, server.address()), server.accept());
    let _live = [open(), open()];
    reload(&gateway, &limit(3));
    let _third = open();
    let refused = lab.expect_reset(Tenant::Alpha, server.address(), b"");
    gateway.expect_outcome(refused, "tenant_flow_limit");
}

fn reload_command_waits_and_is_audited() {
    let lab = Lab::new();
    let with = |rules: &str| Config {
        gateway: format!("admin = \"unix:{}\"", lab.control_socket()),
        alpha_rules: rules.into(),
        ..Config::default()
    };
    let gateway = lab.start_gateway(&with(""));
    let reload = |config: &str, arguments: &[&str]| {
        gateway.write(config);
        let output = gateway.egret(&[&["reload"], arguments].concat());
        (output.status.code().unwrap(), text(&output))
    };
    let start = gateway.change(1);
    assert!(start["change"] == "start" && start["by"] == "gateway" && start["config_before"].is_null());

    let rule = "[[tenant.allow]]\nname = \"more\"\nhosts = [\"more.example.org\"]\n";
    let (code, said) = reload(&with(rule).render(&gateway.flow_log()), &[]);
    assert!(
        code == 0 && said.contains("tenants +0 -0 ~1 (~alpha), rules +1 -0, names +1 -0"),
        "{code} {said}"
    );
    let change = gateway.change(2);
    assert!(
        change["change"] == "reload" && change["by"] == "control" && change["result"] == "done",
        "{change}"
    );
    // The tests run as user 0 of their own namespace, and the process has ended.
    assert!(change["uid"] == 0 && change["gid"] == 0 && change["pid"].is_number(), "{change}");
    assert_eq!(change["config_before"], start["config_after"]);
    assert_eq!(change["difference"]["names"], json!({"added": 1, "removed": 0}));
    let in_force = change["config_after"].as_str().unwrap().to_owned();
    assert!(version(&gateway).contains(&in_force), "{}", version(&gateway));

    let broken = format!("{}\n[polciy]\n", with(rule).render(&gateway.flow_log()));
    let (code, said) = reload(&broken, &[]);
    assert!(
        code == 1 && said.contains("egret.toml:") && said.contains("did you mean \"policy\"?"),
        "{code} {said}"
    );
    assert!(said.contains(&format!("refused: configuration {in_force} stays in force")), "{said}");
    let change = gateway.change(3);
    assert!(change["result"] == "refused" && change["config_after"] == *in_force, "{change}");
    assert!(change["why"].as_str().unwrap().contains("unknown key \"polciy\""), "{change}");
    assert_eq!(gateway.metric("egret_config_reload_success", &[]), 0);

    let (code, said) = reload(&with(rule).render(&gateway.flow_log()), &["--json"]);
    let answer: Value = serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert!(code == 0 && answer["reloaded"] == true && answer["config"] == *in_force, "{answer}");
    assert_eq!(gateway.change(4)["difference"]["tenants"]["changed"], 0);

    gateway.signal(Signal::SIGHUP);
    let change = gateway.change(5);
    assert!(change["by"] == "signal" && change.get("uid").is_none(), "{change}");

    for (order, address, result) in [("drain", "203.0.113.17", "done"), ("drain", "192.0.2.1", "refused")] {
        let lines = gateway.changes().len();
        gateway.egret(&["ports", order, address]);
        let change = gateway.change(lines + 1);
        assert!(
            change["change"] == order && change["subject"] == address && change["result"] == result,
            "{change}"
        );
        assert!(
            change["config_before"] == change["config_after"] && change["difference"].is_null(),
            "{change}"
        );
    }
}

fn changed_files_are_reloaded() {
    let lab = Lab::new();
    let watch = |rules: &str| Config {
        policy: "watch = true".into(),
        alpha_rules: rules.into(),
        ..Config::default()
    };
    let gateway = lab.start_gateway(&watch(""));
    let folder = gateway.flow_log().parent().unwrap().to_owned();
    let text = |config: &Config| config.render(&gateway.flow_log());
    let listed = watch("[[tenant.allow]]\nhosts_file = \"names.txt\"\n");
    let mut lines = 1;
    let mut expect = |what: &str, result: &str| {
        lines += 1;
        let change = gateway.change(lines);
        assert!(change["by"] == "watch" && change["result"] == result, "{what}: {change}");
        change
    };
    // The first text is not active until the list exists, and is then reloaded automatically.
    gateway.write(&text(&listed));
    let why = expect("a list that is missing", "refused")["why"].to_string();
    assert!(why.contains("names.txt cannot be read"), "{why}");
    gateway.wait_for_metric("egret_config_reload_success", &[], |success| success == 0);
    fs::write(folder.join("names.txt"), "a.example.org\n").unwrap();
    assert_eq!(expect("the list", "done")["difference"]["names"]["added"], 1);
    fs::write(folder.join("names.txt"), "a.example.org\nb.example.org\n").unwrap();
    assert_eq!(
        expect("the list, in place", "done")["difference"]["names"],
        json!({"added": 1, "removed": 0})
    );
    fs::create_dir(folder.join("policy.d")).unwrap();
    let gamma = "[[tenant]]\nname = \"gamma\"\nsources = [\"10.0.3.0/24\"]\npool = \"alpha\"\n";
    fs::write(folder.join("policy.d/gamma.toml"), gamma).unwrap();
    assert_eq!(expect("a policy file", "done")["difference"]["tenants"]["first"], json!(["+gamma"]));
    // A change that a signal has reloaded is not reloaded again; the next one is.
    gateway.reload(&text(&listed).replace("drain = \"1s\"", "drain = \"2s\""));
    lines += 1;
    let change = gateway.change(lines);
    assert!(change["by"] == "signal" && change["difference"]["restart"] == json!(["[gateway]"]), "{change}");
    gateway.write(&text(&watch("")).replace("watch = true", "watch = false"));
    lines += 1;
    assert_eq!(gateway.change(lines)["by"], "watch");
}
