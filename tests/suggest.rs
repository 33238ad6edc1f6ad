//! `egret suggest`, run on a flow log and its rotated files.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail the test")]

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Acme may reach one name; a deny rule forbids another.
const CONFIG: &str = r#"
steering = { interfaces = ["ens6"] }
[[pool]]
name = "edge"
addresses = ["203.0.113.16/30"]
[[tenant]]
name = "acme"
sources = ["10.0.1.0/24"]
pool = "edge"
[[tenant.allow]]
hosts = ["known.example.org"]
[[tenant.deny]]
hosts = ["banned.example.org"]
"#;

struct Log {
    folder: tempfile::TempDir,
    flows: u32,
}

/// The fields of a flow record that are read.
struct Flow<'a> {
    tenant: &'a str,
    name: Option<&'a str>,
    protocol: &'a str,
    to: &'a str,
    verdict: Option<&'a str>,
    would_deny: Option<&'a str>,
    outcome: &'a str,
    answered: bool,
}

impl Flow<'_> {
    fn to(name: &str) -> Flow<'_> {
        let to = "198.51.100.1:443";
        Flow {
            tenant: "acme",
            name: Some(name),
            protocol: "tls",
            to,
            verdict: Some("allow"),
            would_deny: None,
            outcome: "closed",
            answered: true,
        }
    }

    fn denied(name: &str) -> Flow<'_> {
        Flow { verdict: Some("deny"), outcome: "not_allowed", answered: false, ..Flow::to(name) }
    }
}

