//! `egret check`: validates a configuration and runs policy tests.

mod expectations;
mod sandbox;
mod service_user;
mod written;

use super::config_path::{DEFAULT_CONFIG, is_same_file};
use super::output::{json_line, print};
use super::steering;
use crate::config::{self, Config, Diagnostic, Severity};
use crate::control::{Explainer, missing, steering_params};
use expectations::TestResults;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Arguments of `egret check`.
#[derive(Debug, Clone, clap::Args)]
pub struct CheckOptions {
    /// Run the tests in these files: `[[test]]` tables of who wants what (from, to, address, ech) and what is expected
    /// (verdict: allow, deny or unsteered; tenant, rule, outcome, destination, certificate)
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub tests: Vec<PathBuf>,
    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// Loads the configuration and prints findings: for people on standard error, or, with `json`, one JSON object per line
/// on standard output. Exits with 0 if it is usable and every test passes, with 1 if not, and with 2 if tests cannot be
/// read.
pub fn run(config: &Path, options: &CheckOptions) -> ExitCode {
    let (found, summary, loaded) = match config::load(config) {
        Ok(mut loaded) => {
            // Tests concern only the policy and run on any machine.
            if options.tests.is_empty() {
                loaded.warnings.extend(of_machine(config, &loaded.config));
                loaded.warnings.extend(written::without_folder(config, &loaded.config));
                let files = || loaded.files.iter().map(|file| &*file.path);
                let is_the_services = is_same_file(config, Path::new(DEFAULT_CONFIG));
                let mut unreadable = service_user::unreadable(config, is_the_services, files());
                if is_the_services {
                    unreadable.extend(sandbox::bounds(files(), config, &loaded.config));
                }
                loaded.warnings.extend(unreadable);
            }
            let found = loaded.warnings;
            match found.iter().filter(|found| found.severity == Severity::Error).count() {
                0 => {
                    let summary = summary(&loaded.config, found.len());
                    (found, summary, Some(loaded.config))
                }
                errors => {
                    let summary = failed(errors, found.len() - errors);
                    (found, summary, None)
                }
            }
        }
        Err(report) => {
            let (errors, warnings) = (report.errors(), report.warnings());
            let summary = failed(errors, warnings);
            (report.diagnostics, summary, None)
        }
    };
    let mut text = lines(&found, &summary, options.json);
    let code = match loaded {
        Some(config) => test(&config, options, &mut text).unwrap_or_else(|why| {
            eprintln!("{why}");
            2
        }),
        None => 1,
    };
    if options.json {
        return print(&text, code);
    }
    // A closed standard error does not change the verdict.
    let _ = io::stderr().lock().write_all(text.as_bytes());
    ExitCode::from(code)
}

/// Findings about this machine. On another machine than the gateway they need not apply.
fn of_machine(path: &Path, config: &Config) -> Vec<Diagnostic> {
    let conflicts = steering::conflicts(&steering_params(config)).into_iter();
    let diagnostic = |(severity, found, help)| Diagnostic::of_file(severity, path, found, help);
    let missing = missing(config).into_iter().map(|missing| {
        (Severity::Warning, missing, "flows whose rules need it are denied until it is there".to_owned())
    });
    conflicts.chain(missing).map(diagnostic).collect()
}

/// Runs the tests, if any, appends their results, and returns the exit code.
fn test(
    config: &Config,
    CheckOptions { tests, json }: &CheckOptions,
    text: &mut String,
) -> Result<u8, String> {
    if tests.is_empty() {
        return Ok(0);
    }
    let explainer = Explainer::new(config).map_err(|error| error.to_string())?;
    let mut results = TestResults { json: *json, ..TestResults::default() };
    let run = |file: &PathBuf| expectations::run(file, &explainer, &mut results).err();
    let unread: Vec<_> = tests.iter().filter_map(run).collect();
    let TestResults { passed, failed, .. } = results;
    *text += &results.shown();
    let mut summary = format!("tests: {passed} passed, {failed} failed");
    if !unread.is_empty() {
        let _ = write!(summary, ", {} not read", counted(&[(unread.len(), "file")]));
    }
    *text += &lines(&unread, &summary, *json);
    Ok(match (unread.is_empty(), failed) {
        (true, 0) => 0,
        (true, _) => 1,
        (false, _) => 2,
    })
}

/// One line per finding, and a summary in the text format.
fn lines(found: &[Diagnostic], summary: &str, json: bool) -> String {
    if json {
        return found.iter().map(json_line).collect();
    }
    found.iter().map(|found| found.to_string() + "\n").collect::<String>() + summary + "\n"
}

fn failed(errors: usize, warnings: usize) -> String {
    format!("failed: {}", counted(&[(errors, "error"), (warnings, "warning")]))
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
