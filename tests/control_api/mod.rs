//! The control API over a real unix socket, and the commands that use it.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail the test")]
#![allow(unreachable_pub, reason = "not a public interface")]

mod answers;
mod gateway;
mod ports;

use answers::refused;
use egret::admin::{ExplainReport, ReloadAnswer};
use gateway::{Gateway, text};
use serde_json::json;
use std::os::unix::net::UnixStream;
use std::process::Command;

#[test]
fn ports_api_answers_filtered_json() {
    let gateway = Gateway::start();
    let (status, answer) = gateway.json("GET", "/v1/ports", "");
    assert_eq!(status, 200);
    assert_eq!(
        answer["sources"][0],
        json!({"pool": "acme", "source": "203.0.113.16", "public": null, "state": "available",
               "capacity": 16, "live": 8, "held": 2, "busiest": 10})
    );
    assert_eq!(
        answer["hot"][0],
        json!({"pool": "acme", "source": "203.0.113.16", "public": null, "destination": "[2001:db8::9]:443",
               "hostname": "api.example.com", "live": 8, "held": 2, "capacity": 16, "growth_per_second": 0.5,
               "exhausted_in_seconds": 12, "tenants": [{"tenant": "acme", "ports": 8}], "clients": []})
    );
    let target = "/v1/ports?pool=acme&tenant=&destination=%5B2001%3Adb8%3A%3A9%5D%3A443";
    assert_eq!(gateway.json("GET", target, "").0, 200);
    let asked = gateway.asked.lock().unwrap().take().unwrap();
    assert_eq!((asked.pool.as_deref(), asked.tenant), (Some("acme"), None));
    assert_eq!(asked.destination, Some("[2001:db8::9]:443".parse().unwrap()));
}

