//! A candidate is evaluated on live flows without effect, then enforced for some clients, and promoted.

use crate::config::Config;
use crate::gateway::unprivileged;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::namespace::text;
use crate::rollout::{Rollout, STRICTER};
use crate::wait::wait_for;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

crate::trials! {
    both families:
        candidate_judges_every_flow_without_effect;
    once:
        source_known_to_one_policy_is_change,
        canary_share_has_stable_clients,
        canary_denying_too_much_rolls_back,
        promotion_enforces_candidate_and_keeps_backup,
        promotion_refuses_files_changed_meanwhile,
        broken_candidate_is_reported_with_positions,
        special_files_are_refused_as_candidates
}

fn candidate_judges_every_flow_without_effect(family: Family) {
    let lab = Lab::new();
    let rollout = Rollout::new(&lab);
    let server = lab.listen(Host::Named, family, 443);
    assert_eq!(rollout.status(), Value::Null);
    let (_, flow) = rollout.asks(&server, "allowed.example.org");
    assert_eq!((&flow["candidate"], &flow["canary"]), (&Value::Null, &json!(false)));

    rollout.load(STRICTER, &[]);
    for (name, allowed, change) in [
        ("allowed.example.org", true, "would_deny"),
        ("allowed.example.org", true, "would_deny"),
        ("opened.example.org", false, "would_allow"),
        ("a.wild.example.org", true, "same"),
        ("unheard.example.org", false, "same"),
    ] {
        let (found, flow) = rollout.asks(&server, name);
        assert_eq!((found, &flow["candidate"]), (allowed, &change.into()), "{flow:#}");
        assert_eq!(flow["canary"], false);
    }
    assert_eq!(rollout.counts("alpha"), [2, 2, 1, 0]);
    let status = rollout.status();
    let would_deny = &status["changes"][0];
    assert_eq!(
        (&would_deny["reason"], &would_deny["rule"], &would_deny["candidate_rule"]),
        (&"denied_by_rule".into(), &"alpha-names".into(), &"no-more".into())
    );
    let example = &would_deny["examples"][0];
    let client = Tenant::Alpha.client(family).to_string();
    assert_eq!(
        (&example["hostname"], &example["flows"], &example["client"]),
        (&"allowed.example.org".into(), &2.into(), &client.into())
    );
    let would_allow = &status["changes"][1];
    assert_eq!(
        (&would_allow["reason"], &would_allow["rule"], &would_allow["candidate_rule"]),
        (&"not_allowed".into(), &Value::Null, &"opened".into())
    );
    let decisions = |change| {
        let labels = [("tenant", "alpha"), ("change", change)];
        rollout.gateway.metric("egret_candidate_decisions_total", &labels)
    };
    assert_eq!(["same", "would_deny", "would_allow", "unjudged"].map(decisions), [2, 2, 1, 0]);
    assert_eq!(rollout.gateway.metric("egret_candidate_info", &[("state", "observing")]), 1);
    assert!(
        rollout
            .must(&["status"])
            .contains("now let out by rule alpha-names; then denied_by_rule, rule no-more")
    );

    // A reload of the active policy leaves the candidate loaded.
    let before = rollout.status()["version"].clone();
    crate::tests_reload::reload(
        &rollout.gateway,
        &Config {
            drain: "\"2s\"".into(),
            alpha_rules: "# \n".into(),
            alpha_tenant: "ports_ceiling = 9".into(),
            ..Rollout::config(&lab, "")
        },
    );
    assert_eq!(rollout.status()["version"], before);
    assert_eq!(rollout.asks(&server, "allowed.example.org").1["candidate"], "would_deny");

    rollout.must(&["drop"]);
    assert_eq!(rollout.status(), Value::Null);
    let (allowed, flow) = rollout.asks(&server, "allowed.example.org");
    assert!(allowed && flow["candidate"].is_null());
    assert_eq!(rollout.ask(&["drop"]).status.code(), Some(1));
    assert_eq!(rollout.ask(&["promote"]).status.code(), Some(1));
    assert_eq!(rollout.ask(&["status"]).status.code(), Some(1));
}

