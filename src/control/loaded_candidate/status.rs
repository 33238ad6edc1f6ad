//! Status report of a candidate.

use super::LoadedCandidate;
use crate::admin::{
    CanaryStatus, CandidateStatus, ChangedFlows, ExampleFlows, RequestChanges, RollbackReport, TenantChanges,
};
use crate::flow::PolicyChange;
use crate::gateway::{self, CanaryTerms, WINDOW};
use std::sync::Arc;

impl LoadedCandidate {
    pub(super) fn state(&self) -> &'static str {
        match self.candidate.terms() {
            None => "observing",
            Some(_) if self.candidate.rollback().is_some() => "fell_back",
            Some(_) => "canary",
        }
    }

    /// Rollback of a candidate that is enforced for nobody because of it.
    pub(crate) fn rollback(&self) -> Option<RollbackReport> {
        self.candidate.terms()?;
        let gateway::Rollback { time, denied, flows } = self.candidate.rollback()?;
        Some(RollbackReport { time, denied, flows, within_seconds: WINDOW.as_secs() })
    }

    pub(crate) fn status(&self) -> CandidateStatus {
        let tally = self.candidate.tally();
        let mut changes: Vec<_> = tally.kinds.into_iter().map(|(kind, kept)| changed(kind, kept)).collect();
        let often = |of: &ChangedFlows| std::cmp::Reverse((of.flows + of.requests, of.flows));
        changes.sort_by(|a, b| (often(a), &a.tenant, &a.rule).cmp(&(often(b), &b.tenant, &b.rule)));
        let tenants = tally.tenants.into_iter().map(|(tenant, counts)| {
            let of = |change: PolicyChange| counts.flows[change as usize];
            let requests = |change: PolicyChange| counts.requests[change as usize];
            TenantChanges {
                tenant,
                same: of(PolicyChange::Same),
                would_deny: of(PolicyChange::WouldDeny),
                would_allow: of(PolicyChange::WouldAllow),
                unjudged: of(PolicyChange::Unjudged),
                requests: RequestChanges {
                    same: requests(PolicyChange::Same),
                    would_deny: requests(PolicyChange::WouldDeny),
                    would_allow: requests(PolicyChange::WouldAllow),
                },
            }
        });
        CandidateStatus {
            file: self.files.main.clone(),
            version: Arc::clone(&self.version),
            loaded: self.time,
            state: self.state().to_owned(),
            canary: self.candidate.terms().map(|CanaryTerms { percent, max_denials }| CanaryStatus {
                percent,
                max_denials,
                fell_back: self.rollback(),
            }),
            tenants: tenants.collect(),
            changes,
            beyond: tally.beyond,
        }
    }
}

fn changed(kind: gateway::ChangeKind, kept: gateway::ChangeGroup) -> ChangedFlows {
    let mut examples: Vec<_> = kept.examples.into_iter().map(example).collect();
    examples.sort_by_key(|example| std::cmp::Reverse(example.last));
    ChangedFlows {
        tenant: kind.tenant,
        change: kind.change.as_str().to_owned(),
        reason: kind.reason.as_str().to_owned(),
        rule: kind.rule,
        candidate_rule: kind.candidate_rule,
        waived: kind.waived.map(|waived| waived.as_str().to_owned()),
        flows: kept.times.flows,
        requests: kept.times.requests,
        examples,
    }
}

fn example(example: gateway::ChangeExample) -> ExampleFlows {
    ExampleFlows {
        hostname: example.hostname.map(|name| name.to_string()),
        destination: example.destination.socket(),
        client: example.client,
        flows: example.times.flows,
        requests: example.times.requests,
        last: example.last,
    }
}
