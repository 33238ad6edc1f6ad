//! Re-evaluates live flows under another policy than the one that let them out.

use super::candidate::{Candidate, EffectiveRules};
use super::certification::NO_TLS;
use super::snapshot::Snapshot;
use super::worker::GatewayState;
use crate::addr::OriginalDestination;
use crate::flow::{CheckSet, LiveFlow, RevocationReason};
use crate::outcome::Outcome;
use crate::policy::{self, CertificateRule, ClientInspection, Decision, Denial, DestinationRule, Permit};
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
            let ruling = candidate.tenant_of(flow.client).filter(|ruling| *ruling.rules.name == *flow.tenant);
            match reevaluate(ruling, flow, now) {
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
        reevaluate(self.effective_rules(flow), flow, now)
    }
}

/// Re-evaluates a live flow by the rules for its client; `None`: the client belongs to another tenant.
fn reevaluate(ruling: Option<EffectiveRules<'_>>, flow: &LiveFlow, now: Timestamp) -> Reevaluation {
    let Some(ruling) = ruling else { return Reevaluation::Reset(RevocationReason::OF_ANOTHER_TENANT) };
    let permit = match current_permit(ruling.rules, flow, now) {
        Ok(permit) => permit,
        Err(_) if flow.seen.is_none() => return Reevaluation::Reset(RevocationReason(NOT_INSPECTED)),
        Err(outcome) => return Reevaluation::Reset(RevocationReason(outcome.as_str())),
    };
    if ruling.rules.mode.monitors(now) {
        return Reevaluation::Keep;
    }
    if flow.unfollowed && (flow.tls || permit.is_for_one_request()) {
        return Reevaluation::Reset(RevocationReason(NOT_FOLLOWED));
    }
    let certificate = permit.certificate() == CertificateRule::Require;
    let address = match permit.destination() {
        DestinationRule::Original | DestinationRule::Observe => false,
        // If it is one of the name's, a new flow could be resolved to it.
        DestinationRule::Verify | DestinationRule::Resolve => true,
    };
    let missing = CheckSet {
        address: address && !flow.proof.address,
        certificate: certificate && !flow.proof.certificate,
    };
    if missing == CheckSet::default() {
        return Reevaluation::Keep;
    }
    if missing.certificate && !flow.tls {
        Reevaluation::Reset(RevocationReason(NO_TLS))
    } else {
        Reevaluation::NeedsCheck(missing)
    }
}

/// Permit for the address that the flow went to, if the rules also permit the address that its client dialled; or the
/// outcome of a new flow.
fn current_permit(rules: &policy::TenantRules, flow: &LiveFlow, now: Timestamp) -> Result<Permit, Outcome> {
    let unknown = ClientInspection::Unclear(Outcome::NoHostname);
    let seen = flow.seen.as_ref().unwrap_or(&unknown);
    let judge = |to| {
        permit_or_outcome(
            rules.decide_unseen(to).map_or_else(|| rules.judge(seen, to, now), Decision::Permit),
        )
    };
    let went_to = OriginalDestination::new(flow.destination.socket());
    let Some(asked) = flow.asked else { return judge(went_to) };
    let permit = judge(asked)?;
    let (DestinationRule::Resolve, ClientInspection::Asked { name, .. }) = (permit.destination(), seen)
    else {
        return judge(went_to);
    };
    rules
        .redirect(&permit, name, went_to.ip())
        .or_else(|outcome| permit_or_outcome(rules.apply_mode(Denial { outcome, rule: None }, went_to, now)))
}

fn permit_or_outcome(decision: Decision) -> Result<Permit, Outcome> {
    match decision {
        Decision::Permit(permit) => Ok(permit),
        Decision::Denial(denial) => Err(denial.outcome),
    }
}