fn source_known_to_one_policy_is_change() {
    let lab = Lab::new();
    let rollout = Rollout::new(&lab);
    let server = lab.listen(Host::Raw, Family::V4, 7000);
    // The stranger becomes alpha's client; beta's clients belong to no tenant.
    let config = Rollout::config(&lab, "").render(&rollout.gateway.flow_log());
    let config = config
        .replace("\"10.0.1.0/24\"", "\"10.0.1.0/24\", \"10.0.9.0/24\"")
        .replace("\"10.0.2.0/24\"", "\"10.9.9.0/24\"");
    fs::write(rollout.candidate_file(), config).unwrap();
    let file = rollout.candidate_file().display().to_string();
    rollout.must(&["load", &file]);
    let stranger = lab.expect_reset(Tenant::Stranger, server.address(), b"");
    assert_eq!(rollout.gateway.expect_outcome(stranger, "unknown_tenant")["candidate"], "would_allow");
    let client = lab.connect(Tenant::Beta, server.address());
    let local = client.local_addr().unwrap();
    drop((client, server.accept()));
    let flow = rollout.gateway.flow_from(local);
    assert_eq!(flow["candidate"], "would_deny", "{flow:#}");
    let status = rollout.status();
    let reasons: BTreeSet<_> = status["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["tenant"].as_str().unwrap(), row["reason"].as_str().unwrap()))
        .collect();
    assert_eq!(reasons, [("beta", "unknown_tenant"), ("unknown", "unknown_tenant")].into());

    // Enforced, it denies beta's clients; the stranger has no pool.
    rollout.must(&["load", &file, "--percent", "100", "--max-denials", "100"]);
    let refused = lab.expect_reset(Tenant::Beta, server.address(), b"");
    let flow = rollout.gateway.expect_outcome(refused, "unknown_tenant");
    assert_eq!((&flow["canary"], &flow["tenant"]), (&json!(true), &"beta".into()));
    let stranger = lab.expect_reset(Tenant::Stranger, server.address(), b"");
    assert_eq!(rollout.gateway.expect_outcome(stranger, "unknown_tenant")["canary"], false);
}

fn canary_share_has_stable_clients() {
    const CLIENTS: u8 = 40;
    let lab = Lab::new();
    let clients: Vec<_> = (0..CLIENTS).map(|n| Ipv4Addr::new(10, 0, 1, 100 + n)).collect();
    let addresses: Vec<_> = clients.iter().map(|ip| format!("addr add {ip}/24 dev c0\n")).collect();
    lab.client.ip(&addresses.concat());
    let mut rollout = Rollout::new(&lab);
    let server = lab.listen(Host::Named, Family::V4, 443);
    let canaries = |rollout: &Rollout<'_>| -> BTreeSet<Ipv4Addr> {
        let is_canary = |ip: &Ipv4Addr| {
            let (allowed, flow) = rollout.asks_from((*ip).into(), &server, "allowed.example.org");
            // It denies, to these clients only, what the active policy permits.
            assert_eq!(flow["canary"], !allowed, "{flow:#}");
            assert_eq!(flow["candidate"], "would_deny");
            assert_eq!(flow["rule"], if allowed { "alpha-names" } else { "no-more" });
            !allowed
        };
        clients.iter().copied().filter(is_canary).collect()
    };
    rollout.load(STRICTER, &["--percent", "50", "--max-denials", "100"]);
    let half = canaries(&rollout);
    assert!((8..=32).contains(&half.len()), "{} of {CLIENTS}", half.len());
    assert_eq!(canaries(&rollout), half);
    assert_eq!(rollout.gateway.metric("egret_candidate_info", &[("state", "canary")]), 1);
    rollout.gateway.kill();
    rollout.gateway.start_again();
    assert_eq!(rollout.status(), Value::Null, "a restart loses the candidate");
    rollout.load(STRICTER, &["--percent", "20", "--max-denials", "100"]);
    let fifth = canaries(&rollout);
    assert!(fifth.is_subset(&half) && fifth.len() < half.len(), "{fifth:?} of {half:?}");
    rollout.load(STRICTER, &["--percent", "100", "--max-denials", "100"]);
    // What it additionally permits passes.
    assert!(rollout.asks(&server, "opened.example.org").0);
}

