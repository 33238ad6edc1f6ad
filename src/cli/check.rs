//! `egret check`: is this configuration what was meant?

use crate::config::{self, Config, Diagnostic};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

/// Loads the configuration and tells what was found: for people on standard error, or, with `json`, one JSON object a
/// line on standard output. Exits with 0 if it can be used, with 1 if not.
pub fn run(config: &Path, json: bool) -> ExitCode {
    let (found, summary, code) = match config::load(config) {
        Ok(loaded) => {
            let summary = summary(&loaded.config, loaded.warnings.len());
            (loaded.warnings, summary, ExitCode::SUCCESS)
        }
        Err(report) => {
            let (errors, warnings) = (report.errors(), report.warnings());
            let summary = format!("failed: {}", counted(&[(errors, "error"), (warnings, "warning")]));
            (report.diagnostics, summary, ExitCode::FAILURE)
        }
    };
    // A reader that has gone away does not change the verdict.
    let _ = if json { print_json(&found) } else { print_text(&found, &summary) };
    code
}

fn print_text(found: &[Diagnostic], summary: &str) -> io::Result<()> {
    let mut out = io::stderr().lock();
    for diagnostic in found {
        writeln!(out, "{diagnostic}")?;
    }
    writeln!(out, "{summary}")
}

fn print_json(found: &[Diagnostic]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for diagnostic in found {
        serde_json::to_writer(&mut out, diagnostic)?;
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
