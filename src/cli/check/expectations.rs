//! `egret check --tests`: unit tests of a policy, as a TOML file of expectations.

use crate::admin::{ClientTarget, ExplainQuery, ExplainReport, NotAnAddress, parse_address};
use crate::cli::explain::show;
use crate::config::{Diagnostic, Severity};
use crate::control::Explainer;
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

/// Result of one test. Field names are the JSON keys.
#[derive(Debug, Serialize)]
pub(super) struct Tested {
    /// Name of the test, else its query.
    pub(super) test: String,
    pub(super) file: String,
    pub(super) line: usize,
    pub(super) passed: bool,
    /// Failed expectations; empty if it passed.
    pub(super) wrong: Vec<String>,
    /// Explanation of the flow.
    pub(super) got: ExplainReport,
}

impl Tested {
    /// Formats a failure for people: the failed expectations, then the explanation.
    pub(super) fn text(&self) -> String {
        let Self { test, file, line, wrong, got, .. } = self;
        let why = show(got).trim_end().replace('\n', "\n    ");
        format!("{file}:{line}: FAILED: {test}: {}\n    {why}\n", wrong.join("; "))
    }
}

/// Runs every test of a file in order. The error says why the file cannot be read.
pub(super) fn run(path: &Path, explainer: &Explainer<'_>) -> Result<Vec<Tested>, Diagnostic> {
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
        found(error.span().map(|span| place_of(&content, span.start)), message, help)
    })?;
    if test.is_empty() {
        let message = "there is no [[test]] in it".to_owned();
        return Err(found(None, message, "examples/multi-tenant has some"));
    }
    let mut tested = Vec::with_capacity(test.len());
    for test in test {
        let place = place_of(&content, test.span().start);
        let test = test.into_inner();
        let (from, to, address) = (test.from.0, test.to.clone(), test.address.map(|address| address.0));
        let name = test.name.clone().unwrap_or_else(|| format!("{from} to {to}"));
        let query = ExplainQuery { from, to, address, ech: test.ech, other_protocol: test.other_protocol };
        let got = explainer.explain(&query).map_err(|error| found(Some(place), error.to_string(), ""))?;
        let wrong = test.differs(&got);
        let (file, line, passed) = (shown.clone(), place.0, wrong.is_empty());
        tested.push(Tested { test: name, file, line, passed, wrong, got });
    }
    Ok(tested)
}

/// Line and column in characters, counted from 1.
fn place_of(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.rsplit('\n').next().unwrap_or(before);
    (1 + before.matches('\n').count(), 1 + line.chars().count())
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
