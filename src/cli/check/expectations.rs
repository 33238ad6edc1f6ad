//! `egret check --tests`: unit tests of a policy, as a TOML file of expectations.

use crate::admin::{ClientTarget, ExplainQuery, ExplainReport, NotAnAddress, parse_address};
use crate::cli::explain::show;
use crate::cli::output::json_line;
use crate::config::{Diagnostic, Severity};
use crate::control::{ExplainError, Explainer};
use crate::files;
use crate::outcome::Outcome;
use crate::policy::{CertificateRule, DestinationRule};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::Path;
use toml::Spanned;

/// A file of policy tests.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TestFile {
    #[serde(default)]
    test: Vec<Spanned<Test>>,
}

/// One policy test. Absent expectations are not checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Test {
    /// Description for people.
    name: Option<String>,
    from: ExpectedAddress,
    to: ClientTarget,
    address: Option<ExpectedAddress>,
    #[serde(default)]
    ech: bool,
    #[serde(default)]
    other_protocol: bool,
    verdict: ExpectedVerdict,
    tenant: Option<String>,
    rule: Option<String>,
    outcome: Option<ExpectedOutcome>,
    /// Checks of address and certificate that the allowing rule requires.
    destination: Option<ExpectedDestination>,
    certificate: Option<ExpectedCertificate>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "String")]
struct ExpectedAddress(IpAddr);

impl TryFrom<String> for ExpectedAddress {
    type Error = NotAnAddress;
    fn try_from(text: String) -> Result<Self, NotAnAddress> {
        parse_address(&text).map(Self)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ExpectedVerdict {
    Allow,
    Deny,
    /// The port is not steered, so no policy applies.
    Unsteered,
}

impl ExpectedVerdict {
    fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Unsteered => "unsteered",
        }
    }
}

/// Newtypes that deserialize the name of a value.
macro_rules! expected {
    ($($name:ident: $what:literal, $of:ty, $page:literal;)+) => {$(
        #[derive(Deserialize)]
        #[serde(try_from = "String")]
        struct $name($of);

        impl TryFrom<String> for $name {
            type Error = String;
            fn try_from(word: String) -> Result<Self, String> {
                let known = <$of>::ALL.iter().copied().find(|known| known.as_str() == word);
                known.map(Self).ok_or_else(|| format!("there is no {} {word:?}; {} has them", $what, $page))
            }
        }
    )+};
}

expected! {
    ExpectedOutcome: "outcome", Outcome, "docs/outcomes.md";
    ExpectedDestination: "destination", DestinationRule, "docs/verify.md";
    ExpectedCertificate: "certificate", CertificateRule, "docs/verify.md";
}

/// Failed tests of a run that are explained in full: an explanation is as long as the tenant has rules.
const EXPLAINED: usize = 20;

/// Result of one test. Field names are the JSON keys.
#[derive(Debug, Serialize)]
struct Tested {
    /// Name of the test, else its query.
    test: String,
    file: String,
    line: usize,
    passed: bool,
    /// Failed expectations; empty if it passed.
    wrong: Vec<String>,
    /// Explanation of the flow.
    got: ExplainReport,
}

impl Tested {
    /// Formats a failure for people: the failed expectations, then the explanation.
    fn text(&self, is_explained: bool) -> String {
        let Self { test, file, line, wrong, got, .. } = self;
        let head = format!("{file}:{line}: FAILED: {test}: {}\n", wrong.join("; "));
        if !is_explained {
            return head;
        }
        format!("{head}    {}\n", show(got).trim_end().replace('\n', "\n    "))
    }
}

/// Results of all tests of a run.
#[derive(Debug, Default)]
pub(super) struct TestResults {
    /// True for a line of JSON for each test, false for text for each failed one.
    pub(super) json: bool,
    pub(super) passed: usize,
    pub(super) failed: usize,
    pub(super) text: String,
}

impl TestResults {
    /// The text, and how many failures are not explained in it.
    pub(super) fn shown(&self) -> String {
        let left = self.failed.saturating_sub(EXPLAINED);
        if self.json || left == 0 {
            return self.text.clone();
        }
        format!("{}The first {EXPLAINED} failures are explained; {left} more are not.\n", self.text)
    }

    /// Tests one query.
    fn add(
        &mut self,
        explainer: &Explainer<'_>,
        query: &ExplainQuery,
        test: &Test,
        (file, line): (&str, usize),
    ) -> Result<(), ExplainError> {
        let mut got = explainer.decide(query)?;
        let wrong = test.differs(&got);
        let passed = wrong.is_empty();
        *(if passed { &mut self.passed } else { &mut self.failed }) += 1;
        let is_explained = self.json || self.failed <= EXPLAINED;
        if passed && !self.json {
            return Ok(());
        }
        if is_explained {
            got = explainer.explain(query)?;
        }
        let name = test.name.clone().unwrap_or_else(|| format!("{} to {}", query.from, query.to));
        let tested = Tested { test: name, file: file.to_owned(), line, passed, wrong, got };
        self.text += &if self.json { json_line(&tested) } else { tested.text(is_explained) };
        Ok(())
    }
}

