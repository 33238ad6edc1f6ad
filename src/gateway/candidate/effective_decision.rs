//! Effective decision of one policy, for comparison with another's.

use crate::flow::PolicyChange;
use crate::outcome::Outcome;
use crate::policy::{CertificateRule, Decision, DestinationRule, Permit};
use std::sync::Arc;

/// Effective decision on a flow: the deciding rule, and the reason if it denies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::gateway) struct EffectiveDecision {
    pub(in crate::gateway) rule: Option<Arc<str>>,
    /// Reason for a denial; `None` if permitted.
    pub(in crate::gateway) denied: Option<Outcome>,
}

impl From<&Decision> for EffectiveDecision {
    fn from(decision: &Decision) -> Self {
        let denied = match decision {
            Decision::Permit(_) => None,
            Decision::Denial(denial) => Some(denial.outcome),
        };
        Self { rule: decision.rule().cloned(), denied }
    }
}

impl EffectiveDecision {
    pub(in crate::gateway) fn denied(outcome: Outcome) -> Self {
        Self { rule: None, denied: Some(outcome) }
    }

    /// Effective decision of a policy whose checks were not made, beside one whose checks were: a check that failed
    /// there fails here too, if this policy requires the same.
    pub(super) fn assuming_checks_of(decision: &Decision, found: &Self) -> Self {
        let word = Self::from(decision);
        match (decision, found.denied) {
            (Decision::Permit(permit), Some(outcome)) if fails_check(permit, outcome) => {
                Self { denied: Some(outcome), ..word }
            }
            (Decision::Permit(_) | Decision::Denial(_), _) => word,
        }
    }
}

/// True if the check that failed with this outcome under another rule is one that this permit requires, too.
fn fails_check(permit: &Permit, outcome: Outcome) -> bool {
    let verifies = permit.destination() == DestinationRule::Verify;
    let looks_up = verifies || permit.destination() == DestinationRule::Resolve;
    let proves = permit.certificate() == CertificateRule::Require;
    let is = |outcomes: &[Outcome]| outcomes.contains(&outcome);
    verifies && is(&[Outcome::DestinationMismatch])
        || looks_up && is(&[Outcome::ResolverUnavailable, Outcome::NameUnresolved, Outcome::InspectionBusy])
        || proves
            && is(&[Outcome::CertificateInvalid, Outcome::CertificateUnavailable, Outcome::InspectionBusy])
}

/// Change from the one decision to the other; and the reason for the denial, if only one of them denies.
pub(super) fn difference(
    running: Option<&EffectiveDecision>,
    candidate: Option<&EffectiveDecision>,
) -> (PolicyChange, Option<Outcome>) {
    let (Some(running), Some(candidate)) = (running, candidate) else {
        return (PolicyChange::Unjudged, None);
    };
    match (running.denied, candidate.denied) {
        (None, None) | (Some(_), Some(_)) => (PolicyChange::Same, None),
        (None, Some(why)) => (PolicyChange::WouldDeny, Some(why)),
        (Some(why), None) => (PolicyChange::WouldAllow, Some(why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{ClientAddr, OriginalDestination};
    use crate::policy::{
        ClientInspection, Denial, EchPolicy, Policy, PrivateDestinations, RuleEffect, RuleSpec, TenantMode,
        TenantSpec,
    };
    use jiff::Timestamp;

    /// Decision of a rule with these checks on a flow to its name.
    fn decision(destination: DestinationRule, certificate: CertificateRule) -> Decision {
        let rule = RuleSpec {
            label: "asks".into(),
            effect: RuleEffect::Allow,
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
            mode: TenantMode::Enforce,
            ech: EchPolicy::Outer,
            max_flows: None,
            ports_floor: None,
            ports_ceiling: None,
            rules: vec![rule],
        };
        let policy = Policy::compile(&[tenant], PrivateDestinations::ByCidr).unwrap();
        let client = ClientAddr::new("10.0.0.1:1".parse().unwrap());
        let name = crate::hostname::AskedName::Valid("example.com".parse().unwrap());
        let to = OriginalDestination::new("192.0.2.1:443".parse().unwrap());
        let seen = ClientInspection::Asked { name, ech: false, unframed: false };
        policy.tenant_of(client).unwrap().judge(&seen, to, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn check_results_hold_for_same_checks() {
        use CertificateRule::{Observe as Look, Require, Unasked};
        use DestinationRule::{Observe, Original, Resolve, Verify};
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
            // it does not dial the client's address
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
                let found =
                    EffectiveDecision::assuming_checks_of(&decision, &EffectiveDecision::denied(outcome))
                        .denied;
                assert_eq!(
                    found == Some(outcome),
                    stopped_by.contains(&outcome),
                    "{destination:?} {outcome}"
                );
                assert_eq!(found.is_some(), stopped_by.contains(&outcome));
            }
        }
        let denial = Decision::Denial(Denial { outcome: Outcome::NotAllowed, rule: None });
        let assuming_checks_of = EffectiveDecision::assuming_checks_of(
            &denial,
            &EffectiveDecision::denied(Outcome::DestinationMismatch),
        );
        assert_eq!(assuming_checks_of.denied, Some(Outcome::NotAllowed), "its own rules come first");
    }
}
