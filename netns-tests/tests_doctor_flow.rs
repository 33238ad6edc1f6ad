//! Doctor follows a probe's flow beyond the gateway: to servers that fail, and to a gateway that does not answer.

use crate::config::Config;
use crate::doctor::{assert_told, config, doctor, failed, packets};
use crate::gateway::Gateway;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::namespace::text;
use crate::rollout::Rollout;
use crate::traffic::pass;
use crate::wait::wait_until;
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;

crate::trials! {
    both families:
        doctor_and_explain_agree_on_addresses,
        doctor_tells_silent_servers_from_lost_packets,
        doctor_fails_by_the_flows_outcome,
        doctor_tells_servers_that_say_nothing,
        doctor_bears_servers_that_keep_the_connection,
        doctor_fails_where_flows_cannot_leave;
    once:
        doctor_fails_where_gateway_cannot_serve,
        doctor_finds_what_drops_monitored_flows,
        doctor_tells_frozen_gateways,
        doctor_names_the_canary_uncounted
}

fn with_socket(lab: &Lab) -> Config {
    let own = config();
    Config { gateway: format!("{}\nadmin = \"unix:{}\"", own.gateway, lab.control_socket()), ..own }
}

/// Doctor's findings on a flow of alpha's, and its exit code.
fn followed(lab: &Lab, gateway: &Gateway<'_>, to: SocketAddr) -> (i32, Vec<Value>) {
    let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
    let (from, to) = (Tenant::Alpha.client(family).to_string(), to.to_string());
    let output = doctor(lab, &gateway.config(), &["--packet", "--from", &from, "--to", &to]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    (output.status.code().unwrap(), report["findings"].as_array().unwrap().clone())
}

/// Doctor fails by one finding with these words; its flow is in the log.
fn assert_fails(lab: &Lab, gateway: &Gateway<'_>, to: SocketAddr, check: &str, words: &str) {
    let (code, found) = followed(lab, gateway, to);
    let red = failed(&found);
    assert!(code == 1 && red.len() == 1, "{found:#?}");
    let said = red[0]["found"].as_str().unwrap();
    assert!(red[0]["check"] == check && said.contains(words), "no {words:?}: {found:#?}");
    let id = said.split([' ', ':']).find(|word| word.len() > 8 && word[..9].ends_with('-')).unwrap();
    wait_until("its flow to be in the log", || gateway.flows().iter().any(|flow| flow["flow"] == id));
}

fn doctor_tells_silent_servers_from_lost_packets(family: Family) {
    let lab = Lab::new();
    let own = with_socket(&lab);
    let gateway = format!("{}\nconnect_timeout = \"4s\"", own.gateway);
    let gateway = lab.start_gateway(&Config { gateway, ..own });
    let to = Host::Silent.at(family, 7000);
    assert_fails(&lab, &gateway, to, "flow", "does not answer SYNs from");
    // What this machine drops itself is told as that.
    let ip = if family == Family::V4 { "ip" } else { "ip6" };
    lab.gateway.shell(&format!(
        "nft 'table inet others {{ chain out {{ type filter hook output priority 0; {ip} daddr {} tcp dport 7000 drop; }}; }}'",
        to.ip()
    ));
    assert_fails(&lab, &gateway, to, "packets out", "the SYN ends at output: table inet others");
    let (length, hop) = if family == Family::V4 { (32, "198.51.100.99") } else { (128, "2001:db8:51::99") };
    lab.gateway.ip(&format!("route add {}/{length} via {hop}", to.ip()));
    assert_fails(&lab, &gateway, to, "packets out", &format!("the next hop {hop} does not answer"));
}

/// They take the request, and close when the client does.
fn doctor_tells_servers_that_say_nothing(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&with_socket(&lab));
    let server = lab.listen(Host::Raw, family, 7000);
    let to = server.address();
    let closes = std::thread::spawn(move || {
        let mut taken = Vec::new();
        let _ = server.accept().read_to_end(&mut taken);
    });
    assert_fails(&lab, &gateway, to, "flow", "has accepted the connection, and sends nothing");
    closes.join().unwrap();
}