#[test]
fn api_errors_name_their_cause() {
    let gateway = Gateway::start();
    for (method, target, body, status, said) in [
        ("GET", "/v1/ports?pool=other", "", 404, "no pool is called that"),
        ("GET", "/v1/ports?colour=red", "", 400, "unknown field `colour`"),
        ("GET", "/v1/ports?destination=a%20b", "", 400, "neither ADDRESS[:PORT] nor a name"),
        ("POST", "/v1/ports/drain", "{}", 422, "missing field `source`"),
        ("POST", "/v1/ports/drain", r#"{"source":"x","on":true}"#, 422, "invalid IP address"),
        ("POST", "/v1/ports/drain", r#"{"source":"192.0.2.1","on":true}"#, 404, "not listed by any pool"),
        ("POST", "/v1/ports/drain", r#"{"source":"203.0.113.18","on":false}"#, 409, "is withdrawn"),
        ("GET", "/v1/names?name=x", "", 400, "nobody asks"),
        ("GET", "/v1/explain?from=10.0.1.5&to=192.0.2.1", "", 400, "an address already"),
        ("GET", "/v1/trace?trace=7", "", 503, "no trace runs"),
        ("POST", "/v1/ports/drain", &" ".repeat(9000), 413, "length limit exceeded"),
        ("GET", "/v1/candidate/files", "", 404, "no candidate is loaded"),
        ("POST", "/v1/candidate/drop", "", 404, "no candidate is loaded"),
        ("POST", "/v1/candidate/share", r#"{"percent":10}"#, 404, "no candidate is loaded"),
        ("POST", "/v1/candidate/share", r#"{"percent":101}"#, 400, "0 to 100"),
        (
            "POST",
            "/v1/candidate/share",
            r#"{"percent":1,"max_denials":-1}"#,
            400,
            "`max_denials` is 0 to 100",
        ),
        ("POST", "/v1/candidate/load", "{}", 422, "missing field `file`"),
        ("POST", "/v1/candidate/load", r#"{"file":"good.toml","max_denials":1}"#, 400, "an absolute path"),
        ("POST", "/v1/candidate/load", r#"{"file":"/g","percent":0,"max_denials":1}"#, 400, "1 to 100"),
        ("POST", "/v1/candidate/load", r#"{"file":"/g","max_denials":101}"#, 400, "0 to 100"),
    ] {
        let (found, answer) = gateway.json(method, target, body);
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(found == status && error.contains(said), "{target}: {found} {answer}");
    }
    assert_eq!(gateway.request("GET", "/nothing", "").0, 404);
    assert_eq!(gateway.request("POST", "/v1/ports", "").0, 405);
}

#[test]
fn explain_forwards_every_option() {
    let gateway = Gateway::start();
    let explain = |arguments: &[&str]| {
        let mut egret = Command::new(env!("CARGO_BIN_EXE_egret"));
        egret.args(["explain", "--live", "--from", "10.0.1.5", "--socket"]).arg(gateway.socket());
        egret.args(arguments).output().unwrap()
    };
    let output = explain(&["--to", "a.example:8443", "--address", "2001:db8::9", "--ech", "--json"]);
    let told: ExplainReport = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((told.hostname.as_deref(), told.port, told.ech), (Some("a.example"), 8443, true));
    assert_eq!((told.address.to_string().as_str(), told.live), ("2001:db8::9", true));
    assert_eq!(output.status.code(), Some(1));
    let output = explain(&["--to", "a.example"]);
    assert!(text(&output.stdout).contains("verdict  denied, by the gateway that runs\n"), "{output:?}");
    let output = explain(&["--to", "192.0.2.1"]);
    assert!(
        output.status.code() == Some(2) && text(&output.stderr).contains("an address already"),
        "{output:?}"
    );
    let (status, answer) = gateway.json("GET", "/v1/explain?from=10.0.1.5&to=a..b", "");
    assert!(status == 400 && answer["error"].as_str().unwrap().contains("empty label"), "{answer}");
}

#[test]
fn silent_connection_blocks_no_other() {
    let gateway = Gateway::start();
    let silent = UnixStream::connect(gateway.socket()).unwrap();
    assert_eq!(gateway.json("GET", "/v1/ports", "").0, 200);
    drop(gateway);
    drop(silent);
}

#[test]
fn refused_reload_reports_errors_and_fails() {
    let gateway = Gateway::start();
    let (status, answer) = gateway.json("POST", "/v1/reload", "");
    assert_eq!((status, serde_json::from_value(answer).unwrap()), (422, refused()));
    assert_eq!(gateway.request("GET", "/v1/reload", "").0, 405);
    let reload = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_egret"));
        command.arg("reload").args(arguments).arg("--socket").arg(gateway.socket()).output().unwrap()
    };
    let output = reload(&[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(text(&output.stderr), "egret.toml:3:1: error: unknown key\n");
    assert_eq!(text(&output.stdout), "refused: configuration 00c0ffee00c0ffee stays in force\n");
    let output = reload(&["--json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(serde_json::from_slice::<ReloadAnswer>(&output.stdout).unwrap(), refused());
}

/// Exit code and output of `egret candidate …`.
fn candidate(gateway: &Gateway, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_egret"));
    command.arg("candidate").args(arguments).arg("--socket").arg(gateway.socket());
    let output = command.env_remove("EGRET_CONFIG").output().unwrap();
    (output.status.code(), format!("{}{}", text(&output.stdout), text(&output.stderr)))
}

/// The gateway behind it refuses every promotion that is asked of it.
#[test]
fn fallen_back_candidate_is_promoted_by_force() {
    let gateway = Gateway::with_rollback();
    let (code, said) = candidate(&gateway, &["promote", "--yes"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("fell back at 2026-11-22T08:53:58Z") && said.contains("--force"), "{said}");
    assert!(!said.contains("unknown key"), "{said}");
    let (code, said) = candidate(&gateway, &["promote", "--force"]);
    assert!(code == Some(1) && said.contains("unknown key"), "{code:?} {said}");
}

#[test]
fn candidate_command_reports_results() {
    let gateway = Gateway::start();
    for (arguments, code, said) in [
        (&["status"][..], 1, "no candidate is loaded; `egret candidate load FILE`"),
        (
            &["load", "/x/good.toml"],
            0,
            "loaded a1b2c3: it is judged on every flow from now on, without effect",
        ),
        (&["load", "/x/good.toml", "--percent", "10"], 0, "enforced for 10 % of the clients"),
        (&["load", "/x/bad.toml"], 1, "bad.toml:3:1: error: unknown key"),
        (&["load", "/x/good.toml", "--percent", "0"], 2, "0 is not in 1..=100"),
        (&["load", "/x/good.toml", "--percent", "5", "--max-denials", "x"], 2, "a number from 0 to 100"),
        (&["load", "/x/good.toml", "--max-denials", "1"], 2, "--percent"),
        (&["promote"], 1, "no candidate is loaded"),
        (&["drop"], 1, "no candidate is loaded"),
    ] {
        let (found, all) = candidate(&gateway, arguments);
        assert!(found == Some(code) && all.contains(said), "{arguments:?}: {found:?} {all}");
    }
}
