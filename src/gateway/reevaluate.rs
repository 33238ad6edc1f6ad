//! Re-evaluates live flows under another policy than the one that let them out.

use super::candidate::Candidate;
use super::effective_rules::EffectiveRules;
use super::flow_end::NO_TLS;
use super::snapshot::Snapshot;
use super::worker::GatewayState;
use crate::flow::{LiveFlow, RevocationReason};
use crate::outcome::Outcome;
use crate::policy::{CheckResults, CheckSet, ClientInspection, FlowFacts, Inspection, Judgement};
use jiff::Timestamp;
use std::cell::Cell;

/// Detail for a flow that was not inspected, and that no rule allows without.
const NOT_INSPECTED: &str = "no rule lets it out without listening to its client";

/// Detail for a flow whose further requests are not judged, although names matter.
const NOT_FOLLOWED: &str = "it may ask for what nobody would judge";

/// Result of re-evaluating a live flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reevaluation {
    /// It continues.
    Keep,
    /// It is reset.
    Reset(RevocationReason),
    /// It continues if these checks succeed, which were not made before.
    NeedsCheck(CheckSet),
}

/// Result of re-evaluating all live flows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReevaluationCounts {
    /// Flows that were reset.
    pub revoked: u64,
    /// Flows that continue if their address, or their server's certificate, is found to be their name's.
    pub unproved: u64,
}

impl GatewayState {
    /// Re-evaluates all live flows under the snapshot in force, if it revokes, and resets those that it does not allow.
    ///
    /// A flow that was judged by an earlier snapshot, and is listed too late to be seen here, re-evaluates itself.
    pub fn reevaluate(&self, now: Timestamp) -> ReevaluationCounts {
        self.reevaluate_where(now, |_| true)
    }

    /// The same for those flows only that a candidate let out, or that are not judged any more in monitor mode: the
    /// canary was rolled back, or its share reduced.
    pub fn reevaluate_canaries(&self, now: Timestamp) -> ReevaluationCounts {
        self.reevaluate_where(now, |flow| flow.canary || flow.unfollowed)
    }

    /// Counts the live flows that would be reset, or need a check, if the candidate's rules came into force now.
    pub fn preview_reevaluation(&self, candidate: &Candidate, now: Timestamp) -> ReevaluationCounts {
        let mut judged = ReevaluationCounts::default();
        self.table.each(|flow| {
            let effective =
                candidate.tenant_of(flow.client).filter(|effective| *effective.rules.name == *flow.tenant);
            match reevaluate(effective, flow, now) {
                Reevaluation::Reset(_) => judged.revoked += 1,
                Reevaluation::NeedsCheck(_) => judged.unproved += 1,
                Reevaluation::Keep => {}
            }
        });
        judged
    }

    fn reevaluate_where(&self, now: Timestamp, concerns: impl Fn(&LiveFlow) -> bool) -> ReevaluationCounts {
        let snapshot = self.snapshot.load_full();
        if !snapshot.revokes {
            return ReevaluationCounts::default();
        }
        let unproved = Cell::new(0);
        let revoked =
            self.table.revoke(|flow| match concerns(flow).then(|| snapshot.reevaluate(flow, now)) {
                Some(Reevaluation::Reset(why)) => Some(why),
                Some(Reevaluation::NeedsCheck(_)) => {
                    unproved.set(unproved.get() + 1);
                    None
                }
                Some(Reevaluation::Keep) | None => None,
            });
        ReevaluationCounts { revoked, unproved: unproved.get() }
    }
}

impl Snapshot {
    /// Re-evaluates a flow that another policy let out. It continues if this one does not revoke, or if it would belong
    /// to the same tenant and be allowed to go where it went. A flow that was not inspected, or not understood, has no
    /// name, and needs a rule that requires none.
    pub(super) fn reevaluate(&self, flow: &LiveFlow, now: Timestamp) -> Reevaluation {
        if !self.revokes {
            return Reevaluation::Keep;
        }
        reevaluate(self.rules_of(flow), flow, now)
    }

    /// Rules that a live flow is judged by: those of the policy in force, or the candidate's if it let the flow out and
    /// is still enforced for the client.
    pub(super) fn rules_of(&self, flow: &LiveFlow) -> Option<EffectiveRules<'_>> {
        let views = self.views_if_unchanged(flow.client, &flow.tenant)?;
        if flow.canary { views.enforced() } else { views.in_force }
    }
}

/// Re-evaluates a live flow by the rules for its client; `None`: the client belongs to another tenant.
fn reevaluate(effective: Option<EffectiveRules<'_>>, flow: &LiveFlow, now: Timestamp) -> Reevaluation {
    let Some(EffectiveRules { rules, .. }) = effective else {
        return Reevaluation::Reset(RevocationReason::OF_ANOTHER_TENANT);
    };
    let past = PastInspection {
        inspected: flow.seen.is_some(),
        unfollowed: flow.unfollowed,
        tls: flow.tls,
        monitors: rules.mode.monitors(now),
    };
    past.reevaluation(rules.judge(&facts(flow, now)))
}

/// Inspection of a flow that was let out without: it cannot be made any more, and there is no name.
const UNINSPECTED: ClientInspection = ClientInspection::Unclear(Outcome::NoHostname);

/// Facts of a live flow.
fn facts(flow: &LiveFlow, now: Timestamp) -> FlowFacts<'_> {
    let seen = flow.seen.as_ref().unwrap_or(&UNINSPECTED);
    let checks = CheckResults { passed: flow.proof, failed: None };
    let reached = (flow.asked.socket() != flow.destination.socket()).then_some(flow.destination);
    FlowFacts { dialled: flow.asked, reached, inspection: Inspection::First(seen), checks, now }
}

