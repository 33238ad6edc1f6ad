//! Status report of a candidate.

use super::Loaded;
use crate::admin::{Canary, CandidateStatus, ChangedFlows, Example, FellBack, RequestChanges, TenantChanges};
use crate::gateway::{self, Change, Terms, WINDOW};
use std::sync::Arc;

impl Loaded {
    pub(super) fn state(&self) -> &'static str {
        match self.candidate.terms() {
            None => "observing",
            Some(_) if self.candidate.fell_back().is_some() => "fell_back",
            Some(_) => "canary",
        }
    }

    pub(super) fn status(&self) -> CandidateStatus {
        let (tally, fell_back) = (self.candidate.tally(), self.candidate.fell_back());
        let mut changes: Vec<_> = tally.kinds.into_iter().map(|(kind, kept)| changed(kind, kept)).collect();
        let often = |of: &ChangedFlows| std::cmp::Reverse((of.flows + of.requests, of.flows));
        changes.sort_by(|a, b| (often(a), &a.tenant, &a.rule).cmp(&(often(b), &b.tenant, &b.rule)));
        let tenants = tally.tenants.into_iter().map(|(tenant, counts)| {
            let of = |change: Change| counts.flows[change as usize];
            let requests = |change: Change| counts.requests[change as usize];
            TenantChanges {
                tenant,
                same: of(Change::Same),
                would_deny: of(Change::WouldDeny),
                would_allow: of(Change::WouldAllow),
                unjudged: of(Change::Unjudged),
                requests: RequestChanges {
                    same: requests(Change::Same),
                    would_deny: requests(Change::WouldDeny),
                    would_allow: requests(Change::WouldAllow),
                },
            }
        });
        CandidateStatus {
            file: self.files.main.clone(),
            version: Arc::clone(&self.version),
            loaded: self.time,
            state: self.state().to_owned(),
            canary: self.candidate.terms().map(|Terms { percent, max_denials }| Canary {
                percent,
                max_denials,
                fell_back: fell_back.map(|gateway::FellBack { time, denied, flows }| FellBack {
                    time,
                    denied,
                    flows,
                    within_seconds: WINDOW.as_secs(),
                }),
            }),
            tenants: tenants.collect(),
            changes,
            beyond: tally.beyond,
        }
    }
}

fn changed(kind: gateway::Kind, kept: gateway::Kept) -> ChangedFlows {
    let mut examples: Vec<_> = kept.examples.into_iter().map(example).collect();
    examples.sort_by_key(|example| std::cmp::Reverse(example.last));
    ChangedFlows {
        tenant: kind.tenant,
        change: kind.change.as_str().to_owned(),
        reason: kind.reason.as_str().to_owned(),
        rule: kind.rule,
        candidate_rule: kind.candidate_rule,
        flows: kept.times.flows,
        requests: kept.times.requests,
        examples,
    }
}

fn example(example: gateway::Example) -> Example {
    Example {
        hostname: example.hostname.map(|name| name.to_string()),
        destination: example.destination.socket(),
        client: example.client,
        flows: example.times.flows,
        requests: example.times.requests,
        last: example.last,
    }
}
