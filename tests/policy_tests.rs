//! `egret check --tests`, run on files.

use crate::explain::{ASKING, CONFIG, Files, egret, text};
use serde_json::Value;
use std::path::Path;

#[test]
fn tests_may_expect_checks() {
    let files = Files::new();
    files.write("egret.toml", &(CONFIG.to_owned() + ASKING));
    let test = |more: &str| {
        let head = "[[test]]\nfrom = \"10.0.4.5\"\nto = \"api.example.com\"\nverdict = \"allow\"\n";
        let path = files.write("tests.toml", &format!("{head}{more}\n"));
        files.egret("check", &["--tests", path.to_str().unwrap()])
    };
    for (more, code, said) in [
        ("destination = \"verify\"\ncertificate = \"require\"", 0, "1 passed"),
        ("destination = \"resolve\"", 1, "expected destination resolve, got verify"),
        ("certificate = \"off\"", 1, "expected certificate off, got require"),
        ("destination = \"verfy\"", 2, "there is no destination \"verfy\"; docs/verify.md has them"),
    ] {
        let output = test(more);
        assert_eq!(output.status.code(), Some(code), "{more}: {output:?}");
        assert!(text(&output.stderr).contains(said), "{more}: {output:?}");
    }
}

#[test]
fn examples_tests_pass() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/multi-tenant");
    let tests = folder.join("policy-tests.toml");
    let output = egret("check", &folder.join("egret.toml"), &["--tests", tests.to_str().unwrap()]);
    let said = text(&output.stderr);
    assert!(output.status.success() && said.ends_with("tests: 9 passed, 0 failed\n"), "{said}");
}

#[test]
fn failed_expectation_explains_itself() {
    let files = Files::new();
    let tests = files.write(
        "tests.toml",
        r#"
[[test]]
name = "stripe"
from = "10.0.1.5"
to = "api.stripe.com"
verdict = "allow"
rule = "stripe"

[[test]]
name = "stripe, in plain text"
from = "10.0.1.5"
to = "api.stripe.com:80"
verdict = "allow"
tenant = "other"

[[test]]
from = "10.0.1.5"
to = "x.evil.example"
verdict = "deny"
outcome = "not_allowed"
"#,
    );
    let tests = tests.to_str().unwrap();
    let output = files.egret("check", &["--tests", tests]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in [
        &format!(
            "{tests}:9: FAILED: stripe, in plain text: expected allow, got deny (not_allowed); expected tenant other, got acme\n"
        ),
        "    rules    allow  stripe         no: another port\n",
        &format!(
            "{tests}:16: FAILED: 10.0.1.5 to x.evil.example:443: expected outcome not_allowed, got denied_by_rule\n"
        ),
        "tests: 1 passed, 2 failed\n",
    ] {
        assert!(said.contains(part), "{part}\nin\n{said}");
    }
    let output = files.egret("check", &["--json", "--tests", tests]);
    assert_eq!(output.status.code(), Some(1));
    let lines: Vec<Value> =
        text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let tested: Vec<_> = lines.iter().filter(|line| line["passed"].is_boolean()).collect();
    assert_eq!(tested.iter().map(|test| test["passed"] == true).collect::<Vec<_>>(), [true, false, false]);
    assert_eq!(
        (&tested[1]["line"], &tested[1]["got"]["outcome"]["name"]),
        (&9.into(), &"not_allowed".into())
    );
}

#[test]
fn many_failures_are_explained_in_part() {
    let files = Files::new();
    let test = "[[test]]\nfrom = \"10.0.1.5\"\nto = \"x.example\"\nverdict = \"allow\"\n";
    let tests = files.write("tests.toml", &test.repeat(30));
    let output = files.egret("check", &["--tests", tests.to_str().unwrap()]);
    let said = text(&output.stderr);
    assert_eq!(said.matches("FAILED").count(), 30, "{said}");
    assert_eq!(said.matches("    from     ").count(), 20, "{said}");
    assert!(said.contains("tests.toml:117: FAILED: "), "{said}");
}

#[test]
fn unreadable_tests_fail() {
    let files = Files::new();
    for (tests, said) in [
        ("", "there is no [[test]] in it"),
        ("[[test]]\nfrom = \"10.0.1.5\"\nto = \"a.example\"\nverdit = \"allow\"\n", "unknown field `verdit`"),
        ("[[test]]\nfrom = \"10.0.1.5\"\nto = \"a.example\"\n", "missing field `verdict`"),
        ("\n[[test]]\nfrom = \"10.0.1.5\"\nto = \"a b\"\nverdict = \"deny\"\n", "tests.toml:4:6: error: "),
        ("[test]\nfrom = \"10.0.1.5\"\n", "write [[test]], in double brackets"),
        ("[[test]]\nfrom = \"10.0.1.0/24\"\n", "tests.toml:2:8: error: a network, not an address"),
        ("[[test]]\nfrom = \"10.0.1.500\"\n", "tests.toml:2:8: error: not an IP address"),
        ("[[test]]\nfrom = \"10.0.1.5\"\naddress = 5\n", "tests.toml:3:11: error: invalid type: integer"),
        (
            "[[test]]\nfrom = \"10.0.1.5\"\nto = \"198.51.100.0/24\"\n",
            "write NAME[:PORT], ADDRESS[:PORT] or a URL",
        ),
        ("[[test]]\nfrom = \"10.0.1.5\"\nto = \"*.a.example\"\n", "write one that the wildcard covers"),
        ("[[test]]\nfrom = \"10.0.1.5\nto = \"a.example\"\n", "tests.toml:2:17: error: "),
        (
            "[[test]]\nfrom = \"10.0.1.5\"\nto = \"a.example\"\nverdict = \"deny\"\noutcome = \"no\"\n",
            "there is no outcome \"no\"",
        ),
        (
            "[[test]]\nfrom = \"10.0.1.5\"\nto = \"192.0.2.1\"\naddress = \"192.0.2.1\"\nverdict = \"deny\"\n",
            "tests.toml:1:1: error: the target is an address already",
        ),
    ] {
        let path = files.write("tests.toml", tests);
        let output = files.egret("check", &["--tests", path.to_str().unwrap()]);
        assert!(output.status.code() == Some(2) && text(&output.stderr).contains(said), "{said}: {output:?}");
    }
    // Readable test files are run nevertheless.
    let good = "[[test]]\nfrom = \"10.0.1.5\"\nto = \"API.Stripe.com.\"\nverdict = \"allow\"\n";
    let good = files.write("good.toml", good).display().to_string();
    for json in [&[][..], &["--json"]] {
        let output = files.egret("check", &[json, &["--tests", "/nonexistent.toml", "/", &good]].concat());
        let said = text(if json.is_empty() { &output.stderr } else { &output.stdout });
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        for file in ["/nonexistent.toml", "/"] {
            let wanted = if json.is_empty() {
                format!("{file}: error: cannot be read: ")
            } else {
                format!("\"file\":\"{file}\",\"line\":0")
            };
            assert!(said.contains(&wanted), "{wanted} in {said}");
        }
        let summary =
            if json.is_empty() { "tests: 1 passed, 0 failed, 2 files not read\n" } else { "\"passed\":true" };
        assert!(said.contains(summary), "{said}");
    }
}
