//! `egret explain`, run on files.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail the test")]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub(crate) const CONFIG: &str = r#"
steering = { interfaces = ["ens6"], ports = "all" }
[[pool]]
name = "edge"
addresses = ["203.0.113.16/30"]
drain = ["203.0.113.17"]
public = { "203.0.113.16" = "52.1.2.16", "203.0.113.18" = "52.1.2.18", "203.0.113.19" = "52.1.2.19" }
[[pool]]
name = "drained"
addresses = ["203.0.113.32"]
drain = ["203.0.113.32"]
[[tenant]]
name = "acme"
sources = ["10.0.1.0/24"]
pool = "edge"
ports_floor = 2000
ports_ceiling = 9000
limits = { flows = 20000 }
[[tenant.allow]]
name = "stripe"
hosts = ["api.stripe.com"]
ports = [443]
[[tenant.deny]]
hosts = ["*.evil.example"]
[[tenant.allow]]
name = "db"
cidrs = ["10.9.0.0/16", "2001:db8:9::/48"]
ports = [5432]
inspect = "none"
[[tenant]]
name = "late"
sources = ["10.0.3.0/24"]
pool = "drained"
ech = "deny"
[[tenant.allow]]
hosts = ["api.stripe.com"]
"#;

pub(crate) struct Files(tempfile::TempDir);

impl Files {
    pub(crate) fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.write("egret.toml", CONFIG);
        files
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn egret(&self, command: &str, arguments: &[&str]) -> Output {
        egret(command, &self.0.path().join("egret.toml"), arguments)
    }

    fn explain(&self, from: &str, to: &str, more: &[&str]) -> Output {
        self.egret("explain", &[&["--from", from, "--to", to], more].concat())
    }

    fn json(&self, from: &str, to: &str, address: Option<&str>) -> Value {
        let address = address.map_or(vec![], |address| vec!["--address", address]);
        let output = self.explain(from, to, &[&address[..], &["--json"]].concat());
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(i32::from(report["allowed"] != true)), "{report:#}");
        report
    }
}

