//! Properties of every subcommand.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail the test")]

use std::fs::{File, create_dir, write};
use std::path::{Path, PathBuf};
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
fn mistyped_log_level_stops_no_gateway() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_egret"));
    let output = command.args(["run", "--config", "/nonexistent"]).env("EGRET_LOG", "inof").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("\"inof\": write error, warn, info") && said.contains("level is info"), "{said}");
    // It went on to the next step.
    assert!(said.contains("/nonexistent: "), "{said}");
}

/// A machine with a configuration, a flow log, and a state folder in which the gateway keeps the last good configuration.
struct Machine(tempfile::TempDir);

const FLOW: &str = "00c0ffee-1f";

impl Machine {
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        create_dir(machine.path("state")).unwrap();
        write(machine.path("egret.toml"), machine.config()).unwrap();
        let line = format!(
            r#"{{"time":"2026-01-01T00:00:00.000000Z","flow":"{FLOW}","tenant":"acme","client":"10.0.1.5:40000",
            "destination":"198.51.100.1:443","hostname":"b.example","denied_hostname":null,"protocol":"tls","rule":null,
            "verdict":"deny","outcome":"not_allowed","detail":null,"source":null,"bytes_up":0,"bytes_down":0,"duration_ms":1.5}}"#
        );
        write(machine.path("flows.jsonl"), line.replace('\n', "") + "\n").unwrap();
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn config(&self) -> String {
        let (log, socket) = (self.path("flows.jsonl"), self.path("admin.sock"));
        format!(
            "flow_log.path = \"{}\"\ngateway.admin = \"unix:{}\"\n{CONFIG}",
            log.display(),
            socket.display()
        )
    }

    /// Has the gateway keep the configuration, which is then broken.
    fn keep_and_break(&self) {
        let main = self.path("egret.toml");
        let files = serde_json::json!([{ "path": &main, "text": self.config() }]);
        let kept = serde_json::json!({ "main": &main, "files": files });
        write(self.path("state/in-force.json"), kept.to_string()).unwrap();
        self.break_it();
    }

    fn break_it(&self) {
        write(self.path("egret.toml"), self.config() + "x = \"unclosed\n").unwrap();
    }

    fn egret(&self, arguments: &str) -> (Option<i32>, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_egret"));
        command.args(arguments.split(' ')).env("EGRET_CONFIG", self.path("egret.toml"));
        let output = command.env("STATE_DIRECTORY", self.path("state")).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }
}

#[test]
fn last_good_configuration_answers() {
    let machine = Machine::new();
    machine.keep_and_break();
    for (arguments, code, said) in [
        ("why 00c0ffee-1f", 0, "judged by the last good configuration"),
        ("allow 00c0ffee-1f", 0, "hosts = [\"b.example\"]"),
        ("suggest --tenant acme", 0, "acme"),
        ("explain --from 10.0.1.5 --to api.example.com", 0, "verdict  allowed"),
        ("steering status --json", 1, "has errors, the first: "),
        ("doctor --no-packets --json", 1, "has errors, the first: "),
    ] {
        let (found, out, err) = machine.egret(arguments);
        assert!(
            found == Some(code) && out.replace(": ", ":").contains(&said.replace(": ", ":")),
            "{arguments}: {found:?} {out} {err}"
        );
        let warning = "egret.toml cannot be put in force (run `egret check`); this goes by the last good configuration\n";
        assert!(err.starts_with("egret: warning: ") && err.contains(warning), "{arguments}: {err}");
        assert!(!err.contains("not valid TOML"), "{arguments}: {err}");
    }
    // Such files cannot be reloaded.
    let log = std::fs::read_to_string(machine.path("flows.jsonl")).unwrap();
    write(machine.path("allowed.jsonl"), log.replace("b.example", "api.example.com")).unwrap();
    let (_, out, err) =
        machine.egret(&format!("why {FLOW} --log {}", machine.path("allowed.jsonl").display()));
    assert!(out.contains("would allow it now") && out.contains("correct the files first"), "{out} {err}");
    // With a socket that no file tells: the one of the last good configuration.
    write(machine.path("egret.toml"), "gateway.admin = 1\n").unwrap();
    for arguments in
        ["ports", "names", "reload", "candidate status", "explain --live --from 10.0.1.5 --to a.example"]
    {
        let (code, _, err) = machine.egret(arguments);
        let socket = machine.path("admin.sock").display().to_string();
        assert_eq!(code, Some(2), "{arguments}: {err}");
        assert!(
            err.contains("cannot be put in force (run `egret check`); this asks on the control socket"),
            "{err}"
        );
        assert!(err.contains(&format!("there is no control socket {socket}")), "{arguments}: {err}");
    }
}

