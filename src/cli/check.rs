//! `egret check`: is this configuration what was meant?

mod expectations;

use crate::app::Explainer;
use crate::config::{self, Config, Diagnostic};
use expectations::Tested;
use serde::Serialize;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What is asked.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Run the tests in these files: `[[test]]` tables of who wants what (from, to, address, ech) and what is expected
    /// (verdict, tenant, rule, outcome, destination, certificate)
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub tests: Vec<PathBuf>,
    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// Loads the configuration and tells what was found: for people on standard error, or, with `json`, one JSON object a
/// line on standard output. Exits with 0 if it can be used and every test passes, with 1 if not, and with 2 if there
/// are tests that cannot be read.
pub fn run(config: &Path, options: &Options) -> ExitCode {
    let json = options.json;
    let (found, summary, loaded) = match config::load(config) {
        Ok(loaded) => {
            let summary = summary(&loaded.config, loaded.warnings.len());
            (loaded.warnings, summary, Some(loaded.config))
        }
        Err(report) => {
            let (errors, warnings) = (report.errors(), report.warnings());
            let summary = format!("failed: {}", counted(&[(errors, "error"), (warnings, "warning")]));
            (report.diagnostics, summary, None)
        }
    };
    // A reader that has gone away does not change the verdict.
    let _ = if json { print_json(&found) } else { print_text(&found, &summary) };
    match loaded {
        Some(config) => test(&config, options).unwrap_or_else(|why| {
            eprintln!("{why}");
            ExitCode::from(2)
        }),
        None => ExitCode::FAILURE,
    }
}

/// Runs the tests, if there are any.
fn test(config: &Config, Options { tests, json }: &Options) -> Result<ExitCode, String> {
    if tests.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    let explainer = Explainer::new(config).map_err(|error| error.to_string())?;
    let (mut tested, mut unread) = (Vec::new(), Vec::new());
    for file in tests {
        match expectations::run(file, &explainer) {
            Ok(more) => tested.extend(more),
            Err(why) => unread.push(why),
        }
    }
    let failed = tested.iter().filter(|test| !test.passed).count();
    let _ = if *json {
        print_json(&tested).and_then(|()| print_json(&unread))
    } else {
        let failures = tested.iter().filter(|test| !test.passed);
        let _ = io::stderr().lock().write_all(failures.map(Tested::text).collect::<String>().as_bytes());
        let mut summary = format!("tests: {} passed, {failed} failed", tested.len() - failed);
        if !unread.is_empty() {
            let _ = write!(summary, ", {} not read", counted(&[(unread.len(), "file")]));
        }
        print_text(&unread, &summary)
    };
    Ok(ExitCode::from(match (unread.is_empty(), failed) {
        (true, 0) => 0,
        (true, _) => 1,
        (false, _) => 2,
    }))
}

fn print_text(found: &[Diagnostic], summary: &str) -> io::Result<()> {
    let mut out = io::stderr().lock();
    for diagnostic in found {
        writeln!(out, "{diagnostic}")?;
    }
    writeln!(out, "{summary}")
}

fn print_json(found: &[impl Serialize]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for one in found {
        serde_json::to_writer(&mut out, one)?;
        writeln!(out)?;
    }
    Ok(())
}

fn summary(config: &Config, warnings: usize) -> String {
    let rules = config.tenants.iter().map(|tenant| tenant.rules.len()).sum();
    let counts = counted(&[(config.tenants.len(), "tenant"), (config.pools.len(), "pool"), (rules, "rule")]);
    match warnings {
        0 => format!("ok: {counts}"),
        _ => format!("ok: {counts} ({})", counted(&[(warnings, "warning")])),
    }
}

/// `2 tenants, 1 pool`.
fn counted(counts: &[(usize, &str)]) -> String {
    let words =
        counts.iter().map(|(count, what)| format!("{count} {what}{}", if *count == 1 { "" } else { "s" }));
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_spelled_out() {
        assert_eq!(counted(&[(2, "tenant"), (1, "pool"), (0, "rule")]), "2 tenants, 1 pool, 0 rules");
    }
}
