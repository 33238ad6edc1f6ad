//! `egret trace`: the steps of matching flows, and of no others.

use crate::clients::expect_http_denial;
use crate::gateway::{Files, Gateway, Rules, unprivileged};
use crate::lab::{Family, Host, Lab, Tenant};
use crate::rollout::Rollout;
use crate::wait::wait_until;
use std::collections::BTreeSet;
use std::process::{Output, Stdio};

crate::trials! {
    both families:
        traced_client_shows_each_step;
    once:
        traced_name_shows_what_came_before,
        untraced_gateway_logs_steps_at_debug
}

/// Runs `egret trace`, and `work` once it has begun.
fn traced(rollout: &Rollout, arguments: &[&str], work: impl FnOnce()) -> (Option<i32>, String) {
    let began = || rollout.gateway.stderr().matches("an operator traces flows").count();
    let before = began();
    let arguments = [&["trace", "--for", "3s"], arguments].concat();
    let mut command = unprivileged("", &arguments, &rollout.gateway.config());
    let child = rollout.lab.gateway.spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    wait_until("the trace to begin", || began() > before);
    work();
    let Output { status, stdout, .. } = child.wait_with_output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap())
}

/// Words of each step, without the values.
fn steps(said: &str) -> Vec<String> {
    let step = |line: &str| {
        let (_, step) = line.split_once(" ms  ").unwrap();
        step.split(' ').take_while(|word| !word.contains('=')).collect::<Vec<_>>().join(" ")
    };
    said.lines().map(step).collect()
}

fn traced_client_shows_each_step(family: Family) {
    let lab = Lab::new();
    let rollout = Rollout::new(&lab);
    let server = lab.listen(Host::Named, family, 443);
    let client = Tenant::Alpha.client(family).to_string();
    let (code, said) = traced(&rollout, &["--client", &client, "--flows", "2"], || {
        assert!(rollout.asks(&server, "allowed.example.org").0);
        assert!(!rollout.asks(&server, "other.example.org").0);
        // No more than two flows.
        assert!(rollout.asks(&server, "allowed.example.org").0);
        let _other = lab.send(Tenant::Beta, server.address(), b"hello");
    });
    assert_eq!(code, Some(0), "{said}");
    let asked = ["accepted", "policy asks for the client's first bytes", "inspected"];
    let allowed = ["allowed", "dialling", "connected", "no longer relayed", "ended"];
    let denied = ["denied", "ends before it is relayed", "ended"];
    assert_eq!(steps(&said), [&asked[..], &allowed, &asked, &denied].concat(), "{said}");
    for words in
        ["name=allowed.example.org", "rule=alpha-names", "outcome=not_allowed", &server.address().to_string()]
    {
        assert!(said.contains(words), "{words}: {said}");
    }
    let ids: BTreeSet<_> = said.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(ids.len(), 2, "{said}");
}

fn traced_name_shows_what_came_before() {
    let lab = Lab::new();
    let rollout = Rollout::new(&lab);
    let server = lab.listen(Host::Named, Family::V4, 443);
    let web = lab.listen(Host::Named, Family::V4, 80);
    let (code, said) = traced(&rollout, &["--name", "*.wild.example.org"], || {
        assert!(rollout.asks(&server, "allowed.example.org").0);
        assert!(rollout.asks(&server, "a.wild.example.org").0);
        let request = b"GET / HTTP/1.1\r\nHost: b.wild.example.org.evil.example.net\r\n\r\n";
        expect_http_denial(&lab.send(Tenant::Alpha, web.address(), request), 403, &["not_allowed"]);
    });
    assert_eq!(code, Some(0), "{said}");
    let steps = steps(&said);
    assert_eq!((&*steps[0], steps.len()), ("accepted", 8), "{said}");
    assert!(said.contains("name=a.wild.example.org"), "{said}");

    let (code, said) = traced(&rollout, &["--client", "198.51.100.0/24"], || {
        assert!(rollout.asks(&server, "allowed.example.org").0);
    });
    assert_eq!((code, &*said), (Some(1), ""));
}

/// Without a trace and at level INFO, nothing is said of single flows.
fn untraced_gateway_logs_steps_at_debug() {
    for (level, told) in [("info", false), ("debug", true)] {
        let lab = Lab::new();
        let files = Files::new(&Rollout::config(&lab, ""));
        lab.must_steer("up", &files.config(), Rules::Iptables);
        let mut run = files.run();
        run.env("EGRET_LOG", level);
        let gateway = Gateway::start_as(&lab, files, run);
        let rollout = Rollout { lab: &lab, gateway };
        let server = lab.listen(Host::Named, Family::V4, 443);
        let (_, flow) = rollout.asks(&server, "allowed.example.org");
        let id = flow["flow"].as_str().unwrap();
        let log = rollout.gateway.stderr();
        let lines: Vec<_> = log.lines().filter(|line| line.contains(id)).collect();
        assert_eq!(lines.iter().any(|line| line.contains("connected source=")), told, "{level}: {log}");
        assert!(lines.iter().all(|line| line.contains("client=10.0.1.2")), "{level}: {log}");
    }
}
