//! Facts of a flow for the judge, and the judgement in the flow's record.

use super::candidate::{ComparedFlow, ComparisonSubject};
use super::flow::Flow;
use super::flow_end::FlowEnd;
use super::meters::FlowCounter;
use super::policy_views::PolicyViews;
use crate::clock;
use crate::flow::PolicyVerdict;
use crate::outcome::Outcome;
use crate::policy::{ClientInspection, Denial, FlowFacts, Inspection, Judgement, Permit};

/// Facts of a new flow; `seen` is `None` if it was not inspected.
pub(super) fn facts<'a>(flow: &Flow, seen: Option<&'a ClientInspection>) -> FlowFacts<'a> {
    let inspection = seen.map_or(Inspection::Pending, Inspection::First);
    let (dialled, now) = flow.read(|record| (record.destination, record.time));
    FlowFacts::new(dialled, inspection, clock::not_before_reached(now))
}

/// Notes what a candidate would change, if one is loaded.
pub(super) fn compare(views: PolicyViews<'_>, facts: &FlowFacts<'_>, judgement: &Judgement, flow: &mut Flow) {
    if views.candidate.is_none() {
        return;
    }
    let hostname = flow.hostname();
    let compared = ComparedFlow {
        what: ComparisonSubject::Flow,
        time: facts.now,
        client: flow.client(),
        destination: facts.dialled,
        hostname: hostname.as_ref(),
        is_probe: flow.entry().is_probe(),
    };
    let Some(change) = views.compare(facts, judgement, &compared) else { return };
    let mut record = flow.record();
    record.candidate = Some(change);
    record.canary = views.is_canary();
    drop(record);
    if !compared.is_probe {
        flow.meters().count(FlowCounter::Candidate(change));
    }
}

/// Notes a permit.
pub(super) fn allow(flow: &mut Flow, permit: &Permit) {
    tracing::debug!(
        rule = permit.rule().map(|rule| &**rule),
        would_deny = permit.would_deny().map(Outcome::as_str),
        "allowed"
    );
    let mut record = flow.record();
    record.verdict = Some(PolicyVerdict::Allow);
    record.would_deny = permit.would_deny();
    record.rule = permit.rule().cloned();
}

/// Notes a denial, which ends the flow.
pub(super) fn deny(flow: &mut Flow, denial: Denial) -> FlowEnd {
    tracing::debug!(rule = denial.rule.as_deref(), outcome = %denial.outcome, "denied");
    let mut record = flow.record();
    record.verdict = Some(PolicyVerdict::Deny);
    record.rule = denial.rule;
    denial.outcome.into()
}
