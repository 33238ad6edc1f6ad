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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{ClientAddr, OriginalDestination};
    use crate::policy::{Denial, Ech, Effect, Mode, Policy, PrivateDestinations, RuleSpec, Seen, TenantSpec};
    use jiff::Timestamp;

    /// What a rule that asks so says of a flow to its name.
    fn decision(destination: Destination, certificate: CertificateRule) -> Decision {
        let rule = RuleSpec {
            label: "asks".into(),
            effect: Effect::Allow,
            hosts: vec!["example.com".parse().unwrap()],
            cidrs: Vec::new(),
            ports: Vec::new(),
            uninspected: false,
            destination,
            first_request_only: false,
            other_protocols: false,
            certificate,
        };
        let tenant = TenantSpec {
            name: "t".into(),
            sources: vec!["10.0.0.0/8".parse().unwrap()],
            pool: "p".into(),
            mode: Mode::Enforce,
            ech: Ech::Outer,
            max_flows: None,
            ports_floor: None,
            ports_ceiling: None,
            rules: vec![rule],
        };
        let policy = Policy::compile(&[tenant], PrivateDestinations::ByCidr).unwrap();
        let client = ClientAddr::new("10.0.0.1:1".parse().unwrap());
        let name = crate::hostname::AskedName::Valid("example.com".parse().unwrap());
        let to = OriginalDestination::new("192.0.2.1:443".parse().unwrap());
        let seen = Seen::Asked { name, ech: false, unframed: false };
        policy.tenant_of(client).unwrap().judge(&seen, to, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn what_was_found_for_one_policy_holds_for_another_that_asks_the_same() {
        use CertificateRule::{Observe as Look, Require, Unasked};
        use Destination::{Observe, Original, Resolve, Verify};
        for (destination, certificate, stopped_by) in [
            (Original, Unasked, &[][..]),
            (Observe, Look, &[]),
            (
                Verify,
                Unasked,
                &[
                    Outcome::DestinationMismatch,
                    Outcome::NameUnresolved,
                    Outcome::ResolverUnavailable,
                    Outcome::InspectionBusy,
                ],
            ),
            // it goes elsewhere than the client wanted
            (
                Resolve,
                Unasked,
                &[Outcome::NameUnresolved, Outcome::ResolverUnavailable, Outcome::InspectionBusy],
            ),
            (
                Original,
                Require,
                &[Outcome::CertificateInvalid, Outcome::CertificateUnavailable, Outcome::InspectionBusy],
            ),
        ] {
            let decision = decision(destination, certificate);
            for &outcome in Outcome::ALL {
                let found = Word::beside(&decision, &Word::denied(outcome)).denied;
                assert_eq!(
                    found == Some(outcome),
                    stopped_by.contains(&outcome),
                    "{destination:?} {outcome}"
                );
                assert_eq!(found.is_some(), stopped_by.contains(&outcome));
            }
        }
        let denial = Decision::Denial(Denial { outcome: Outcome::NotAllowed, rule: None });
        let beside = Word::beside(&denial, &Word::denied(Outcome::DestinationMismatch));
        assert_eq!(beside.denied, Some(Outcome::NotAllowed), "its own rules come first");
    }
}