#[test]
fn log_answers_without_any_configuration() {
    let machine = Machine::new();
    machine.break_it();
    let (code, out, err) = machine.egret("why 00c0ffee-1f");
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("outcome  not_allowed: ") && !out.contains("judged by"), "{out}");
    assert!(err.ends_with("what it makes of the flow is not known\n") && err.lines().count() == 1, "{err}");
    let (code, out, _) = machine.egret("why --json 00c0ffee-1f");
    let told: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &told["now"], &told["flow"]["flow"]),
        (Some(0), &serde_json::Value::Null, &FLOW.into())
    );
    write(machine.path("egret.toml"), "\"").unwrap();
    let log = machine.path("flows.jsonl").display().to_string();
    assert_eq!(machine.egret(&format!("why 00c0ffee-1f --log {log}")).0, Some(0));
    let (code, _, err) = machine.egret("why 00c0ffee-1f");
    assert!(code == Some(2) && err.contains("the flow log goes to standard output"), "{code:?} {err}");
    // Of another configuration nothing is kept.
    let (code, _, err) = machine.egret("why 00c0ffee-1f --config /nonexistent.toml");
    assert!(code == Some(2) && err.contains("/nonexistent.toml: error: cannot be read"), "{code:?} {err}");
}

#[test]
fn refused_steering_script_fails_its_shell() {
    let machine = Machine::new();
    let (code, script, err) = machine.egret("steering print --config /nonexistent.toml");
    assert!(code == Some(2) && err.contains("/nonexistent.toml"), "{code:?} {err}");
    let ran = Command::new("sh").args(["-c", &script]).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.code() == Some(1) && said.contains("steering was not changed"), "{said}");
}

#[test]
fn exit_codes_are_consistent() {
    let machine = Machine::new();
    let tests = machine.path("tests.toml");
    let test =
        |verdict| format!("[[test]]\nfrom = \"10.0.1.5\"\nto = \"a.example\"\nverdict = \"{verdict}\"\n");
    write(&tests, test("allow")).unwrap();
    write(machine.path("good.toml"), test("deny")).unwrap();
    let at = |name: &str| machine.path(name).display().to_string();
    let check = |name: &str| format!("check --tests {}", at(name));
    for (arguments, code) in [
        (&*check("good.toml"), 0),
        (&check("tests.toml"), 1),
        (&check("none.toml"), 2),
        ("check --config /nonexistent.toml", 1),
        ("explain --from 10.0.1.5 --to api.example.com", 0),
        ("explain --from 10.0.1.5 --to b.example", 1),
        ("explain --from 10.0.1.5 --to b.example:22", 1),
        ("explain --from 10.0.1.5 --to a..b", 2),
        ("explain --from 10.0.1.5 --to b.example --config /nonexistent.toml", 2),
        ("why 00c0ffee-1f", 0),
        ("why 00c0ffee-2f", 1),
        ("why 00c0ffee-1f --log /nonexistent.jsonl", 2),
        ("why nonsense", 2),
        ("allow 00c0ffee-1f", 0),
        ("allow 00c0ffee-2f", 1),
        ("allow 00c0ffee-1f --log /nonexistent.jsonl", 2),
        ("suggest --tenant acme", 0),
        ("suggest --tenant nobody", 2),
        ("steering print", 0),
        ("steering print --config /nonexistent.toml", 2),
        ("steering status", 1),
        ("steering status --config /nonexistent.toml", 2),
        ("doctor --config /nonexistent.toml", 2),
        ("ports", 2),
        ("ports --destination NONSENSE", 2),
        ("ports drain 203.0.113.16", 2),
        ("names", 2),
        ("reload", 2),
        ("candidate status", 2),
        ("candidate load /nonexistent.toml", 2),
        ("completions bash", 0),
        ("completions tcsh", 2),
        ("man", 0),
        ("man --dir /proc/nonexistent", 2),
        ("run --config /nonexistent.toml --state /nonexistent", 2),
        ("nonsense", 2),
    ] {
        let (found, out, err) = machine.egret(arguments);
        assert_eq!(found, Some(code), "{arguments}: {out}{err}");
    }
    assert!(Path::new(&at("egret.toml")).exists());
}
