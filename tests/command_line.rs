//! Properties of every subcommand.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail the test")]

use std::fs::{File, write};
use std::process::{Command, Output, Stdio};

const CONFIG: &str = r#"
steering.interfaces = ["ens6"]
[[pool]]
name = "edge"
addresses = ["203.0.113.16/30"]
[[tenant]]
name = "acme"
sources = ["10.0.1.0/24"]
pool = "edge"
[[tenant.allow]]
hosts = ["api.example.com"]
"#;

fn egret(arguments: &[&str], config: &str, out: impl Into<Stdio>) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("egret.toml");
    write(&path, config).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_egret"));
    command.args(arguments).env("EGRET_CONFIG", path).stdout(out).stderr(Stdio::piped()).output().unwrap()
}

#[test]
fn closed_pipe_succeeds_and_full_disk_fails() {
    for (code, arguments, config) in [
        (0, &["explain", "--from", "10.0.1.5", "--to", "api.example.com"][..], CONFIG),
        (1, &["explain", "--from", "10.0.1.5", "--to", "example.com"], CONFIG),
        (1, &["check", "--json"], "typo = 1"),
        (0, &["steering", "print"], CONFIG),
        (0, &["steering", "print", "--down"], ""),
        (1, &["steering", "status"], CONFIG),
        (0, &["completions", "bash"], ""),
        (0, &["man"], ""),
    ] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = egret(arguments, config, writer);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{arguments:?}: {output:?}");
        let output = egret(arguments, config, File::create("/dev/full").unwrap());
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
    }
}

#[test]
fn mistyped_log_level_is_reported() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_egret"));
    let output = command.args(["run", "--config", "/nonexistent"]).env("EGRET_LOG", "inof").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("\"inof\": write error, warn, info"), "{said}");
}
