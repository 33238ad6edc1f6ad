//! Views of the policies from one client: the rules that are enforced for it and, while a candidate is loaded, those
//! that only cast a shadow. Both judge the same facts, and here is where the judgements are compared.

use super::candidate::{Candidate, ComparedFlow};
use super::effective_rules::{EffectiveRules, VerificationHandles};
use super::snapshot::{Snapshot, TenantRuntime};
use crate::addr::ClientAddr;
use crate::flow::PolicyChange;
use crate::policy::{FlowFacts, Judgement, TenantRules};
use std::sync::Arc;

/// Rules of the policies for one client.
#[derive(Clone, Copy)]
pub struct PolicyViews<'a> {
    /// Those in force; `None` if the client belongs to no tenant.
    pub in_force: Option<EffectiveRules<'a>>,
    /// Those of the candidate; `None` if none is loaded.
    pub candidate: Option<CandidateView<'a>>,
}

/// A candidate's rules for one client.
#[derive(Clone, Copy)]
pub struct CandidateView<'a> {
    candidate: &'a Candidate,
    /// `None` if the client belongs to no tenant.
    pub rules: Option<EffectiveRules<'a>>,
    /// Percentage of clients that it is enforced for, if the client is one of them.
    pub share: Option<u8>,
}

impl<'a> PolicyViews<'a> {
    /// True if the candidate is enforced for the client. Without a tenant in force there is no pool to leave from.
    pub fn is_canary(self) -> bool {
        self.in_force.is_some() && self.candidate.is_some_and(|candidate| candidate.share.is_some())
    }

    /// Rules that are enforced; `None` if the client belongs to no tenant.
    pub fn enforced(self) -> Option<EffectiveRules<'a>> {
        if self.is_canary() { self.candidate?.rules } else { self.in_force }
    }

    /// Judges a flow by the enforced rules.
    pub fn judge(self, facts: &FlowFacts<'_>) -> Judgement {
        judge_by(self.enforced(), facts)
    }

    /// Records what the candidate would change for a flow, or a request, that was judged by these facts. `None` if no
    /// candidate is loaded.
    pub(super) fn compare(
        self,
        facts: &FlowFacts<'_>,
        judgement: &Judgement,
        compared: &ComparedFlow<'_>,
    ) -> Option<PolicyChange> {
        let CandidateView { candidate, rules, .. } = self.candidate?;
        let is_canary = self.is_canary();
        let shadow = judge_by(if is_canary { self.in_force } else { rules }, &facts.for_shadow());
        let (in_force, by_candidate) = if is_canary { (&shadow, judgement) } else { (judgement, &shadow) };
        let tenant = self.in_force.map(|own| &own.rules.name);
        Some(candidate.note(tenant, [in_force, by_candidate], compared, is_canary))
    }
}

fn judge_by(rules: Option<EffectiveRules<'_>>, facts: &FlowFacts<'_>) -> Judgement {
    rules.map_or_else(Judgement::unknown_tenant, |effective| effective.rules.judge(facts))
}

impl Snapshot {
    /// Views of the policies from a client.
    pub fn views(&self, client: ClientAddr) -> PolicyViews<'_> {
        PolicyViews {
            in_force: self.tenant_of(client).map(|tenant| tenant.own_rules()),
            candidate: self.candidate.as_deref().map(|candidate| CandidateView {
                candidate,
                rules: candidate.tenant_of(client),
                share: candidate.share_of(client),
            }),
        }
    }

    /// The same, if the client still belongs to the tenant.
    pub(super) fn views_if_unchanged(&self, client: ClientAddr, tenant: &str) -> Option<PolicyViews<'_>> {
        let views = self.views(client);
        views.in_force.is_some_and(|own| *own.rules.name == *tenant).then_some(views)
    }
}

/// The views from a flow's client, held while the flow is opened: another snapshot may be in force meanwhile.
pub(super) struct FlowViews {
    /// Tenant in force.
    pub(super) tenant: Arc<TenantRuntime>,
    /// Boxed: most flows have none.
    candidate: Option<Box<HeldCandidate>>,
}

struct HeldCandidate {
    candidate: Arc<Candidate>,
    rules: Option<Arc<TenantRules>>,
    verification: Option<Arc<VerificationHandles>>,
    share: Option<u8>,
}

impl FlowViews {
    pub(super) fn hold(snapshot: &Snapshot, tenant: &Arc<TenantRuntime>, client: ClientAddr) -> Self {
        let candidate = snapshot.candidate.as_ref().map(|candidate| {
            let rules = candidate.tenant_of(client);
            Box::new(HeldCandidate {
                candidate: Arc::clone(candidate),
                rules: rules.map(|own| Arc::clone(own.rules)),
                verification: rules.and_then(|own| own.verification.cloned()),
                share: candidate.share_of(client),
            })
        });
        Self { tenant: Arc::clone(tenant), candidate }
    }

    /// True if the snapshot has the same views for certain.
    pub(super) fn are_current(&self, snapshot: &Snapshot) -> bool {
        snapshot.has(&self.tenant) && self.candidate.is_none() && snapshot.candidate.is_none()
    }