fn canary_denying_too_much_rolls_back() {
    let lab = Lab::new();
    let rollout = Rollout::new(&lab);
    let server = lab.listen(Host::Named, Family::V4, 443);
    rollout.load(STRICTER, &["--percent", "100"]);
    for _ in 0..10 {
        // Denied by both, so not counted against the candidate.
        assert!(!rollout.asks(&server, "unheard.example.org").0);
    }
    let denied = (0..8).take_while(|_| !rollout.asks(&server, "allowed.example.org").0).count();
    assert_eq!(denied, 5, "denials that the bound tolerates");
    let (allowed, flow) = rollout.asks(&server, "allowed.example.org");
    assert!(allowed && flow["canary"] == false && flow["candidate"] == "would_deny", "{flow:#}");
    let status = rollout.status();
    let fell_back = &status["canary"]["fell_back"];
    assert_eq!(
        (&status["state"], &fell_back["denied"], &fell_back["flows"]),
        (&"fell_back".into(), &5.into(), &15.into())
    );
    assert_eq!(rollout.gateway.metric("egret_candidate_info", &[("state", "fell_back")]), 1);
    let output = rollout.ask(&["status"]);
    assert!(output.status.code() == Some(1) && text(&output).contains("FELL BACK"), "{}", text(&output));
    let change = wait_for("the rollback to be in the audit log", || {
        let changes = rollout.gateway.changes();
        changes.into_iter().find(|line| line["change"] == "candidate_fall_back").ok_or("not yet")
    });
    assert_eq!(change["by"], "gateway");
    rollout.gateway.expect_logged("alone denied 5 of 15 flows");

    // The control API itself refuses it, also where the files are in place already.
    let main = rollout.candidate_file().with_file_name("egret.toml");
    fs::copy(rollout.candidate_file(), main).unwrap();
    let promote = |force: bool| {
        let socket = format!("--unix-socket {}", lab.control_socket());
        let body = json!({ "force": force }).to_string();
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--json", &body]).args(socket.split(' ')).arg("http://egret/v1/candidate/promote");
        text(&lab.gateway.output(&mut curl))
    };
    let said = promote(false);
    assert!(said.contains("\"reloaded\":false") && said.contains("fell back"), "{said}");
    assert_eq!(rollout.status()["state"], "fell_back");
    let said = promote(true);
    assert!(said.contains("\"reloaded\":true"), "{said}");
}

fn promotion_enforces_candidate_and_keeps_backup() {
    let lab = Lab::new();
    let rollout = Rollout::new(&lab);
    let server = lab.listen(Host::Named, Family::V4, 443);
    let main = rollout.candidate_file().with_file_name("egret.toml");
    let old = fs::read_to_string(&main).unwrap();
    rollout.load(STRICTER, &[]);
    let version = rollout.status()["version"].as_str().unwrap().to_owned();
    let said = rollout.must(&["promote"]);
    assert!(said.contains("rules +2 -0"), "{said}");
    assert_eq!(rollout.gateway.metric("egret_config_info", &[("version", &version)]), 1);
    assert_eq!(rollout.status(), Value::Null);
    assert!(!rollout.asks(&server, "allowed.example.org").0);
    let (allowed, flow) = rollout.asks(&server, "opened.example.org");
    assert!(allowed && flow["candidate"].is_null());
    assert_eq!(fs::read_to_string(&main).unwrap(), fs::read_to_string(rollout.candidate_file()).unwrap());
    let kept: Vec<_> = fs::read_dir(main.with_file_name("replaced")).unwrap().collect();
    assert_eq!(kept.len(), 1);
    let kept = kept[0].as_ref().unwrap().path().join("egret.toml");
    assert_eq!(fs::read_to_string(kept).unwrap(), old);
    assert_eq!(rollout.gateway.change(3)["change"], "candidate_promote");
    let changes = rollout.gateway.changes();
    assert_eq!(changes[1]["change"], "candidate_load");
    assert_eq!(changes[1]["subject"], rollout.candidate_file().display().to_string());
}

