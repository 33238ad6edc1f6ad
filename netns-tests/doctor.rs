//! `egret doctor` on the lab's gateway: its findings about packets, against real traffic.

use crate::config::Config;
use crate::gateway::{EGRET, Rules};
use crate::lab::{Family, Host, Lab, Tenant};
use crate::namespace::text;
use crate::traffic::pass;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// Time limit of connections that must fail.
const BRIEF: Duration = Duration::from_millis(300);

/// A configuration whose flows fit every machine's limits.
pub fn config() -> Config {
    Config { gateway: "max_flows = 1000".into(), ..Config::default() }
}

pub fn doctor(lab: &Lab, config: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(EGRET);
    lab.gateway.output(command.args(["doctor", "--json"]).args(more).arg("--config").arg(config))
}

/// Findings about packets and all failures; true if doctor reports no problem.
pub fn packets(lab: &Lab, config: &Path) -> (bool, Vec<Value>) {
    let output = doctor(lab, config, &[]);
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output)));
    let all = report["findings"].as_array().unwrap();
    all.iter().filter_map(|finding| finding["mend"].as_str()).for_each(assert_parses);
    let mut found = all.clone();
    found.retain(|finding| {
        finding["level"] == "fail" || finding["check"].as_str().unwrap().starts_with("packets")
    });
    (report["ok"] == true, found)
}

/// A shell would run it.
fn assert_parses(cure: &str) {
    let parsed = Command::new("bash").args(["-n", "-c", cure]).output().unwrap();
    assert!(parsed.status.success() && parsed.stderr.is_empty(), "{cure}: {}", text(&parsed));
}

pub fn failed(found: &[Value]) -> Vec<&Value> {
    found.iter().filter(|finding| finding["level"] == "fail").collect()
}

/// Traffic passes in both families, and doctor says so.
pub fn assert_passes(lab: &Lab, config: &Path) {
    assert_passes_by(lab, &packets(lab, config));
}

fn assert_passes_by(lab: &Lab, (ok, found): &(bool, Vec<Value>)) {
    for family in [Family::V4, Family::V6] {
        let server = lab.listen(Host::Raw, family, 7000);
        let client = lab.connect(Tenant::Alpha, server.address());
        pass(&client, &server.accept(), b"hello");
    }
    assert!(*ok && failed(found).is_empty(), "{found:#?}");
    let tried = |check: &str| found.iter().filter(|finding| finding["check"] == check).count();
    assert!(tried("packets in") >= 2 && tried("packets out") >= 2, "{found:#?}");
    let said = |words: &str| found.iter().any(|f| f["found"].as_str().unwrap().contains(words));
    assert!(said("reason not_allowed") && !said("no large answer"), "{found:#?}");
}

/// Doctor fails with all of these words; returns its findings.
pub fn assert_told(lab: &Lab, config: &Path, words: &[&str]) -> (bool, Vec<Value>) {
    let said = packets(lab, config);
    for word in words {
        let named = |finding: &&Value| finding["found"].as_str().unwrap().contains(word);
        assert!(!said.0 && failed(&said.1).iter().any(named), "no {word:?}: {:#?}", said.1);
    }
    said
}

/// Doctor reports all of these words, and its cures work.
pub fn assert_named(lab: &Lab, config: &Path, words: &[&str]) {
    let mut said = assert_told(lab, config, words);
    // A cure for one hook may reveal a drop at the next.
    for _ in 0..3 {
        let red = failed(&said.1);
        if red.is_empty() {
            break;
        }
        for finding in red {
            apply(lab, finding["mend"].as_str().unwrap_or_default());
        }
        said = packets(lab, config);
    }
    assert_passes_by(lab, &said);
}

/// The commands of a cure.
fn apply(lab: &Lab, cure: &str) {
    const TOOLS: [&str; 4] = ["iptables ", "ip6tables ", "nft ", "sysctl "];
    for command in cure.split("; ") {
        if TOOLS.iter().any(|tool| command.starts_with(tool)) {
            lab.gateway.shell(command);
        }
    }
}

/// True if a flow of alpha's reaches its server.
pub fn passes(lab: &Lab, family: Family) -> bool {
    let to = Host::Raw.at(family, 7000);
    let server = lab.listen(Host::Raw, family, 7000);
    let Ok(_client) = lab.try_connect(Tenant::Alpha, to, BRIEF) else { return false };
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        if !server.accept_those_that_came().is_empty() {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

/// Traffic does not pass; doctor says so in these words, and its cures work.
pub fn obstacle(rules: Rules, put: &str, words: &[&str]) {
    let lab = Lab::new();
    let gateway = lab.start_steered_gateway(&config(), rules);
    lab.gateway.shell(put);
    assert!(!passes(&lab, Family::V4) || !passes(&lab, Family::V6), "traffic passes in spite of it");
    assert_named(&lab, &gateway.config(), words);
}

/// Traffic passes in spite of it, and doctor has nothing to say.
pub fn no_obstacle(rules: Rules, put: &str) {
    let lab = Lab::new();
    let gateway = lab.start_steered_gateway(&config(), rules);
    lab.gateway.shell(put);
    assert_passes(&lab, &gateway.config());
}