/// Runs every test of a file in order. The error says why the file cannot be read.
pub(super) fn run(
    path: &Path,
    explainer: &Explainer<'_>,
    results: &mut TestResults,
) -> Result<(), Diagnostic> {
    let shown = path.display().to_string();
    let found = |place: Option<(usize, usize)>, message: String, help: &str| {
        let ((line, column), severity) = (place.unwrap_or_default(), Severity::Error);
        Diagnostic { severity, file: shown.as_str().into(), line, column, message, help: help.to_owned() }
    };
    let content = files::read_text(path, files::ALL_TEXT)
        .map_err(|error| found(None, format!("cannot be read: {error}"), ""))?;
    let TestFile { test } = toml::from_str(&content).map_err(|error| {
        let message = error.message().to_owned();
        // A single `[test]` table instead of an array of tables.
        let help =
            if message.ends_with("expected a sequence") { "write [[test]], in double brackets" } else { "" };
        found(error.span().map(|span| TextCursor::new(&content).to(span.start)), message, help)
    })?;
    if test.is_empty() {
        let message = "there is no [[test]] in it".to_owned();
        return Err(found(None, message, "examples/multi-tenant has some"));
    }
    let mut cursor = TextCursor::new(&content);
    for test in test {
        let place = cursor.to(test.span().start);
        let test = test.into_inner();
        let (from, to, address) = (test.from.0, test.to.clone(), test.address.map(|address| address.0));
        let query = ExplainQuery { from, to, address, ech: test.ech, other_protocol: test.other_protocol };
        let added = results.add(explainer, &query, &test, (&shown, place.0));
        added.map_err(|error| found(Some(place), error.to_string(), ""))?;
    }
    Ok(())
}

/// A place in a text that moves on to the next, so that each character is counted once.
struct TextCursor<'t> {
    rest: std::str::CharIndices<'t>,
    line: usize,
    column: usize,
}

impl<'t> TextCursor<'t> {
    fn new(text: &'t str) -> Self {
        Self { rest: text.char_indices(), line: 1, column: 1 }
    }

    /// Moves on to a byte offset. Returns line and column in characters, counted from 1.
    fn to(&mut self, offset: usize) -> (usize, usize) {
        while self.rest.offset() < offset
            && let Some((_, passed)) = self.rest.next()
        {
            (self.line, self.column) =
                if passed == '\n' { (self.line + 1, 1) } else { (self.line, self.column + 1) };
        }
        (self.line, self.column)
    }
}

impl Test {
    /// Returns the expectations that failed.
    fn differs(&self, got: &ExplainReport) -> Vec<String> {
        let mut wrong = Vec::new();
        // Flows that only monitor mode allows count as denied.
        let verdict = match (got.steered, got.allowed && got.would_deny.is_none()) {
            (false, _) => ExpectedVerdict::Unsteered,
            (true, true) => ExpectedVerdict::Allow,
            (true, false) => ExpectedVerdict::Deny,
        };
        let outcome = got.would_deny.as_ref().or(got.outcome.as_ref()).map(|outcome| &*outcome.name);
        if self.verdict != verdict {
            let why = match (&got.rule, outcome) {
                (Some(rule), Some(outcome)) => format!(" ({outcome}, rule {rule})"),
                (Some(rule), None) => format!(" (rule {rule})"),
                (None, Some(outcome)) => format!(" ({outcome})"),
                (None, None) => String::new(),
            };
            wrong.push(format!("expected {}, got {}{why}", self.verdict.as_str(), verdict.as_str()));
        }
        let expected = [
            ("tenant", self.tenant.as_deref(), got.tenant.as_deref()),
            ("rule", self.rule.as_deref(), got.rule.as_deref()),
            ("outcome", self.outcome.as_ref().map(|outcome| outcome.0.as_str()), outcome),
            (
                "destination",
                self.destination.as_ref().map(|asked| asked.0.as_str()),
                got.destination.as_deref(),
            ),
            (
                "certificate",
                self.certificate.as_ref().map(|asked| asked.0.as_str()),
                got.certificate.as_deref(),
            ),
        ];
        for (what, expected, got) in expected {
            if let Some(expected) = expected.filter(|expected| Some(*expected) != got) {
                wrong.push(format!("expected {what} {expected}, got {}", got.unwrap_or("none")));
            }
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_without_explanation_are_counted() {
        let shown = |json, failed| TestResults { json, failed, ..TestResults::default() }.shown();
        assert_eq!((shown(false, EXPLAINED), shown(true, EXPLAINED + 7)), (String::new(), String::new()));
        assert!(shown(false, EXPLAINED + 7).contains("; 7 more are not"));
    }

    #[test]
    fn cursor_counts_lines_and_characters() {
        let text = "é = 1\n\n  ü";
        let mut cursor = TextCursor::new(text);
        let places = [0, 2, 7, text.len() - 2, text.len(), text.len() + 9].map(|offset| cursor.to(offset));
        assert_eq!(places, [(1, 1), (1, 2), (2, 1), (3, 3), (3, 4), (3, 4)]);
    }
}