impl Log {
    fn new() -> Self {
        let log = Self { folder: tempfile::tempdir().unwrap(), flows: 0 };
        let path = log.path("flows.jsonl");
        let config = format!("{CONFIG}[flow_log]\npath = {:?}\n", path.to_str().unwrap());
        std::fs::write(log.path("egret.toml"), config).unwrap();
        log
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Times a minute apart, from noon of 2026-01-31.
    fn line(&mut self, flow: &Flow<'_>) -> String {
        let minutes = 12 * 60 + self.flows;
        self.flows += 1;
        let line = serde_json::json!({
            "time": format!("2026-01-31T{:02}:{:02}:00.000000Z", minutes / 60, minutes % 60),
            "flow": "0-1", "tenant": flow.tenant, "client": "10.0.1.7:40000", "destination": flow.to,
            "hostname": flow.name, "hostname_from": "sni", "protocol": flow.protocol, "alpn": null, "ech": false,
            "rule": null, "verdict": flow.verdict, "would_deny": flow.would_deny, "outcome": flow.outcome, "detail": null, "source": null,
            "bytes_up": 1, "bytes_down": 2, "duration_ms": 1.0, "inspect_ms": 0.5,
            "connect_ms": flow.answered.then_some(1.25),
        });
        format!("{line}\n")
    }

    fn write(&mut self, name: &str, flows: &[Flow<'_>]) {
        let text: String = flows.iter().fold(String::new(), |text, flow| text + &self.line(flow));
        std::fs::write(self.path(name), text).unwrap();
    }

    fn suggest(&self, arguments: &[&str]) -> Output {
        suggest(&self.path("egret.toml"), arguments)
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.suggest(&[&["--json"], arguments].concat());
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }
}

fn suggest(config: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_egret"));
    command.args(["suggest", "--tenant", "acme", "--config"]).arg(config).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// `domain [ports] names`, one a rule.
fn rules(proposal: &Value) -> Vec<String> {
    let rule = |rule: &Value| {
        let hosts: Vec<_> =
            rule["hosts"].as_array().unwrap().iter().map(|host| host["name"].as_str().unwrap()).collect();
        format!("{} {} {}", rule["domain"].as_str().unwrap(), rule["ports"], hosts.join(" "))
    };
    proposal["rules"].as_array().unwrap().iter().map(rule).collect()
}

fn names(rows: &Value) -> Vec<&str> {
    rows.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap_or("-")).collect()
}

#[test]
fn only_permitted_names_are_suggested() {
    let mut log = Log::new();
    log.write(
        "flows.jsonl",
        &[
            Flow::to("api.stripe.com"),
            Flow::to("api.stripe.com"),
            Flow { would_deny: Some("not_allowed"), ..Flow::to("files.stripe.com") },
            Flow { to: "198.51.100.1:80", ..Flow::to("files.stripe.com") },
            Flow::to("bucket.s3.amazonaws.com"),
            Flow::to("www.example.co.uk"),
            Flow::to("known.example.org"),
            Flow::denied("evil.stripe.com"),
            Flow::denied("evil.stripe.com"),
            Flow { outcome: "invalid_hostname", name: None, ..Flow::denied("") },
            Flow { answered: false, outcome: "connect_timeout", ..Flow::to("typo.stripe.com") },
            Flow { to: "10.0.9.9:443", ..Flow::to("inside.example.net") },
            Flow::to("banned.example.org"),
            Flow { name: None, to: "198.51.100.20:5432", ..Flow::to("") },
            Flow { tenant: "other", ..Flow::to("others.example") },
            Flow { verdict: None, outcome: "client_left", ..Flow::to("early.example") },
        ],
    );
    let told = log.json(&[]);
    assert_eq!(
        rules(&told),
        [
            "bucket.s3.amazonaws.com [443] bucket.s3.amazonaws.com",
            "example.co.uk [443] www.example.co.uk",
            "stripe.com [80,443] files.stripe.com",
            "stripe.com [443] api.stripe.com",
        ]
    );
    assert_eq!(
        (names(&told["denied"]), &told["denied"][0]["flows"]),
        (vec!["evil.stripe.com", "-"], &2.into())
    );
    assert_eq!(names(&told["unanswered"]), ["typo.stripe.com"]);
    assert_eq!(names(&told["private"]), ["inside.example.net"]);
    assert_eq!(names(&told["denied_now"]), ["banned.example.org"]);
    assert_eq!(told["by_address"][0]["addresses"], serde_json::json!(["198.51.100.20"]));
    assert_eq!(told["allowed_already"], 1);
    let evidence = &told["evidence"];
    for (what, count) in [
        ("lines", 16),
        ("allowed", 10),
        ("would_deny", 1),
        ("denied", 3),
        ("of_other_tenants", 1),
        ("unjudged", 1),
    ] {
        assert_eq!(evidence[what], count, "{what}: {evidence:#}");
    }
    assert!(rules(&log.json(&["--all"])).contains(&"example.org [443] known.example.org".to_owned()));
}

#[test]
fn suggestion_permits_exactly_what_was_seen() {
    let mut log = Log::new();
    let seen: Vec<String> = (0..6).map(|n| format!("n{n}.cdn.example.net")).collect();
    let mut flows: Vec<Flow<'_>> = seen.iter().map(|name| Flow::to(name)).collect();
    flows.extend([
        Flow::to("xn--bcher-kva.example"),
        Flow::denied("evil.cdn.example.net"),
        Flow::denied("evil.example"),
    ]);
    log.write("flows.jsonl", &flows);
    let output = log.suggest(&[]);
    let said = text(&output.stdout).to_owned();
    assert!(output.status.success(), "{output:?}");
    let wildcard = "  # instead of 6 of these; opens every other name there, too, 1 of which were denied: evil.cdn.example.net\n  # \"*.cdn.example.net\",\n";
    for part in [
        "# Evidence: 7 flows allowed, 0 that monitor mode let pass; 2 denied are no evidence.\n",
        "# example.net: 6 names, 6 flows, last 2026-01-31T12:05:00Z\n[[tenant.allow]]\nhosts = [\n  \"n0.cdn.example.net\",  # 1 flow, last 2026-01-31T12:00:00Z\n",
        wildcard,
        "]\nports = [443]\n",
        "#   evil.example:443 (198.51.100.1)  1 flow, last 2026-01-31T12:08:00Z not_allowed\n",
    ] {
        assert!(said.contains(part), "{part}\nin\n{said}");
    }
    let config = log.path("egret.toml");
    let (policy, flow_log) = {
        let before = std::fs::read_to_string(&config).unwrap();
        let (policy, flow_log) = before.split_once("[flow_log]").unwrap();
        (policy.to_owned(), format!("[flow_log]{flow_log}"))
    };
    let explain = |name: &str| {
        let mut egret = Command::new(env!("CARGO_BIN_EXE_egret"));
        egret.args(["explain", "--from", "10.0.1.7", "--to", name, "--config"]).arg(&config);
        egret.output().unwrap().status.code()
    };
    std::fs::write(&config, format!("{policy}{said}{flow_log}")).unwrap();
    for name in seen.iter().map(String::as_str).chain(["xn--bcher-kva.example"]) {
        assert_eq!(explain(name), Some(0), "{name}");
    }
    for name in ["evil.cdn.example.net", "evil.example", "other.cdn.example.net"] {
        assert_eq!(explain(name), Some(1), "{name}");
    }
    assert!(text(&log.suggest(&[]).stdout).contains("# There is nothing to add.\n"));
    // The wildcard permits what the suggestion claims.
    let widened = said.replace("  # \"*.cdn.example.net\",", "  \"*.cdn.example.net\",");
    std::fs::write(&config, format!("{policy}{widened}{flow_log}")).unwrap();
    assert_eq!(explain("evil.cdn.example.net"), Some(0));
}

#[test]
fn wildcards_stay_within_registered_domains() {
    let mut log = Log::new();
    let names: Vec<String> = (0..6)
        .flat_map(|n| {
            [
                format!("b{n}.s3.amazonaws.com"),
                format!("h{n}.amazonaws.com"),
                format!("d{n}.github.io"),
                format!("n{n}.co.uk"),
            ]
        })
        .collect();
    log.write("flows.jsonl", &names.iter().map(|name| Flow::to(name)).collect::<Vec<_>>());
    let told = log.json(&[]);
    let wildcards: Vec<_> = told["rules"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|rule| rule["wildcards"].as_array().unwrap())
        .collect();
    assert!(wildcards.is_empty(), "{wildcards:#?}");
    assert_eq!(told["rules"].as_array().unwrap().len(), 6 + 1 + 6 + 6);
}

#[test]
fn rotated_log_is_read_and_torn_lines_counted() {
    let mut log = Log::new();
    log.write("flows.jsonl.1", &[Flow::to("one.example")]);
    let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
    gz.write_all(log.line(&Flow::to("two.example")).as_bytes()).unwrap();
    let whole = gz.finish().unwrap();
    std::fs::write(log.path("flows.jsonl.2.gz"), &whole).unwrap();
    let mut text_now = log.line(&Flow::to("three.example"));
    let torn = log.line(&Flow::to("torn.example"));
    write!(text_now, "{}\n\nnot json\n{{\"level\":\"info\"}}\n{}\n", &torn[..80], "x".repeat(100_000))
        .unwrap();
    text_now += &log.line(&Flow::to("four.example"));
    std::fs::write(log.path("flows.jsonl"), &text_now).unwrap();
    let told = log.json(&[]);
    let domains: Vec<_> =
        rules(&told).iter().map(|rule| rule.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(domains, ["four.example", "one.example", "three.example", "two.example"]);
    assert_eq!((&told["evidence"]["unreadable"], &told["evidence"]["files"]), (&4.into(), &3.into()));

    std::fs::write(log.path("flows.jsonl.3.gz"), &whole[..whole.len() - 9]).unwrap();
    let output = log.suggest(&[]);
    assert!(
        output.status.success() && text(&output.stderr).contains("flows.jsonl.3.gz is damaged"),
        "{output:?}"
    );

    // A file given by name is read alone.
    let given = log.path("flows.jsonl.2.gz");
    let told = log.json(&["--log", given.to_str().unwrap()]);
    assert_eq!(rules(&told), ["two.example [443] two.example"]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_egret"));
    command
        .args(["suggest", "--tenant", "acme", "--json", "--log", "-", "--config"])
        .arg(log.path("egret.toml"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text_now.as_bytes()).unwrap();
    let told: Value = serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(rules(&told).len(), 2);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "it measures real time")]
fn deep_domains_take_linear_time() {
    let mut log = Log::new();
    let line = log.line(&Flow::to("NAME"));
    let name = |n: usize| format!("n{}.d{}.example.net", n % 5, n / 5);
    let all: String = (0..60_000).map(|n| line.replace("NAME", &name(n))).collect();
    std::fs::write(log.path("flows.jsonl"), all).unwrap();
    let started = Instant::now();
    let told = log.json(&[]);
    let took = started.elapsed();
    let wildcards = told["rules"][0]["wildcards"].as_array().unwrap();
    assert_eq!((wildcards.len(), &wildcards[0]["covers"]), (12_000, &5.into()));
    // Takes a second or two; minutes if every parent were compared with every name.
    assert!(took < Duration::from_secs(30), "{took:?}");
}

#[test]
fn only_the_requested_period_counts() {
    let mut log = Log::new();
    log.write("flows.jsonl", &[Flow::to("old.example")]);
    let told = log.json(&["--since", "1s"]);
    assert_eq!((rules(&told).len(), &told["evidence"]["too_old"]), (0, &1.into()));
    assert_eq!(rules(&log.json(&["--since", "36500d"])), ["old.example [443] old.example"]);
    assert!(text(&log.suggest(&["--since", "1s"]).stdout).contains("# There is no evidence of this tenant"));
}

#[test]
fn impossible_requests_are_reported() {
    let log = Log::new();
    let config = log.path("egret.toml");
    let stdout = log.path("stdout.toml");
    std::fs::write(&stdout, CONFIG).unwrap();
    let other = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_egret"));
        command.args(["suggest", "--config"]).arg(&config).args(arguments).output().unwrap()
    };
    for (output, said) in [
        (log.suggest(&[]), "flows.jsonl: has the gateway run with this configuration?"),
        (log.suggest(&["--log", "/nonexistent"]), "cannot read /nonexistent: No such file"),
        (log.suggest(&["--log", "/"]), "cannot read /: it is a directory"),
        (
            log.suggest(&["--log", "flows.jsonl.3.zst"]),
            "other than gzip: decompress it and pipe it in with --log -",
        ),
        (log.suggest(&["--since", "yesterday"]), "as in \"500ms\""),
        (suggest(&stdout, &[]), "pipe it in with --log -, for example from `journalctl -u egret -o cat`"),
        (other(&["--tenant", "nobody"]), "there is no tenant \"nobody\"; there are acme"),
    ] {
        let stderr = text(&output.stderr);
        assert!(output.status.code() == Some(2) && stderr.contains(said), "wanted {said:?}: {output:?}");
        assert!(output.stdout.is_empty());
    }
}

/// For a tenant with deny rules by name, only protocols other than TLS and HTTP get the key.
#[test]
fn other_protocols_are_suggested_with_key() {
    let mut log = Log::new();
    let to = |to, protocol| Flow {
        name: None,
        protocol,
        to,
        would_deny: Some("no_hostname"),
        ..Flow::to("a.example.org")
    };
    log.write(
        "flows.jsonl",
        &[to("198.51.100.1:5432", "other"), to("198.51.100.2:5432", "tls"), to("198.51.100.3:22", "other")],
    );
    let proposal = log.json(&[]);
    let rules = proposal["by_address"].as_array().unwrap().iter();
    let told: Vec<_> = rules.map(|rule| format!("{} {}", rule["port"], rule["other_protocols"])).collect();
    assert_eq!(told, ["22 true", "5432 false", "5432 true"]);
    let output = log.suggest(&[]);
    let page = text(&output.stdout);
    assert!(page.contains("# ports = [22]\n# other_protocols = \"allow\""), "{page}");
}

/// Acme has a deny rule by name, and here one by address.
#[test]
fn address_rules_take_effect_or_are_left_out() {
    let mut log = Log::new();
    let config = std::fs::read_to_string(log.path("egret.toml")).unwrap();
    let denied = config + "[[tenant.deny]]\ncidrs = [\"198.51.100.9\"]\n";
    std::fs::write(log.path("egret.toml"), denied).unwrap();
    let to = |to, protocol, would_deny| Flow {
        name: None,
        protocol,
        to,
        would_deny: Some(would_deny),
        ..Flow::to("a.example.org")
    };
    log.write(
        "flows.jsonl",
        &[
            to("198.51.100.1:80", "http", "invalid_hostname"),
            to("198.51.100.2:25", "other", "inspect_timeout"),
            to("198.51.100.3:443", "tls", "malformed_tls"),
            to("198.51.100.9:443", "tls", "denied_by_rule"),
        ],
    );
    let proposal = log.json(&[]);
    let addresses = |list: &str| {
        let rows = proposal[list].as_array().unwrap().iter();
        rows.map(|row| row["address"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(addresses("beyond_rules"), ["198.51.100.1", "198.51.100.3"]);
    assert_eq!(addresses("denied_now"), ["198.51.100.9"]);
    let rules = proposal["by_address"].as_array().unwrap();
    assert!(rules.len() == 1 && rules[0]["uninspected"] == true, "{rules:?}");
    let output = log.suggest(&[]);
    let page = text(&output.stdout);
    assert!(page.contains("# ports = [25]\n# inspect = \"none\""), "{page}");
    assert!(page.contains("give that rule `ports`"), "{page}");
}

/// The address is public by every file, and was on a link of the gateway's.
#[test]
fn names_at_private_links_are_not_suggested() {
    let mut log = Log::new();
    let to =
        |name| Flow { would_deny: Some("destination_private"), to: "198.51.100.8:443", ..Flow::to(name) };
    log.write("flows.jsonl", &[to("known.example.org"), to("new.example.org")]);
    let proposal = log.json(&[]);
    assert_eq!(rules(&proposal), Vec::<String>::new());
    let private = proposal["private"].as_array().unwrap();
    assert_eq!((private.len(), &proposal["allowed_already"]), (2, &0.into()), "{private:?}");
}