    pub(super) fn get(&self) -> PolicyViews<'_> {
        PolicyViews {
            in_force: Some(self.tenant.own_rules()),
            candidate: self.candidate.as_deref().map(|held| CandidateView {
                candidate: &held.candidate,
                rules: held.rules.as_ref().map(|rules| {
                    let verification = held.verification.as_ref();
                    EffectiveRules { rules, verification }
                }),
                share: held.share,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::candidate::{CanaryTerms, ComparisonSubject};
    use super::*;
    use crate::policy::tests::written::{WrittenFacts, policy};

    const NAMES: &str =
        "web allow a.example :443; secret deny x.example; raw allow 198.51.100.0/24 uninspected";
    const CHECKS: &str = "v allow v.example verify; c allow c.example require; r allow r.example resolve";
    const NO_CHECKS: &str = "v allow v.example; c allow c.example; r allow r.example";

    /// Change that a candidate makes for a flow; `None` as a policy: the client belongs to no tenant.
    fn change(
        in_force: Option<(&str, &str)>,
        candidate: Option<(&str, &str)>,
        percent: u8,
        facts: &str,
    ) -> &'static str {
        let client = ClientAddr::new("10.0.0.1:1".parse().unwrap());
        let compiled = |written: Option<(&str, &str)>| {
            written.map_or_else(|| policy("", "enforce"), |(rules, mode)| policy(rules, mode))
        };
        let (own, other) = (compiled(in_force), compiled(candidate));
        let candidate_rules = other.tenant_of(client).filter(|_| candidate.is_some());
        let shadow = Candidate::new(policy("", "enforce"), vec![None]);
        shadow.enforce(Some(CanaryTerms { percent, max_denials: 100.0 }));
        let views = PolicyViews {
            in_force: own
                .tenant_of(client)
                .filter(|_| in_force.is_some())
                .map(|rules| EffectiveRules { rules, verification: None }),
            candidate: Some(CandidateView {
                candidate: &shadow,
                rules: candidate_rules.map(|rules| EffectiveRules { rules, verification: None }),
                share: shadow.share_of(client),
            }),
        };
        let written = WrittenFacts::parse(facts);
        let facts = written.facts();
        let compared = ComparedFlow {
            what: ComparisonSubject::Flow,
            time: facts.now,
            client,
            destination: facts.dialled,
            hostname: None,
            is_probe: false,
        };
        views.compare(&facts, &views.judge(&facts), &compared).unwrap().as_str()
    }

    #[test]
    fn judgements_of_both_policies_are_compared() {
        let names = Some((NAMES, "enforce"));
        let other = Some(("web allow b.example", "enforce"));
        let (checks, no_checks) = (Some((CHECKS, "enforce")), Some((NO_CHECKS, "enforce")));
        // Without a canary, and with the candidate enforced for all.
        let rows = [
            (names, other, "asks a.example 192.0.2.1:443", ["would_deny"; 2]),
            (names, other, "asks b.example 192.0.2.1:443", ["would_allow"; 2]),
            (names, other, "asks c.example 192.0.2.1:443", ["same"; 2]),
            (names, names, "asks a.example 192.0.2.1:443", ["same"; 2]),
            // The enforced policy decides without inspection, which the other needs.
            (names, other, "new 198.51.100.1:7000", ["unjudged", "unjudged"]),
            (
                names,
                Some(("net allow 198.51.100.0/25", "enforce")),
                "new 198.51.100.1:7000",
                ["unjudged", "unjudged"],
            ),
            (
                names,
                Some(("net allow 192.0.2.0/24", "enforce")),
                "new 198.51.100.1:7000",
                ["would_deny", "unjudged"],
            ),
            (names, names, "new 198.51.100.1:7000", ["same"; 2]),
            // A client of one policy alone. Without a tenant in force, no candidate is enforced.
            (None, names, "new 198.51.100.1:7000", ["would_allow"; 2]),
            (None, names, "new 192.0.2.1:443", ["unjudged"; 2]),
            (None, None, "new 192.0.2.1:443", ["same"; 2]),
            (names, None, "new 198.51.100.1:7000", ["would_deny"; 2]),
            (names, None, "asks a.example 192.0.2.1:443", ["would_deny"; 2]),
            (names, None, "asks b.example 192.0.2.1:443", ["same"; 2]),
            // A check that failed counts where the other policy requires it too.
            (checks, checks, "asks v.example 192.0.2.1:443 failed destination_mismatch", ["same"; 2]),
            (
                checks,
                no_checks,
                "asks v.example 192.0.2.1:443 failed destination_mismatch",
                ["would_allow", "-"],
            ),
            (
                no_checks,
                checks,
                "asks v.example 192.0.2.1:443 failed destination_mismatch",
                ["-", "would_deny"],
            ),
            (checks, checks, "asks c.example 192.0.2.1:443 failed certificate_invalid", ["same"; 2]),
            (
                checks,
                no_checks,
                "asks c.example 192.0.2.1:443 failed certificate_invalid",
                ["would_allow", "-"],
            ),
            (
                no_checks,
                checks,
                "asks c.example 192.0.2.1:443 failed certificate_invalid",
                ["-", "would_deny"],
            ),
            // Rules refuse addresses each for themselves.
            (
                checks,
                checks,
                "asks r.example 192.0.2.1:443 failed denied_by_rule",
                ["would_allow", "would_deny"],
            ),
            // Denials that monitor mode waives are none.
            (Some((NAMES, "monitor")), names, "asks b.example 192.0.2.1:443", ["would_deny"; 2]),
            (
                Some((CHECKS, "monitor")),
                checks,
                "asks v.example 192.0.2.1:443 failed destination_mismatch",
                ["would_deny"; 2],
            ),
            // Later requests.
            (names, other, "later b.example after a.example 192.0.2.1:443", ["would_allow"; 2]),
            (checks, no_checks, "later c.example after v.example 192.0.2.1:443", ["would_allow"; 2]),
        ];
        for (in_force, candidate, facts, expected) in rows {
            for (percent, expected) in
                [0, 100].into_iter().zip(expected).filter(|(_, expected)| *expected != "-")
            {
                let found = change(in_force, candidate, percent, facts);
                assert_eq!(found, expected, "{in_force:?}, {candidate:?}, {percent} %: {facts}");
            }
        }
    }
}