/// As servers of SMTP do: a banner, a short answer, and then they wait; and an echo server.
fn doctor_bears_servers_that_keep_the_connection(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&with_socket(&lab));
    for (banner, echoes) in [(&b"220 mail\r\n"[..], false), (b"", true)] {
        let server = lab.listen(Host::Raw, family, 7000);
        let to = server.address();
        let talks = std::thread::spawn(move || {
            let mut client = server.accept();
            client.write_all(banner).unwrap();
            let mut taken = [0; 8192];
            while let Ok(length @ 1..) = client.read(&mut taken) {
                let answer = if echoes { &taken[..length] } else { b"502 bad\r\n" };
                client.write_all(answer).unwrap();
            }
        });
        let (code, found) = followed(&lab, &gateway, to);
        talks.join().unwrap();
        let answers = found.iter().filter(|finding| finding["check"] == "answer" && finding["level"] == "ok");
        assert!(code == 0 && failed(&found).is_empty() && answers.count() == 1, "{echoes}: {found:#?}");
    }
    // What gets lost on the way back is told all the same.
    let server = lab.listen(Host::Raw, family, 7000);
    let to = server.address();
    let talks = std::thread::spawn(move || {
        for _ in 0..2 {
            let mut client = server.accept();
            let _ = client.write_all(b"220 mail\r\n");
            let _ = client.read(&mut [0; 8192]);
            let _ = client.write_all(&[b'.'; 4096]);
            let _ = client.read(&mut [0; 8192]);
        }
    });
    let ip = if family == Family::V4 { "ip" } else { "ip6" };
    lab.gateway.shell(&format!(
        "nft 'table inet others {{ chain out {{ type filter hook output priority 0; {ip} length > 1000 oifname \"c0\" drop; }}; }}'"
    ));
    let (code, found) = followed(&lab, &gateway, to);
    talks.join().unwrap();
    let red = failed(&found);
    assert!(code == 1 && red.len() == 1, "{found:#?}");
    assert!(red[0]["found"].as_str().unwrap().contains("ends at output: table inet others"), "{found:#?}");
}

fn doctor_fails_by_the_flows_outcome(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&with_socket(&lab));
    let to = Host::Raw.at(family, 7000);
    assert_fails(&lab, &gateway, to, "flow", "ended as upstream_refused: The server refused");
    // To the gateway this machine's own refusal looks like the server's.
    let tool = if family == Family::V4 { "iptables" } else { "ip6tables" };
    let rule = "OUTPUT -o s0 -p tcp --dport 7000 -j REJECT --reject-with tcp-reset";
    lab.gateway.shell(&format!("{tool} -A {rule}"));
    assert_fails(&lab, &gateway, to, "packets out", "the SYN ends at output");
    lab.gateway.shell(&format!("{tool} -D {rule}"));
    let length = if family == Family::V4 { 32 } else { 128 };
    lab.gateway.ip(&format!("route add blackhole {}/{length}", to.ip()));
    assert_fails(&lab, &gateway, to, "flow", "ended as dial_failed (a route of this machine");
    let said = text(&doctor(&lab, &gateway.config(), &["--no-packets"]));
    assert!(said.contains(&format!("ip route del blackhole {}/{length}", to.ip())), "{said}");
    let (_, found) = followed(&lab, &gateway, to);
    let cure = failed(&found)[0]["mend"].as_str().unwrap();
    assert_eq!(cure, format!("ip route del blackhole {}/{length}", to.ip()));
}

fn doctor_fails_where_gateway_cannot_serve() {
    let lab = Lab::new();
    let own = with_socket(&lab);
    let gateway = lab.start_gateway(&Config { alpha_tenant: "limits = { flows = 1 }".into(), ..own });
    let to = Host::Raw.at(Family::V4, 7000);
    let server = lab.listen(Host::Raw, Family::V4, 7000);
    let client = lab.connect(Tenant::Alpha, server.address());
    pass(&client, &server.accept(), b"hello");
    assert_fails(&lab, &gateway, to, "flow", "ended as tenant_flow_limit");
    let (ok, found) = packets(&lab, &gateway.config());
    let said = |finding: &&Value| finding["found"].as_str().unwrap().contains("ended as tenant_flow_limit");
    assert!(!ok && failed(&found).iter().any(said), "{found:#?}");
}

/// For a bare address no name is sent, and for a URL of HTTP the address as the Host.
fn doctor_and_explain_agree_on_addresses(family: Family) {
    let lab = Lab::new();
    let elsewhere = Host::Elsewhere.at(family, 0).ip();
    let length = if family == Family::V4 { 32 } else { 128 };
    let rule =
        format!("[[tenant.allow]]\nname = \"one-port\"\ncidrs = [\"{elsewhere}/{length}\"]\nports = [9000]");
    let gateway = lab.start_gateway(&Config { alpha_rules: rule, ..with_socket(&lab) });
    let from = Tenant::Alpha.client(family).to_string();
    for port in [80, 443, 8010] {
        let to = Host::Elsewhere.at(family, port);
        for to in [to.to_string(), format!("http://{to}/")] {
            let question = ["explain", "--live", "--json", "--from", &from, "--to", &to];
            let explained: Value = serde_json::from_slice(&gateway.egret(&question).stdout).unwrap();
            let name = explained["outcome"]["name"].as_str().unwrap_or("allowed");
            let output = doctor(&lab, &gateway.config(), &["--packet", "--from", &from, "--to", &to]);
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            let said = report["findings"].to_string();
            assert!(name != "allowed" && said.contains(&format!("outcome {name}:")), "{to}: {name}, {said}");
            let is_tls = port == 443 && !to.contains("://");
            assert!(is_tls || said.contains(&format!("reason {name}")), "{to}: {name}, {said}");
        }
    }
}

