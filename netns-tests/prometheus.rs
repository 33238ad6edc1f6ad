//! A real Prometheus, which scrapes the gateway and has the rules of deploy/prometheus.

use crate::lab::Lab;
use crate::namespace::text;
use crate::wait::wait_for;
use serde_json::Value;
use std::fmt::Write;
use std::fs;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

const ADDRESS: &str = "127.0.0.1:9090";
const RULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/prometheus/egret-rules.yml");

/// Stops when dropped.
pub struct Prometheus<'lab> {
    lab: &'lab Lab,
    child: Child,
    _dir: TempDir,
}

impl<'lab> Prometheus<'lab> {
    /// Returns when it has scraped the gateway, which must have had a flow of alpha's, for the first time.
    pub fn start(lab: &'lab Lab) -> Self {
        let dir = TempDir::with_prefix("egret-prometheus-").unwrap();
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [\"{RULES}\"]\nscrape_configs:\n\
             - {{job_name: egret, static_configs: [{{targets: [\"127.0.0.1:9915\"]}}]}}\n"
        );
        fs::write(dir.path().join("prometheus.yml"), config).unwrap();
        let mut command = Command::new("prometheus");
        command
            .current_dir(dir.path())
            .arg(format!("--web.listen-address={ADDRESS}"))
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--log.level=error"])
            .stdout(Stdio::null());
        let prometheus = Self { lab, child: lab.gateway.spawn(&mut command), _dir: dir };
        wait_for("Prometheus to scrape the gateway", || {
            prometheus.value("count(egret_flows_total{tenant=\"alpha\"})")
        });
        prometheus
    }

    /// The only sample that a query yields now.
    pub fn value(&self, query: &str) -> Result<f64, String> {
        let mut escaped = String::new();
        for byte in query.bytes() {
            let _ = write!(escaped, "%{byte:02X}");
        }
        let url = format!("http://{ADDRESS}/api/v1/query?query={escaped}");
        let output = self.lab.gateway.output(Command::new("curl").args(["-sS", "--noproxy", "*", &url]));
        let answer: Value = serde_json::from_slice(&output.stdout).map_err(|_| text(&output))?;
        let samples = answer["data"]["result"].as_array().map_or(&[][..], Vec::as_slice);
        let [sample] = samples else { return Err(format!("{query}: {answer}")) };
        sample["value"][1].as_str().and_then(|value| value.parse().ok()).ok_or_else(|| answer.to_string())
    }
}

impl Drop for Prometheus<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
