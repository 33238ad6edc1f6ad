//! What one policy says of a flow in the end, as far as another's word is held against it.

use super::Change;
use crate::outcome::Outcome;
use crate::policy::{CertificateRule, Decision, Destination, Permit};
use std::sync::Arc;

/// May it leave, and which rule says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::gateway) struct Word {
    pub(in crate::gateway) rule: Option<Arc<str>>,
    /// Why not.
    pub(in crate::gateway) denied: Option<Outcome>,
}

impl From<&Decision> for Word {
    fn from(decision: &Decision) -> Self {
        let denied = match decision {
            Decision::Permit(_) => None,
            Decision::Denial(denial) => Some(denial.outcome),
        };
        Self { rule: decision.rule().cloned(), denied }
    }
}

impl Word {
    pub(in crate::gateway) fn denied(outcome: Outcome) -> Self {
        Self { rule: None, denied: Some(outcome) }
    }

    /// The word of a policy for which nothing was looked up, beside one for which that was done: what was found out for
    /// that one holds for this one too, where it asks the same.
    pub(super) fn beside(decision: &Decision, found: &Self) -> Self {
        let word = Self::from(decision);
        match (decision, found.denied) {
            (Decision::Permit(permit), Some(outcome)) if is_stopped(permit, outcome) => {
                Self { denied: Some(outcome), ..word }
            }
            (Decision::Permit(_) | Decision::Denial(_), _) => word,
        }
    }
}

/// Whether a flow that another rule's check stopped so is stopped by what this permit asks, too.
fn is_stopped(permit: &Permit, outcome: Outcome) -> bool {
    let verifies = permit.destination() == Destination::Verify;
    let looks_up = verifies || permit.destination() == Destination::Resolve;
    let proves = permit.certificate() == CertificateRule::Require;
    let is = |outcomes: &[Outcome]| outcomes.contains(&outcome);
    verifies && is(&[Outcome::DestinationMismatch])
        || looks_up && is(&[Outcome::ResolverUnavailable, Outcome::NameUnresolved, Outcome::InspectionBusy])
        || proves
            && is(&[Outcome::CertificateInvalid, Outcome::CertificateUnavailable, Outcome::InspectionBusy])
}

/// What changes from the one to the other; and why the one that denies does, if the other does not.
pub(super) fn difference(running: Option<&Word>, candidate: Option<&Word>) -> (Change, Option<Outcome>) {
    let (Some(running), Some(candidate)) = (running, candidate) else { return (Change::Unjudged, None) };
    match (running.denied, candidate.denied) {
        (None, None) | (Some(_), Some(_)) => (Change::Same, None),
        (None, Some(why)) => (Change::WouldDeny, Some(why)),
        (Some(why), None) => (Change::WouldAllow, Some(why)),
    }
}
