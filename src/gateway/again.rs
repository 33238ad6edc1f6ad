//! Re-evaluates live flows under another policy than the one that let them out.

use super::candidate::{Candidate, Ruling};
use super::certification::NO_TLS;
use super::flow_table::{LiveFlow, Proof, Revoked};
use super::snapshot::Snapshot;
use super::worker::Gateway;
use crate::addr::OriginalDestination;
use crate::outcome::Outcome;
use crate::policy::{self, CertificateRule, Decision, Denial, Destination, Permit, Seen};
use jiff::Timestamp;
use std::cell::Cell;

/// Detail for a flow that was not inspected, and that no rule allows without.
const UNHEARD: &str = "no rule lets it out without listening to its client";

/// Detail for a flow whose further requests are not judged, although names matter.
const UNFOLLOWED: &str = "it may ask for what nobody would judge";

/// Result of re-evaluating a live flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It continues.
    Stays,
    /// It is reset.
    Goes(Revoked),
    /// It continues if these checks succeed, which were not made before.
    Unproved(Proof),
}

/// Result of re-evaluating all live flows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Judged {
    /// Flows that were reset.
    pub revoked: u64,
    /// Flows that continue if their address, or their server's certificate, is found to be their name's.
    pub unproved: u64,
}

impl Gateway {
    /// Re-evaluates all live flows under the snapshot in force, if it revokes, and resets those that it does not allow.
    ///
    /// A flow that was judged by an earlier snapshot, and is listed too late to be seen here, re-evaluates itself.
    pub fn judge_again(&self, now: Timestamp) -> Judged {
        self.judge(now, |_| true)
    }

    /// The same for those flows only that a candidate let out, or that are not judged any more in monitor mode: the
    /// canary was rolled back, or its share reduced.
    pub fn judge_canaries_again(&self, now: Timestamp) -> Judged {
        self.judge(now, |flow| flow.canary || flow.unfollowed)
    }

    /// Counts the live flows that would be reset, or need a check, if the candidate's rules came into force now.
    pub fn would_judge(&self, candidate: &Candidate, now: Timestamp) -> Judged {
        let mut judged = Judged::default();
        self.table.each(|flow| {
            let ruling = candidate.tenant_of(flow.client).filter(|ruling| *ruling.rules.name == *flow.tenant);
            match fate(ruling, flow, now) {
                Fate::Goes(_) => judged.revoked += 1,
                Fate::Unproved(_) => judged.unproved += 1,
                Fate::Stays => {}
            }
        });
        judged
    }

    fn judge(&self, now: Timestamp, concerns: impl Fn(&LiveFlow) -> bool) -> Judged {
        let snapshot = self.snapshot.load_full();
        if !snapshot.revokes {
            return Judged::default();
        }
        let unproved = Cell::new(0);
        let revoked = self.table.revoke(|flow| match concerns(flow).then(|| snapshot.fate(flow, now)) {
            Some(Fate::Goes(why)) => Some(why),
            Some(Fate::Unproved(_)) => {
                unproved.set(unproved.get() + 1);
                None
            }
            Some(Fate::Stays) | None => None,
        });
        Judged { revoked, unproved: unproved.get() }
    }
}

impl Snapshot {
    /// Re-evaluates a flow that another policy let out. It continues if this one does not revoke, or if it would belong
    /// to the same tenant and be allowed to go where it went. A flow that was not inspected, or not understood, has no
    /// name, and needs a rule that requires none.
    pub(super) fn fate(&self, flow: &LiveFlow, now: Timestamp) -> Fate {
        if !self.revokes {
            return Fate::Stays;
        }
        fate(self.ruling_of(flow), flow, now)
    }
}

/// Re-evaluates a live flow by the rules for its client; `None`: the client belongs to another tenant.
fn fate(ruling: Option<Ruling<'_>>, flow: &LiveFlow, now: Timestamp) -> Fate {
    let Some(ruling) = ruling else { return Fate::Goes(Revoked::OF_ANOTHER_TENANT) };
    let permit = match permit(ruling.rules, flow, now) {
        Ok(permit) => permit,
        Err(_) if flow.seen.is_none() => return Fate::Goes(Revoked(UNHEARD)),
        Err(outcome) => return Fate::Goes(Revoked(outcome.as_str())),
    };
    if ruling.rules.mode.monitors(now) {
        return Fate::Stays;
    }
    if flow.unfollowed && (flow.tls || permit.is_for_one_request()) {
        return Fate::Goes(Revoked(UNFOLLOWED));
    }
    let certificate = permit.certificate() == CertificateRule::Require;
    let address = match permit.destination() {
        Destination::Original | Destination::Observe => false,
        // If it is one of the name's, a new flow could be resolved to it.
        Destination::Verify | Destination::Resolve => true,
    };
    let missing = Proof {
        address: address && !flow.proof.address,
        certificate: certificate && !flow.proof.certificate,
    };
    if missing == Proof::default() {
        return Fate::Stays;
    }
    if missing.certificate && !flow.tls { Fate::Goes(Revoked(NO_TLS)) } else { Fate::Unproved(missing) }
}

/// Permit for the address that the flow went to, if the rules also permit the address that its client dialled; or the
/// outcome of a new flow.
fn permit(rules: &policy::Tenant, flow: &LiveFlow, now: Timestamp) -> Result<Permit, Outcome> {
    let unknown = Seen::Unclear(Outcome::NoHostname);
    let seen = flow.seen.as_ref().unwrap_or(&unknown);
    let judge =
        |to| granted(rules.decide_unseen(to).map_or_else(|| rules.judge(seen, to, now), Decision::Permit));
    let went_to = OriginalDestination::new(flow.destination.socket());
    let Some(asked) = flow.asked.as_deref() else { return judge(went_to) };
    let permit = judge(*asked)?;
    let (Destination::Resolve, Seen::Asked { name, .. }) = (permit.destination(), seen) else {
        return judge(went_to);
    };
    rules
        .redirect(&permit, name, went_to.ip())
        .or_else(|outcome| granted(rules.in_mode(Denial { outcome, rule: None }, went_to, now)))
}

fn granted(decision: Decision) -> Result<Permit, Outcome> {
    match decision {
        Decision::Permit(permit) => Ok(permit),
        Decision::Denial(denial) => Err(denial.outcome),
    }
}