/// Traits of a live flow that no check can make up for.
#[derive(Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "four independent facts, each read once")]
struct PastInspection {
    inspected: bool,
    /// True if its further requests or hellos are not judged.
    unfollowed: bool,
    tls: bool,
    /// True if the tenant is in monitor mode now, which needs none of it.
    monitors: bool,
}

impl PastInspection {
    /// Consequence of a judgement for a live flow.
    fn reevaluation(self, judgement: Judgement) -> Reevaluation {
        let reset = |why| Reevaluation::Reset(RevocationReason(why));
        match judgement {
            Judgement::NeedsInspection => reset(NOT_INSPECTED),
            Judgement::Deny(_) if !self.inspected => reset(NOT_INSPECTED),
            Judgement::Deny(denial) => reset(denial.outcome.as_str()),
            Judgement::Permit { .. } if self.monitors => Reevaluation::Keep,
            Judgement::Permit { permit, needs } => {
                if self.unfollowed && (self.tls || permit.is_for_one_request()) {
                    reset(NOT_FOLLOWED)
                } else if needs.certificate && !self.tls {
                    reset(NO_TLS)
                } else if needs.is_empty() {
                    Reevaluation::Keep
                } else {
                    Reevaluation::NeedsCheck(needs)
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::tests::written::judge;

    const NAMES: &str = "web allow a.example; v allow v.example verify; c allow c.example require; \
                         one allow one.example first-request; bad deny b.example";
    const CIDRS: &str = "net allow 192.0.2.0/24";

    /// `keep`, `check address`, `check certificate`, or the reason for a reset.
    fn reevaluation(rules: &str, mode: &str, facts: &str, traits: &str) -> String {
        let has = |word| traits.split(' ').any(|has| has == word);
        let past = PastInspection {
            inspected: !has("uninspected"),
            unfollowed: has("unfollowed"),
            tls: has("tls"),
            monitors: mode == "monitor",
        };
        match past.reevaluation(judge(rules, mode, facts)) {
            Reevaluation::Keep => "keep".to_owned(),
            Reevaluation::Reset(RevocationReason(why)) => why.to_owned(),
            Reevaluation::NeedsCheck(CheckSet { address, certificate }) => {
                format!(
                    "check{}{}",
                    if address { " address" } else { "" },
                    if certificate { " certificate" } else { "" }
                )
            }
        }
    }

    #[test]
    fn live_flows_are_reevaluated() {
        let rows = [
            (NAMES, "enforce", "asks a.example 192.0.2.1:443", "tls", "keep"),
            (NAMES, "enforce", "asks b.example 192.0.2.1:443", "tls", "denied_by_rule"),
            (NAMES, "enforce", "asks other.example 192.0.2.1:443", "tls", "not_allowed"),
            (NAMES, "monitor", "asks b.example 192.0.2.1:443", "tls", "keep"),
            (NAMES, "monitor", "asks b.example 169.254.169.254:443", "tls", "denied_by_rule"),
            (NAMES, "monitored", "asks other.example 192.0.2.1:443", "tls", "not_allowed"),
            // Flows that were not inspected, or not understood.
            (CIDRS, "enforce", "unclear no_hostname 192.0.2.1:7000", "uninspected", NOT_INSPECTED),
            (NAMES, "enforce", "unclear no_hostname 192.0.2.1:7000", "uninspected", NOT_INSPECTED),
            (
                "raw allow 192.0.2.0/24 uninspected",
                "enforce",
                "unclear no_hostname 192.0.2.1:7000",
                "uninspected",
                "keep",
            ),
            (
                "raw allow 192.0.2.0/24 uninspected; no deny :7000",
                "enforce",
                "unclear no_hostname 192.0.2.1:7000",
                "uninspected",
                NOT_INSPECTED,
            ),
            (CIDRS, "monitor", "unclear no_hostname 192.0.2.1:7000", "uninspected", "keep"),
            (CIDRS, "enforce", "unclear inspect_timeout 192.0.2.1:7000", "", "inspect_timeout"),
            // Flows whose further requests or hellos nobody judges.
            (NAMES, "enforce", "asks a.example 192.0.2.1:80", "unfollowed", NOT_FOLLOWED),
            (NAMES, "enforce", "asks a.example 192.0.2.1:443", "unfollowed tls", NOT_FOLLOWED),
            (NAMES, "enforce", "asks one.example 192.0.2.1:80", "unfollowed", "keep"),
            (NAMES, "monitor", "asks a.example 192.0.2.1:80", "unfollowed", "keep"),
            (CIDRS, "enforce", "asks a.example 192.0.2.1:80", "unfollowed", "keep"),
            (
                "net allow 192.0.2.0/24; bad deny b.example",
                "enforce",
                "asks a.example 192.0.2.1:80",
                "unfollowed",
                NOT_FOLLOWED,
            ),
            // Checks that were not made before.
            (NAMES, "enforce", "asks v.example 192.0.2.1:443", "tls", "check address"),
            (NAMES, "enforce", "asks v.example 192.0.2.1:443 passed address", "tls", "keep"),
            (NAMES, "enforce", "asks c.example 192.0.2.1:443", "tls", "check certificate"),
            (NAMES, "enforce", "asks c.example 192.0.2.1:443 passed certificate", "tls", "keep"),
            (NAMES, "enforce", "asks c.example 192.0.2.1:80", "", NO_TLS),
            (NAMES, "monitor", "asks v.example 192.0.2.1:443", "tls", "keep"),
            (NAMES, "monitor", "asks c.example 192.0.2.1:80", "", "keep"),
        ];
        for (rules, mode, facts, traits, expected) in rows {
            assert_eq!(reevaluation(rules, mode, facts, traits), expected, "{mode}: {facts}, {traits}");
        }
    }
}
