//! The alerting rules of deploy/prometheus agree with metrics, outcomes and runbooks.

#![allow(clippy::unwrap_used, reason = "a test's helpers fail the test")]

use egret::flow::UNKNOWN_TENANT;
use egret::outcome::Outcome;
use egret::telemetry::catalogue::{self, Metric, MetricKind};
use egret::telemetry::{Metrics, Scrape, SteeringMetrics};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

/// One `- alert:` or `- record:` of the rules.
struct Rule {
    /// `None` for a recording rule.
    alert: Option<String>,
    recorded: Option<String>,
    text: String,
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap()
}

/// The rules, without comments. promtool parses the file as YAML; here finding where each rule begins is enough.
fn rules() -> Vec<Rule> {
    let text = read("deploy/prometheus/egret-rules.yml");
    let lines: Vec<_> = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let rules = lines.join("\n");
    let rules = rules.split("\n      - ").skip(1).map(|text| {
        let (kind, name) = text.lines().next().unwrap().split_once(": ").unwrap();
        let name = |wanted| (kind == wanted).then(|| name.to_owned());
        Rule { alert: name("alert"), recorded: name("record"), text: text.to_owned() }
    });
    let rules: Vec<_> = rules.collect();
    assert!(rules.iter().all(|rule| rule.alert.is_some() || rule.recorded.is_some()));
    rules
}

/// The names of alerts, in their order, each once.
fn alerts() -> Vec<String> {
    let mut names: Vec<_> = rules().into_iter().filter_map(|rule| rule.alert).collect();
    names.dedup();
    assert!(names.len() > 20, "the rules were not found: {names:?}");
    names
}

/// Expression of a rule, without its labels.
fn condition(rule: &Rule) -> &str {
    let (_, condition) = rule.text.split_once("expr: ").unwrap();
    condition.split("\n        labels:").next().unwrap()
}

/// Splits into words by the alphabet of metric names, which includes the colon of recording rules.
fn words(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':').collect()
}

fn metric(series: &str) -> Option<&'static Metric> {
    catalogue::ALL.iter().copied().find(|metric| match metric.kind {
        MetricKind::Histogram(_) => ["_bucket", "_sum", "_count"]
            .iter()
            .any(|suffix| series.strip_suffix(suffix) == Some(metric.name)),
        MetricKind::Counter | MetricKind::Gauge => series == metric.name,
    })
}

/// The metrics that a condition reads, directly or by recording rules.
fn metrics_of(condition: &str) -> BTreeSet<&'static str> {
    let recorded = rules()
        .into_iter()
        .filter(|rule| rule.recorded.as_deref().is_some_and(|name| words(condition).contains(name)));
    let own = words(condition).into_iter().filter_map(|word| metric(word).map(|metric| metric.name));
    let mut found: BTreeSet<_> = own.collect();
    found.extend(recorded.flat_map(|rule| metrics_of(rule.text.split_once("expr: ").unwrap().1)));
    found
}

#[test]
fn alert_rules_name_existing_metrics() {
    for rule in rules() {
        let ours = |word: &&str| word.starts_with("egret_") || word.starts_with("process_");
        for word in words(&rule.text).into_iter().filter(ours) {
            assert!(metric(word).is_some(), "no metric {word}:\n{}", rule.text);
        }
        for word in words(&rule.text).into_iter().filter(|word| word.contains(":egret_")) {
            let recorded = rules().iter().any(|rule| rule.recorded.as_deref() == Some(word));
            assert!(recorded, "{word} is not recorded");
        }
    }
}

#[test]
fn alert_rules_match_existing_outcomes() {
    let mut matched = 0;
    for rule in rules() {
        for label in ["outcome=\"", "reason=\""] {
            for rest in rule.text.split(label).skip(1) {
                let word = rest.split('"').next().unwrap();
                assert!(Outcome::ALL.iter().any(|outcome| outcome.as_str() == word), "no outcome {word}");
                matched += 1;
            }
        }
        for rest in rule.text.split("outcome=~\"").skip(1) {
            let listed = format!("outcome=~\"{}\"", rest.split('"').next().unwrap());
            assert!(read("docs/outcomes.md").contains(&listed), "not the list of docs/outcomes.md: {listed}");
        }
    }
    assert!(matched >= 5, "matchers were not found");
}

