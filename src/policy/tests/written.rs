//! Rules and facts in writing, for tables of judgements.
//!
//! Rules: `NAME allow|deny WHAT…`, separated by `;`, where each WHAT is a host, a network, a `:port` or an option.
//! Facts: how the client was inspected and the address that it dialled, then options; see [`WrittenFacts::parse`].

use crate::addr::{DialAddr, OriginalDestination, PortRange};
use crate::hostname::AskedName;
use crate::outcome::Outcome;
use crate::policy::{
    CertificateRule, CheckFailure, CheckResults, CheckSet, ClientInspection, DestinationRule, EchPolicy,
    FlowFacts, Inspection, Judgement, Policy, PrivateDestinations, RuleEffect, RuleSpec, TenantMode,
    TenantSpec,
};
use jiff::Timestamp;
use std::fmt::Write as _;
use std::sync::Arc;

/// The time of every judgement.
const NOW: Timestamp = Timestamp::UNIX_EPOCH;

/// A policy of one tenant, of clients in 10.0.0.0/8. `mode` is `enforce`, `monitor` or `monitored` until now.
pub(crate) fn policy(rules: &str, mode: &str) -> Policy {
    let mode = match mode {
        "enforce" => TenantMode::Enforce,
        "monitor" => TenantMode::Monitor { until: None },
        "monitored" => TenantMode::Monitor { until: Some(NOW) },
        other => panic!("no mode {other:?}"),
    };
    let spec = TenantSpec {
        sources: vec!["10.0.0.0/8".parse().unwrap()],
        mode,
        ech: if rules.contains("ech-denied") { EchPolicy::Deny } else { EchPolicy::Outer },
        rules: rules.split(';').map(str::trim).filter(|text| !text.is_empty()).map(rule).collect(),
        ..TenantSpec::new("acme", "pool")
    };
    Policy::compile(&[spec], PrivateDestinations::ByCidr).unwrap()
}

fn rule(text: &str) -> RuleSpec {
    let mut words = text.split_whitespace();
    let name = words.next().unwrap();
    let effect = match words.next() {
        Some("allow") => RuleEffect::Allow,
        Some("deny") => RuleEffect::Deny,
        other => panic!("no effect {other:?}"),
    };
    let mut rule = RuleSpec::new(name, effect);
    for word in words {
        match word {
            "ech-denied" => {}
            "uninspected" => rule.uninspected = true,
            "first-request" => rule.first_request_only = true,
            "observe" => rule.destination = DestinationRule::Observe,
            "verify" => rule.destination = DestinationRule::Verify,
            "resolve" => rule.destination = DestinationRule::Resolve,
            "require" => rule.certificate = CertificateRule::Require,
            "watch" => rule.certificate = CertificateRule::Observe,
            word if word.contains('/') => rule.cidrs.push(word.parse().unwrap()),
            word => match word.strip_prefix(':') {
                Some(port) => {
                    let port = port.parse().unwrap();
                    rule.ports.push(PortRange::new(port, port).unwrap());
                }
                None => rule.hosts.push(word.parse().unwrap()),
            },
        }
    }
    rule
}

/// Facts that own what [`FlowFacts`] borrow.
pub(crate) struct WrittenFacts {
    inspection: WrittenInspection,
    dialled: OriginalDestination,
    reached: Option<DialAddr>,
    checks: CheckResults,
}

enum WrittenInspection {
    Pending,
    Skipped,
    First(ClientInspection),
    Later { name: AskedName, first: AskedName, bound: Option<bool> },
    Violation(Outcome),
}

fn name(word: &str) -> AskedName {
    match word {
        "-" => AskedName::Absent,
        "?" => AskedName::Unread,
        name => AskedName::from_bytes(name.as_bytes()),
    }
}

pub(crate) fn outcome(word: &str) -> Outcome {
    Outcome::ALL.iter().copied().find(|outcome| outcome.as_str() == word).unwrap()
}