pub(crate) fn egret(command: &str, config: &Path, arguments: &[&str]) -> Output {
    let mut egret = Command::new(env!("CARGO_BIN_EXE_egret"));
    egret.arg(command).arg("--config").arg(config).args(arguments).output().unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn allowed_name_shows_rule_and_source() {
    let output = Files::new().explain("10.0.1.5", "api.stripe.com", &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(
        text(&output.stdout),
        "from     10.0.1.5, tenant acme\n\
         to       api.stripe.com, port 443\n\
         address  assuming a public IPv4 address (192.0.2.1), for the client's is IPv4; pass --address to judge a particular one\n\
         rules    allow  stripe         covers the flow and decides\n         \
                  deny   egret.toml:23  no: another hostname\n         \
                  allow  db             no: another address\n\
         verdict  allowed (stripe)\n\
         leaves   from 203.0.113.16/30, ports 1024-65535 (pool edge)\n         \
                  not from 203.0.113.17: out of use\n\
         limit    9000 ports of the tenant towards a destination\n\
         assured  2000 ports of the tenant towards a destination\n\
         limit    20000 flows of the tenant at once\n"
    );
}

#[test]
fn explained_source_address_is_stable() {
    let files = Files::new();
    let report = files.json("10.0.1.5", "api.stripe.com", Some("198.51.100.1"));
    let source = report["pool"]["source"].as_str().unwrap().to_owned();
    assert_ne!(source, "203.0.113.17", "it drains");
    assert_eq!(report["pool"]["public"], source.replace("203.0.113.", "52.1.2."));
    assert_eq!(files.json("10.0.1.5", "10.9.0.1:5432", None)["pool"]["source"], *source);
    let output = files.explain("10.0.1.5", "10.9.0.1:5432", &[]);
    let said = text(&output.stdout);
    assert!(said.contains("to       10.9.0.1:5432, without a name\n"), "{said}");
    assert!(said.contains("allowed (db), before the client says anything\n"), "{said}");
    assert!(said.contains(&format!("{source} first, outside 52.1.2.")), "{said}");
}

#[test]
fn verdict_shows_its_outcome() {
    let files = Files::new();
    for (from, to, address, outcome, rule) in [
        ("10.0.1.5", "api.stripe.com", Some("198.51.100.1"), None, Some("stripe")),
        ("10.0.1.5", "api.stripe.com", Some("10.0.0.1"), Some("destination_private"), Some("stripe")),
        ("10.0.1.5", "api.stripe.com:80", None, Some("not_allowed"), None),
        ("10.0.1.5", "x.evil.example", None, Some("denied_by_rule"), Some("egret.toml:23")),
        ("10.0.1.5", "198.51.100.1", None, Some("no_hostname"), None),
        ("10.0.1.5", "https://198.51.100.1/", None, Some("no_hostname"), None),
        ("10.0.1.5", "http://198.51.100.1/", None, Some("invalid_hostname"), None),
        ("10.0.1.5", "10.9.0.1:5432", None, None, Some("db")),
        ("10.0.2.5", "api.stripe.com", None, Some("unknown_tenant"), None),
        ("10.0.3.5", "api.stripe.com", None, Some("no_source_address"), Some("egret.toml:35")),
    ] {
        let report = files.json(from, to, address);
        assert_eq!(report["outcome"]["name"].as_str(), outcome, "{from} {to} {address:?}");
        assert_eq!(report["rule"].as_str(), rule, "{from} {to} {address:?}");
        assert_eq!((&report["live"], &report["flows"]), (&false.into(), &Value::Null));
        let output = files.explain(from, to, &address.map_or(vec![], |address| vec!["--address", address]));
        let said = text(&output.stdout);
        assert!(outcome.is_none_or(|outcome| said.contains(&format!("outcome  {outcome}: "))), "{said}");
    }
    let report = files.json("10.0.1.5", "a.example", Some("10.0.0.1"));
    assert_eq!(report["rules"][0]["finding"], "other_hostname");
    assert_eq!(report["rules"][2]["effect"], "allow");
    let output = files.explain("10.0.3.5", "api.stripe.com", &["--ech"]);
    assert!(text(&output.stdout).contains("outcome  ech_denied: "), "{}", text(&output.stdout));
}

#[test]
fn only_the_clients_family_is_judged() {
    let files = Files::new();
    let config = CONFIG
        .replacen("\"203.0.113.32\"", "\"2001:db8:32::1\", \"203.0.113.32\"", 1)
        .replace("[\"10.0.1.0/24\"]", "[\"10.0.1.0/24\", \"2001:db8:1::/64\"]");
    files.write("egret.toml", &config.replace("[\"10.0.3.0/24\"]", "[\"10.0.3.0/24\", \"2001:db8:3::/64\"]"));
    for (from, assumed, outcome, addresses) in [
        ("10.0.1.5", "192.0.2.1", None, &["203.0.113.16/30"][..]),
        ("2001:db8:1::5", "2001:db8::1", Some("no_source_address"), &[]),
        ("10.0.3.5", "192.0.2.1", Some("no_source_address"), &["203.0.113.32/32"]),
        ("2001:db8:3::5", "2001:db8::1", None, &["2001:db8:32::1/128"]),
    ] {
        let report = files.json(from, "api.stripe.com", None);
        assert_eq!((&report["address"], &report["outcome"]["name"].as_str()), (&assumed.into(), &outcome));
        assert_eq!(report["pool"]["addresses"], serde_json::json!(addresses), "{report:#}");
    }
    let output = files.explain("2001:db8:1::5", "api.stripe.com", &[]);
    let said = text(&output.stdout);
    assert!(said.contains("leaves   not by IPv6: pool edge has IPv4 addresses alone,"), "{said}");
    for (from, to, address) in [
        ("10.0.1.5", "2001:db8:9::1", None),
        ("2001:db8:1::5", "10.9.0.1:5432", None),
        ("10.0.1.5", "api.stripe.com", Some("2001:db8:9::1")),
        ("2001:db8:1::5", "api.stripe.com", Some("198.51.100.1")),
    ] {
        let output = files.explain(from, to, &address.map_or(vec![], |address| vec!["--address", address]));
        let said = text(&output.stderr);
        assert!(output.status.code() == Some(2) && said.contains("they are of two families"), "{output:?}");
    }
}

#[test]
fn resolved_name_leaves_by_the_pools_families() {
    let files = Files::new();
    let dual = CONFIG.replacen("[\"203.0.113.16/30\"]", "[\"203.0.113.16/30\", \"2001:db8:16::1\"]", 1);
    let asking = ASKING.replace("\"verify\"\ncertificate = \"require\"", "\"resolve\"");
    files.write("egret.toml", &(dual + &asking));
    let report = files.json("10.0.4.5", "api.example.com", None);
    assert_eq!(report["pool"]["addresses"], serde_json::json!(["203.0.113.16/30", "2001:db8:16::1/128"]));
}

#[test]
fn packets_left_alone_are_not_judged() {
    let files = Files::new();
    let rule = "[[tenant]]\nname = \"all\"\nsources = [\"203.0.113.0/24\", \"10.0.4.0/24\", \"fd00:4::/64\"]\npool = \"edge\"\n\
                [[tenant.allow]]\ncidrs = [\"0.0.0.0/0\", \"::/0\"]\n";
    files.write("egret.toml", &format!("{CONFIG}{rule}"));
    for (from, to, why) in [
        ("203.0.113.18", "198.51.100.7", "own_source"),
        ("10.0.4.5", "203.0.113.18", "own_address"),
        ("10.0.4.5", "127.0.0.1", "own_address"),
        ("10.0.4.5", "255.255.255.255", "broadcast"),
        ("10.0.4.5", "239.1.2.3", "multicast"),
        ("fd00:4::5", "ff0e::1", "multicast"),
    ] {
        let report = files.json(from, to, None);
        assert_eq!(
            (&report["steered"], &report["never_steered"]),
            (&false.into(), &why.into()),
            "{from} {to}"
        );
        assert!(report["outcome"].is_null(), "{report:#}");
        let output = files.explain(from, to, &[]);
        let said = text(&output.stdout);
        assert!(output.status.code() == Some(1) && said.contains("verdict  never reaches Egret\n"), "{said}");
        assert!(said.contains("not intercepted") && !said.contains("[steering] ports"), "{said}");
    }
    let report = files.json("10.0.1.5", "api.stripe.com", Some("203.0.113.18"));
    assert_eq!(report["never_steered"], "own_address");
    assert_eq!(files.json("203.0.113.18", "api.stripe.com", None)["never_steered"], "own_source");
}

#[test]
fn other_protocol_is_judged_without_name() {
    let files = Files::new();
    let rule = "[[tenant]]\nname = \"nets\"\nsources = [\"10.0.4.0/24\"]\npool = \"edge\"\n\
                [[tenant.allow]]\nname = \"net\"\ncidrs = [\"198.51.100.0/24\"]\n\
                [[tenant.deny]]\nname = \"bad\"\nhosts = [\"bad.example\"]\n";
    for (key, code, finding) in [
        ("", 1, "net   allows TLS and HTTP alone, for a deny rule goes by name here, or `ech` is \"deny\""),
        ("other_protocols = \"allow\"\n", 0, "net   covers the flow and decides"),
    ] {
        let rule = rule.replace("[[tenant.deny]]", &format!("{key}[[tenant.deny]]"));
        files.write("egret.toml", &format!("{CONFIG}{rule}"));
        let output = files.explain("10.0.4.5", "198.51.100.7:22", &["--other-protocol"]);
        let said = text(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains("to       198.51.100.7:22, in neither TLS nor HTTP\n"), "{said}");
        assert!(said.contains(&finding.replace("net   ", "net  ")), "{said}");
        assert_eq!(said.contains("outcome  unknown_protocol: "), code == 1, "{said}");
    }
    let output = files.explain("10.0.4.5", "198.51.100.7:22", &[]);
    assert_eq!(output.status.code(), Some(0), "TLS or HTTP without a name passes");
    let output = files.explain("10.0.4.5", "a.example", &["--other-protocol"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("asks for no name"), "{}", text(&output.stderr));
}

/// A tenant whose rules verify names.
pub(crate) const ASKING: &str = r#"
[[tenant]]
name = "asking"
sources = ["10.0.4.0/24"]
pool = "edge"
[[tenant.allow]]
name = "asks"
hosts = ["api.example.com"]
destination = "verify"
certificate = "require"
"#;

#[test]
fn explanation_shows_name_checks() {
    let files = Files::new();
    files.write("egret.toml", &(CONFIG.to_owned() + ASKING));
    let report = files.json("10.0.4.5", "api.example.com", None);
    assert_eq!((&report["destination"], &report["certificate"]), (&"verify".into(), &"require".into()));
    assert_eq!((&report["address_check"], &report["certificate_check"]), (&Value::Null, &Value::Null));
    let output = files.explain("10.0.4.5", "api.example.com", &[]);
    let checks = "checks   destination = \"verify\"; the running gateway knows the name's addresses: ask with --live\n         \
                  certificate = \"require\"; the running gateway knows what servers proved: ask with --live\nverdict  allowed";
    assert!(text(&output.stdout).contains(checks), "{}", text(&output.stdout));
    let report = files.json("10.0.1.5", "api.stripe.com", None);
    assert_eq!((&report["destination"], &report["certificate"]), (&"original".into(), &"off".into()));
    let report = files.json("10.0.4.5", "other.example.com", None);
    assert_eq!((&report["destination"], &report["certificate"]), (&Value::Null, &Value::Null));
}

#[test]
fn tests_see_denials_under_monitoring() {
    let files = Files::new();
    files.write(
        "egret.toml",
        &CONFIG.replace("sources = [\"10.0.1.0/24\"]", "sources = [\"10.0.1.0/24\"]\nmode = \"monitor\""),
    );
    let report = files.json("10.0.1.5", "x.evil.example", None);
    assert_eq!((&report["allowed"], &report["would_deny"]["name"]), (&true.into(), &"denied_by_rule".into()));
    assert_eq!((&report["outcome"], &report["mode"]), (&Value::Null, &"monitor".into()));
    let output = files.explain("10.0.1.5", "x.evil.example", &["--address", "169.254.169.254"]);
    assert!(text(&output.stdout).contains("denied (egret.toml:24), in monitor mode too\n"), "{output:?}");
    let output = files.explain("10.0.1.5", "x.evil.example", &[]);
    assert!(
        text(&output.stdout)
            .contains("verdict  allowed: monitor mode lets it pass; enforced, deny rule egret.toml:24 would deny it (denied_by_rule)\n"),
        "{output:?}"
    );
    let tests = files.write(
        "tests.toml",
        "[[test]]\nfrom = \"10.0.1.5\"\nto = \"x.evil.example\"\nverdict = \"deny\"\noutcome = \"denied_by_rule\"\n",
    );
    let output = files.egret("check", &["--tests", tests.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn senseless_question_is_refused() {
    let files = Files::new();
    for (to, more, said) in [
        ("192.0.2.1", &["--address", "192.0.2.2"][..], "an address already"),
        ("a..example", &[][..], "empty label"),
        ("a.example:0", &[], "not a number from 1 to 65535"),
        ("udp://a.example:443", &[], "of URLs only https, http, wss and ws are known here"),
        ("*.a.example", &[], "write one that the wildcard covers"),
        ("a.example", &["--address", "10.0.0.0/8"], "a network, not an address"),
    ] {
        let output = files.explain("10.0.1.5", to, more);
        assert!(output.status.code() == Some(2) && text(&output.stderr).contains(said), "{output:?}");
    }
    files.write("egret.toml", "colour = 1\n");
    let output = files.explain("10.0.1.5", "a.example", &[]);
    assert!(output.status.code() == Some(2) && text(&output.stderr).contains("unknown key \"colour\""));
}

#[test]
fn unsteered_ports_are_reported() {
    let files = Files::new();
    files.write("egret.toml", &CONFIG.replacen("ports = \"all\"", "ports = [80, 443]", 1));
    let output = files.explain("10.0.1.5", "api.stripe.com:22", &[]);
    let said = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("verdict  never reaches Egret") && said.contains("add 22 there"), "{said}");
    for (verdict, code) in [("allow", 1), ("deny", 1), ("unsteered", 0)] {
        let test =
            format!("[[test]]\nfrom = \"10.0.1.5\"\nto = \"api.stripe.com:22\"\nverdict = \"{verdict}\"\n");
        let tests = files.write("tests.toml", &test);
        let output = files.egret("check", &["--tests", tests.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(code), "{verdict}: {output:?}");
    }
}

#[test]
fn urls_are_explained() {
    let files = Files::new();
    let output = files.explain("10.0.1.5", "https://api.stripe.com/v1/charges?limit=3", &["--json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&told["hostname"], &told["port"]), (&"api.stripe.com".into(), &443.into()));
}

/// The gateway enforces since then, though the clock was set back.
#[test]
fn ended_monitoring_counts_for_files_too() {
    const DATE: &str = "2999-01-01T00:00:00Z";
    let monitored = CONFIG.replacen(
        "[[tenant.allow]]",
        &format!("mode = \"monitor\"\nmonitor_until = \"{DATE}\"\n[[tenant.allow]]"),
        1,
    );
    let files = Files::new();
    let main = files.write("egret.toml", &monitored);
    for (kept, mode) in [(None, "monitor"), (Some(DATE), "enforce")] {
        if let Some(date) = kept {
            files.write("monitor-ended", date);
        }
        let mut egret = Command::new(env!("CARGO_BIN_EXE_egret"));
        egret
            .args(["explain", "--from", "10.0.1.5", "--to", "x.example.org", "--json", "--config"])
            .arg(&main);
        let output = egret.env("STATE_DIRECTORY", main.parent().unwrap()).output().unwrap();
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            (&told["mode"], &told["allowed"]),
            (&mode.into(), &(mode == "monitor").into()),
            "{told:#}"
        );
    }
}