#[test]
fn metrics_name_their_alerts() {
    let rules = rules();
    for metric in catalogue::ALL {
        let looking = rules.iter().filter(|rule| metrics_of(condition(rule)).contains(metric.name));
        let mut looking: Vec<_> = looking.filter_map(|rule| rule.alert.as_deref()).collect();
        looking.dedup();
        assert_eq!(
            metric.alerts, looking,
            "the alerts of {} in the catalogue, and in the rules",
            metric.name
        );
    }
}

#[test]
fn alerts_and_runbooks_correspond() {
    let alerts = alerts();
    for rule in rules() {
        let Some(alert) = rule.alert else { continue };
        let url = format!("runbook_url: docs/runbooks/{alert}.md");
        assert!(rule.text.lines().any(|line| line.trim() == url), "{alert} does not point at its runbook");
    }
    let pages = fs::read_dir(path("docs/runbooks")).unwrap();
    let pages: BTreeSet<_> = pages.map(|page| page.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(pages, alerts.iter().map(|alert| format!("{alert}.md")).collect());
    for alert in alerts {
        let page = read(&format!("docs/runbooks/{alert}.md"));
        let headings: Vec<_> = page.lines().filter(|line| line.starts_with('#')).collect();
        let wanted = [&*format!("# {alert}"), "## What it means", "## Look", "## Now", "## Prevention"];
        assert_eq!(headings, wanted, "the headings of {alert}.md");
        assert!(page.contains("**Urgency:**"), "{alert}.md does not say how urgent it is");
    }
}

#[test]
fn runbooks_name_existing_metrics_and_subcommands() {
    let help = Command::new(env!("CARGO_BIN_EXE_egret")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let subcommands: BTreeSet<_> =
        help.lines().filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next()).collect();
    assert!(subcommands.contains("doctor"), "{help}");
    for alert in alerts() {
        let page = read(&format!("docs/runbooks/{alert}.md"));
        for word in words(&page).into_iter().filter(|word| word.starts_with("egret_")) {
            let family = catalogue::ALL.iter().any(|metric| metric.name == word);
            assert!(family || metric(word).is_some(), "{alert}.md names {word}");
        }
        // commands are in backticks or at the start of a line of a code block
        let commands = page.split("`egret ").skip(1).chain(page.split("\negret ").skip(1));
        for rest in commands {
            let word = rest.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap();
            assert!(
                rest.starts_with("--") || subcommands.contains(word),
                "{alert}.md: there is no `egret {word}`"
            );
        }
    }
}

#[test]
fn each_alert_is_tested_both_ways() {
    let tests = read("deploy/prometheus/egret-rules.test.yml");
    for alert in alerts() {
        let fires = tests.contains(&format!("alertname: {alert}\n        exp_alerts:"));
        let silent = tests.contains(&format!("alertname: {alert} }}"));
        assert!(fires && silent, "{alert}: fires {fires}, silent {silent}");
    }
}

#[test]
#[ignore = "needs promtool; the step `alerts` of scripts/test.sh installs and runs it"]
fn promtool_accepts_the_exposition() {
    let metrics = Metrics::new(SystemTime::UNIX_EPOCH, 1).0;
    metrics.tenant("acme", Some("acme"), false);
    metrics.tenant(UNKNOWN_TENANT, None, false);
    let scrape = Scrape {
        sources: Vec::new(),
        hot: Vec::new(),
        monitored: Vec::new(),
        candidate: None,
        port_collisions: 0,
        config_version: "1f2e3d".into(),
        config_reload_success: true,
        config_fallback: false,
        steering_packets: Vec::new(),
        names: None,
        steering: SteeringMetrics { parts: vec![("mark_rule", true)], ..SteeringMetrics::default() },
    };
    let mut promtool =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).spawn().unwrap();
    promtool.stdin.take().unwrap().write_all(metrics.render(&scrape).as_bytes()).unwrap();
    assert!(promtool.wait().unwrap().success());
}