impl WrittenFacts {
    /// Reads one of
    ///
    /// - `new ADDRESS`, `skipped ADDRESS`: not inspected
    /// - `asks NAME ADDRESS [ech] [unframed]`, `unclear OUTCOME ADDRESS`: by the first bytes
    /// - `later NAME after NAME ADDRESS [bound|unbound]`: by a later request
    /// - `violates OUTCOME ADDRESS`
    ///
    /// each with `reached ADDRESS`, `passed CHECK`, `failed OUTCOME` and `elsewhere OUTCOME` (failed for another policy).
    pub(crate) fn parse(text: &str) -> Self {
        let mut words = text.split_whitespace();
        let mut next = || words.next().unwrap_or_else(|| panic!("{text:?} ends early"));
        let mut inspection = match next() {
            "new" => WrittenInspection::Pending,
            "skipped" => WrittenInspection::Skipped,
            "asks" => {
                let name = name(next());
                WrittenInspection::First(ClientInspection::Asked { name, ech: false, unframed: false })
            }
            "unclear" => WrittenInspection::First(ClientInspection::Unclear(outcome(next()))),
            "later" => {
                let later = name(next());
                assert_eq!(next(), "after");
                WrittenInspection::Later { name: later, first: name(next()), bound: None }
            }
            "violates" => WrittenInspection::Violation(outcome(next())),
            other => panic!("no inspection {other:?}"),
        };
        let dialled = OriginalDestination::tcp(next().parse().unwrap());
        let (mut reached, mut checks) = (None, CheckResults::default());
        while let Some(word) = words.next() {
            let mut value = || words.next().unwrap();
            match (word, &mut inspection) {
                ("ech", WrittenInspection::First(ClientInspection::Asked { ech, .. })) => *ech = true,
                ("unframed", WrittenInspection::First(ClientInspection::Asked { unframed, .. })) => {
                    *unframed = true;
                }
                ("bound", WrittenInspection::Later { bound, .. }) => *bound = Some(true),
                ("unbound", WrittenInspection::Later { bound, .. }) => *bound = Some(false),
                ("reached", _) => reached = Some(DialAddr::tcp(value().parse().unwrap())),
                ("passed", _) => match value() {
                    "address" => checks.passed.address = true,
                    "certificate" => checks.passed.certificate = true,
                    other => panic!("no check {other:?}"),
                },
                ("failed", _) => checks.failed = Some(CheckFailure::Own(outcome(value()))),
                ("elsewhere", _) => checks.failed = Some(CheckFailure::OfOther(outcome(value()))),
                (other, _) => panic!("no fact {other:?}"),
            }
        }
        Self { inspection, dialled, reached, checks }
    }

    pub(crate) fn facts(&self) -> FlowFacts<'_> {
        let inspection = match &self.inspection {
            WrittenInspection::Pending => Inspection::Pending,
            WrittenInspection::Skipped => Inspection::Skipped,
            WrittenInspection::First(seen) => Inspection::First(seen),
            WrittenInspection::Later { name, first, bound } => {
                Inspection::LaterRequest { name, first, bound: *bound }
            }
            WrittenInspection::Violation(outcome) => Inspection::Violation(*outcome),
        };
        let Self { dialled, reached, checks, .. } = *self;
        FlowFacts { dialled, reached, inspection, checks, now: NOW }
    }
}

/// Judgement of the written rules on the written facts.
pub(crate) fn judge(rules: &str, mode: &str, facts: &str) -> Judgement {
    let tenant = Arc::clone(&policy(rules, mode).tenants()[0]);
    tenant.judge(&WrittenFacts::parse(facts).facts())
}

/// `inspect`; `RULE`, with `for OUTCOME` where a denial is waived, `to ADDRESS` where that is not the one dialled, and
/// `needs CHECK…`; or `OUTCOME [RULE]` with an exclamation mark.
pub(super) fn written(judgement: &Judgement, facts: &str) -> String {
    let (permit, needs) = match judgement {
        Judgement::NeedsInspection => return "inspect".to_owned(),
        Judgement::Deny(denial) => {
            let rule = denial.rule.as_ref().map(|rule| format!(" {rule}")).unwrap_or_default();
            return format!("! {}{rule}", denial.outcome);
        }
        Judgement::Permit { permit, needs } => (permit, needs),
    };
    let mut text = permit.rule().map_or_else(|| "-".to_owned(), ToString::to_string);
    if let Some(outcome) = permit.would_deny() {
        let _ = write!(text, " for {outcome}");
    }
    let to = permit.dial().socket();
    if to != WrittenFacts::parse(facts).dialled.socket() {
        let _ = write!(text, " to {to}");
    }
    text += match needs {
        CheckSet { address: false, certificate: false } => "",
        CheckSet { address: true, certificate: false } => " needs address",
        CheckSet { address: false, certificate: true } => " needs certificate",
        CheckSet { address: true, certificate: true } => " needs address certificate",
    };
    text
}
