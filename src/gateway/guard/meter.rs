//! Counts what a flow relays, and records what its guard found.

use super::PolicyGuard;
use super::refusal::GuardRefusal;
use crate::flow::{MessageCounter, PolicyVerdict};
use crate::gateway::flow::Flow;
use crate::relay::ByteMeter;

impl ByteMeter<PolicyGuard<'_>> for Flow {
    fn up(&mut self, bytes: usize) {
        self.count(MessageCounter::Up, bytes as u64);
    }
    fn down(&mut self, bytes: usize) {
        self.count(MessageCounter::Down, bytes as u64);
    }
    fn on_inspected(&mut self, guard: &mut PolicyGuard<'_>) {
        let requests = guard.take_requests();
        if requests > 0 {
            self.count(MessageCounter::Requests, requests.into());
        }
        if let Some(refused) = guard.take_refused() {
            record_refusal(self, *refused);
        }
    }
}

/// Writes a refusal into the record, and sets the outcome unless it was waived.
fn record_refusal(flow: &mut Flow, refusal: GuardRefusal) {
    let GuardRefusal { outcome, detail, rule, hostname, waived } = refusal;
    tracing::debug!(%outcome, detail, waived, "refused while relayed");
    let mut record = flow.record();
    if waived && record.would_deny.is_some() {
        return; // it would not have come so far
    }
    record.detail = detail;
    record.rule = rule.or(record.rule.take());
    record.denied_hostname = hostname;
    if waived {
        record.would_deny = Some(outcome);
    } else {
        record.verdict = Some(PolicyVerdict::Deny);
        drop(record);
        flow.set_outcome(outcome);
    }
}