fn doctor_fails_where_flows_cannot_leave(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&with_socket(&lab));
    let own = if family == Family::V4 { "10.0.1.1" } else { "fd00:1::1" };
    let itself = SocketAddr::new(own.parse().unwrap(), 7000);
    let (code, found) = followed(&lab, &gateway, itself);
    let said = failed(&found)[0]["found"].as_str().unwrap();
    assert!(code == 1 && said.contains("the gateway's own or a pool's") && found.len() == 1, "{found:#?}");
    // Networks cannot be drained by a command.
    if family == Family::V6 {
        return;
    }
    for source in ["203.0.113.16", "203.0.113.17", "203.0.113.18", "203.0.113.19"] {
        let drained = gateway.egret(&["ports", "drain", source]);
        assert!(drained.status.success(), "{}", text(&drained));
    }
    let (code, found) = followed(&lab, &gateway, Host::Raw.at(family, 7000));
    let red = failed(&found);
    assert!(code == 1 && red[0]["found"].as_str().unwrap().contains("pool alpha is drained"), "{found:#?}");
    assert_eq!(red[0]["mend"], "egret ports undrain 203.0.113.16");
}

fn doctor_finds_what_drops_monitored_flows() {
    let lab = Lab::new();
    let gateway =
        lab.start_gateway(&Config { alpha_tenant: "mode = \"monitor\"".into(), ..with_socket(&lab) });
    let (ok, found) = packets(&lab, &gateway.config());
    assert!(ok, "{found:#?}");
    lab.gateway.shell(
        "nft 'table inet others { chain out { type filter hook output priority 0; oifname s0 tcp flags syn drop; }; }'",
    );
    let (_, found) =
        assert_told(&lab, &gateway.config(), &["does not answer SYNs from", "the SYN ends at output"]);
    assert!(!format!("{found:?}").contains("is lost"), "{found:#?}");
}

fn doctor_tells_frozen_gateways() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&with_socket(&lab));
    gateway.while_stopped(|| {
        let (code, found) = followed(&lab, &gateway, Host::Raw.at(Family::V4, 7000));
        assert!(code == 1 && found.len() == 1, "{found:#?}");
        let all = packets(&lab, &gateway.config()).1;
        assert_eq!(failed(&all), failed(&found), "{all:#?}");
        let said = found[0].to_string();
        assert!(said.contains("is stopped (") && said.contains("systemctl restart egret"), "{said}");
        let said = text(&gateway.egret(&["ports"]));
        assert!(said.contains("for 2 s: process") && said.contains("is stopped ("), "{said}");
    });
    // Without a control socket, by its readiness.
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config { gateway: "admin = \"off\"".into(), ..config() });
    gateway.while_stopped(|| {
        let (_, found) = followed(&lab, &gateway, Host::Raw.at(Family::V4, 7000));
        let said = found[0].to_string();
        assert!(
            said.contains("does not answer within 2 s: process") && said.contains("is stopped ("),
            "{found:#?}"
        );
    });
}

/// A canary's clients: doctor says that the candidate decides, and what it tries counts in no figure.
fn doctor_names_the_canary_uncounted() {
    let lab = Lab::new();
    let to = Host::Elsewhere.at(Family::V4, 443);
    let opened = Config {
        alpha_rules: format!("[[tenant.allow]]\nname = \"opened\"\ncidrs = [\"{}/32\"]", to.ip()),
        ..with_socket(&lab)
    };
    let rollout = Rollout::with(&lab, &opened);
    rollout.load_config(&with_socket(&lab), &["--percent", "100", "--max-denials", "1"]);
    let (_, found) = followed(&lab, &rollout.gateway, to);
    let verdict = found.iter().find(|finding| finding["check"] == "verdict").unwrap()["found"].to_string();
    for words in ["denied", "by the candidate, a canary of 100 %", "in force: allowed (opened)"] {
        assert!(verdict.contains(words), "no {words}: {verdict}");
    }
    assert!(verdict.contains("candidate's file") && !verdict.contains("egret allow"), "{verdict}");
    let flow = rollout.gateway.wait_for_flows(1).pop().unwrap();
    assert_eq!((&flow["canary"], &flow["candidate"]), (&true.into(), &"would_deny".into()), "{flow:#}");
    let status = rollout.status();
    assert_eq!(
        (&status["state"], &status["changes"]),
        (&"canary".into(), &Value::Array(Vec::new())),
        "{status:#}"
    );
    let from = Tenant::Alpha.client(Family::V4).to_string();
    let said = text(&rollout.gateway.egret(&["explain", "--live", "--from", &from, "--to", &to.to_string()]));
    assert!(said.contains("egret candidate drop") && !said.contains("egret allow"), "{said}");
}
