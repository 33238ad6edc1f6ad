//! Findings of `doctor` and `steering status`, as a table or as JSON.

use super::mend::Mend;
use super::output::{json_page, print};
use serde::Serialize;
use std::fmt::Write as _;
use std::process::ExitCode;

/// Severity of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum FindingLevel {
    /// No problem.
    Ok,
    /// It works, but not well, or will cause problems later.
    Warn,
    /// It does not work.
    Fail,
}

impl FindingLevel {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

/// Result of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct CheckFinding {
    /// Name of the check.
    pub(super) check: &'static str,
    /// Severity of the result.
    pub(super) level: FindingLevel,
    /// The result, in one line.
    pub(super) found: String,
    /// Consequence; empty if there is none.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) why: &'static str,
    /// Remedy, if there is a problem.
    #[serde(flatten)]
    pub(super) mend: Option<Mend>,
}

impl CheckFinding {
    /// A finding without a problem.
    pub(super) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, level: FindingLevel::Ok, found: found.into(), why: "", mend: None }
    }
    /// A finding that works with a problem.
    pub(super) fn warn(
        check: &'static str,
        found: impl Into<String>,
        why: &'static str,
        mend: impl Into<Mend>,
    ) -> Self {
        Self { check, level: FindingLevel::Warn, found: found.into(), why, mend: Some(mend.into()) }
    }
    /// A finding that does not work.
    pub(super) fn fail(
        check: &'static str,
        found: impl Into<String>,
        why: &'static str,
        mend: impl Into<Mend>,
    ) -> Self {
        Self { check, level: FindingLevel::Fail, found: found.into(), why, mend: Some(mend.into()) }
    }
}

/// Prints the findings to standard output, as a table or as JSON. Returns 1 if one failed, else 0.
pub(super) fn report(findings: &[CheckFinding], json: bool) -> ExitCode {
    let failed = findings.iter().any(|finding| finding.level == FindingLevel::Fail);
    let text = if json {
        #[derive(Serialize)]
        struct FindingsReport<'a> {
            ok: bool,
            findings: &'a [CheckFinding],
        }
        let report = FindingsReport { ok: !failed, findings };
        json_page(&report)
    } else {
        table(findings)
    };
    print(&text, u8::from(failed))
}

fn table(findings: &[CheckFinding]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or_default();
    let mut text = String::new();
    for CheckFinding { check, level, found, why, mend } in findings {
        let _ = writeln!(text, "{:<4}  {check:<width$}  {found}", level.as_str());
        let indent = width + 8;
        if !why.is_empty() {
            let _ = writeln!(text, "{:indent$}why:  {why}", "");
        }
        if let Some(mend) = mend {
            for (label, remedy) in [("fix:  ", mend.commands()), ("help: ", mend.words())] {
                if !remedy.is_empty() {
                    let _ = writeln!(text, "{:indent$}{label}{remedy}", "");
                }
            }
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let (ok, warn, fail) = (count(FindingLevel::Ok), count(FindingLevel::Warn), count(FindingLevel::Fail));
    let warnings = if warn == 1 { "warning" } else { "warnings" };
    let _ = writeln!(text, "\n{ok} ok, {warn} {warnings}, {fail} failed");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_shows_remedies() {
        let text = table(&[
            CheckFinding::ok("kernel", "6.1.0"),
            CheckFinding::fail(
                "file descriptors",
                "1024",
                "flows would be refused",
                Mend::run("systemctl restart egret").and("its unit allows enough"),
            ),
        ]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "ok    kernel            6.1.0");
        assert_eq!(lines[1], "FAIL  file descriptors  1024");
        assert_eq!(lines[2], "                        why:  flows would be refused");
        assert_eq!(lines[3], "                        fix:  systemctl restart egret");
        assert_eq!(lines[4], "                        help: its unit allows enough");
        assert_eq!(lines[6], "1 ok, 0 warnings, 1 failed");
    }
}
