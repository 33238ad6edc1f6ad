//! The command `egret ports`.

use super::answers::report;
use super::gateway::{Gateway, egret, text};
use egret::admin::PortsReport;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

#[test]
fn ports_command_prints_table_or_json() {
    let gateway = Gateway::start();
    let output = gateway.egret(&["--pool", "acme", "--destination", "[2001:db8::9]:443"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let asked = gateway.asked.lock().unwrap().take().unwrap();
    assert_eq!(asked.destination, Some("[2001:db8::9]:443".parse().unwrap()));
    assert_eq!(
        text(&output.stdout),
        "\
POOL  SOURCE        STATE      CAPACITY      LIVE      HELD   FREE  AT THE HOTTEST DESTINATION
acme  203.0.113.16  available        16         8         2      6  ████████████░░░░░░░░   62.5 %

HOTTEST DESTINATIONS
████████████░░░░░░░░   62.5 %  203.0.113.16 → [2001:db8::9]:443  api.example.com
                               10 of 16 in use, 2 of them held; +0.5 a second, exhausted in 12 s
                               tenants: acme 8
"
    );
    let output = gateway.egret(&["--json"]);
    let printed: PortsReport = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((printed, output.status.code()), (report(), Some(0)));
}

#[test]
fn ports_watch_refreshes_and_outlives_gateway() {
    let gateway = Gateway::start();
    let mut command = Command::new(env!("CARGO_BIN_EXE_egret"));
    command.args(["ports", "--watch", "--json", "--socket"]).arg(gateway.socket());
    let mut watching = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(watching.stdout.take().unwrap()).lines();
    for _ in 0..2 {
        let printed: PortsReport = serde_json::from_str(&said.next().unwrap().unwrap()).unwrap();
        assert_eq!(printed, report());
    }
    let mut complaints = BufReader::new(watching.stderr.take().unwrap()).lines();
    drop(gateway);
    let complaint = complaints.next().unwrap().unwrap();
    assert!(complaint.contains("there is no control socket"), "{complaint}");
    assert!(watching.try_wait().unwrap().is_none(), "it goes on until it is interrupted");
    watching.kill().unwrap();
    watching.wait().unwrap();
}

#[test]
fn ports_drain_reports_its_result() {
    let gateway = Gateway::start();
    for (arguments, code, said) in [
        (["drain", "203.0.113.16"], 0, "203.0.113.16 is draining: no new flows leave from it"),
        (["drain", "203.0.113.16"], 0, "warning: pool acme has no available IPv4 address left"),
        (["undrain", "203.0.113.16"], 0, "203.0.113.16 is available: new flows may leave from it"),
        (["undrain", "203.0.113.17"], 1, "203.0.113.17 is draining: the configuration drains it"),
        (["undrain", "203.0.113.18"], 1, "203.0.113.18 is withdrawn"),
        (["drain", "192.0.2.1"], 2, "192.0.2.1 is not listed by any pool"),
        (["drain", "nonsense"], 2, "invalid IP address"),
    ] {
        let output = gateway.egret(&arguments);
        let all = format!("{}{}", text(&output.stdout), text(&output.stderr));
        assert!(output.status.code() == Some(code) && all.contains(said), "{arguments:?}: {output:?}");
    }
}

#[test]
fn ports_command_reports_unreachable_gateway() {
    let gateway = Gateway::start();
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("admin.sock");
    let config = folder.path().join("egret.toml");
    std::fs::write(&config, "[gateway]\nadmin = \"off\"\n").unwrap();
    let mut by_config = Command::new(env!("CARGO_BIN_EXE_egret"));
    by_config.args(["ports", "--config"]).arg(&config);
    for (output, said) in [
        (gateway.egret(&["--pool", "other"]), "no pool is called that"),
        (gateway.egret(&["--destination", "a b"]), "neither ADDRESS[:PORT] nor a name"),
        (gateway.egret(&["--pool", "acme", "drain", "203.0.113.16"]), "cannot be used with"),
        (egret(&[], &nowhere), "there is no control socket"),
        (egret(&["--watch"], &nowhere), "there is no control socket"),
        (by_config.output().unwrap(), "the control socket is off"),
    ] {
        let stderr = text(&output.stderr);
        assert!(output.status.code() == Some(2) && stderr.contains(said), "wanted {said:?}: {output:?}");
        assert!(output.stdout.is_empty());
    }
}