fn promotion_refuses_files_changed_meanwhile() {
    let lab = Lab::new();
    let rollout = Rollout::new(&lab);
    let main = rollout.candidate_file().with_file_name("egret.toml");
    let old = fs::read_to_string(&main).unwrap();
    rollout.load(STRICTER, &[]);
    let refused = |wanted: &str| {
        let output = rollout.ask(&["promote"]);
        assert!(output.status.code() == Some(1) && text(&output).contains(wanted), "{}", text(&output));
    };
    let edited = format!("{old}# somebody's work\n");
    fs::write(&main, &edited).unwrap();
    refused("egret.toml is not what the gateway ran on");
    assert!(rollout.gateway.egret(&["reload"]).status.success());
    refused("egret.toml is not what the gateway ran on");
    assert_eq!(fs::read_to_string(&main).unwrap(), edited);
    fs::write(&main, &old).unwrap();
    fs::write(rollout.candidate_file(), format!("{old}# other rules\n")).unwrap();
    refused("candidate.toml is not what was loaded as candidate");
    assert_eq!(fs::read_to_string(&main).unwrap(), old);
    assert!(rollout.status()["version"].is_string(), "it is still loaded");
}

fn broken_candidate_is_reported_with_positions() {
    let lab = Lab::new();
    let rollout = Rollout::new(&lab);
    rollout.load(STRICTER, &[]);
    let before = rollout.status()["version"].clone();
    let broken = Rollout::config(&lab, "  [[tenant.allow]]\n  hots = [\"example.org\"]\n");
    rollout.write(&broken);
    let file = rollout.candidate_file().display().to_string();
    let output = rollout.ask(&["load", &file]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    let line =
        broken.render(&rollout.gateway.flow_log()).lines().position(|line| line.contains("hots")).unwrap()
            + 1;
    assert!(said.contains(&format!("{file}:{line}:3: error: unknown key \"hots\"")), "{said}");
    assert!(said.contains("did you mean \"hosts\"?"), "{said}");
    assert_eq!(rollout.status()["version"], before, "the previous candidate stays");
    let output = rollout.ask(&["load", "/nonexistent/egret.toml"]);
    assert!(output.status.code() == Some(1) && text(&output).contains("cannot be read"), "{}", text(&output));
    wait_for("both refusals to be in the audit log", || {
        let changes = rollout.gateway.changes();
        let refused = changes.iter().filter(|line| line["result"] == "refused").count();
        if refused == 2 { Ok(()) } else { Err(refused) }
    });
}

/// Clients of the control API can neither block the gateway nor exhaust its memory with a file.
fn special_files_are_refused_as_candidates() {
    let lab = Lab::new();
    let rollout = Rollout::new(&lab);
    let folder = rollout.candidate_file().with_file_name("special");
    fs::create_dir_all(folder.join("policy.d")).unwrap();
    let at = |name: &str| folder.join(name).display().to_string();
    nix::unistd::mkfifo(&folder.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    nix::unistd::mkfifo(&folder.join("policy.d/x.toml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::File::create(folder.join("sparse")).unwrap().set_len(1 << 36).unwrap();
    fs::copy(rollout.gateway.flow_log().with_file_name("egret.toml"), folder.join("main")).unwrap();
    let named = Rollout::config(&lab, "  [[tenant.allow]]\n  hosts_file = \"/dev/zero\"\n");
    rollout.write(&named);
    let candidate = rollout.candidate_file().display().to_string();
    let before = rollout.gateway.resident_kib();
    for (path, why) in [
        (at("fifo"), "a FIFO"),
        ("/dev/zero".to_owned(), "a device"),
        (at("sparse"), "too large"),
        (at("."), "a directory"),
        (at("main"), "policy.d/x.toml: error: cannot be read: it is a FIFO"),
        (candidate, "`hosts_file`: /dev/zero cannot be read: it is a device"),
    ] {
        let output = rollout.ask(&["load", &path]);
        assert!(output.status.code() == Some(1) && text(&output).contains(why), "{path}: {}", text(&output));
    }
    let grown = rollout.gateway.resident_kib().saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB");
    assert!(rollout.gateway.egret(&["reload"]).status.success());
    let check = rollout.lab.gateway.output(&mut unprivileged("", &["check"], Path::new(&at("main"))));
    assert!(text(&check).contains("it is a FIFO"), "{}", text(&check));
}
