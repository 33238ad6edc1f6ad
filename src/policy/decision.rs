//! Judgements on flows, as values that the next step consumes.

use super::facts::{CheckFailure, CheckSet};
use super::{CertificateRule, DestinationRule};
use crate::addr::{DialAddr, OriginalDestination};
use crate::outcome::Outcome;
use std::sync::Arc;

/// Judgement of one policy on a flow.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a judgement is there to be carried out"]
pub enum Judgement {
    /// Unknown until the client's first bytes are inspected.
    NeedsInspection,
    /// It may leave, once these checks have succeeded.
    Permit {
        /// Permission to dial.
        permit: Permit,
        /// Required checks that have not succeeded yet.
        needs: CheckSet,
    },
    /// It may not leave.
    Deny(Denial),
}

/// Permission to dial one address, once. Only this room makes one, and dialling consumes it.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a permit is there to be dialled"]
pub struct Permit {
    rule: Option<Arc<str>>,
    dial: DialAddr,
    every_request: bool,
    would_deny: Option<Outcome>,
    destination: DestinationRule,
    certificate: CertificateRule,
    /// Rank of the rule in its tenant; `u32::MAX` if monitor mode waived a denial.
    pub(super) rank: u32,
}

/// Denial of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// From policy: `DeniedByRule`, `NotAllowed`, `EchDenied`, `NoHostname`, `InvalidHostname`, `UnknownProtocol` or
    /// `DestinationPrivate`. From inspection: the reason why there is nothing to decide on. From verification: the
    /// reason why the address does not count as the name's.
    pub outcome: Outcome,
    /// The deny rule, or the allow rule that would have let it out to a public address; `None` where no rule decided.
    pub rule: Option<Arc<str>>,
}

impl Permit {
    /// Permits the address that the client dialled.
    pub(super) fn new(
        rule: &Arc<str>,
        rank: u32,
        (destination, certificate): (DestinationRule, CertificateRule),
        every_request: bool,
        to: OriginalDestination,
    ) -> Self {
        Self {
            rule: Some(rule.clone()),
            dial: to.into(),
            every_request,
            would_deny: None,
            destination,
            certificate,
            rank,
        }
    }

    /// True if a check is needed before the flow is dialled.
    pub fn needs_checks(&self) -> bool {
        self.destination != DestinationRule::Original || self.certificate != CertificateRule::Unasked
    }

    /// Certificate check of the server.
    pub fn certificate(&self) -> CertificateRule {
        self.certificate
    }

    /// Choice of the address to dial. With `Resolve`, each resolved address is judged as the one that is reached; with
    /// `Verify`, the address has to be checked first.
    pub fn destination(&self) -> DestinationRule {
        self.destination
    }

    /// Permit for a denial that monitor mode waives, as if there were no gateway.
    pub(super) fn waived(denial: Denial, to: OriginalDestination) -> Self {
        Self {
            rule: denial.rule,
            dial: to.into(),
            every_request: false,
            would_deny: Some(denial.outcome),
            destination: DestinationRule::Original,
            certificate: CertificateRule::Unasked,
            rank: u32::MAX,
        }
    }

    /// Label of the rule that lets the flow out; in monitor mode, of the rule that denies.
    pub fn rule(&self) -> Option<&Arc<str>> {
        self.rule.as_ref()
    }

    /// Reason for the denial that monitor mode waives.
    pub fn would_deny(&self) -> Option<Outcome> {
        self.would_deny
    }

    /// Address that may be dialled, to choose a source address and port by.
    pub fn dial(&self) -> DialAddr {
        self.dial
    }

    /// True if it is for one HTTP request, and the next on the connection is judged by itself.
    pub fn is_for_one_request(&self) -> bool {
        self.every_request
    }

    /// Consumes the permit.
    pub fn into_dial(self) -> DialAddr {
        self.dial
    }

    /// Checks that its rule requires.
    pub(super) fn required_checks(&self) -> CheckSet {
        let address = match self.destination() {
            DestinationRule::Original | DestinationRule::Observe => false,
            // An address that is one of the name's is one that a new flow could be resolved to.
            DestinationRule::Verify | DestinationRule::Resolve => true,
        };
        CheckSet { address, certificate: self.certificate() == CertificateRule::Require }
    }

    /// True if the address is permitted for the flow's name alone, because of a check.
    pub fn binds_address(&self) -> bool {
        !self.required_checks().is_empty()
    }

    /// True if a check that failed is one that its rule requires.
    pub(super) fn is_stopped_by(&self, failed: CheckFailure) -> bool {
        let outcome = match failed {
            CheckFailure::Own(_) => return true,
            CheckFailure::OfOther(outcome) => outcome,
        };
        let CheckSet { address: looks_up, certificate: proves } = self.required_checks();
        // With `Resolve`, the address that the client dialled does not matter.
        let verifies = self.destination() == DestinationRule::Verify;
        let is = |outcomes: &[Outcome]| outcomes.contains(&outcome);
        verifies && is(&[Outcome::DestinationMismatch])
            || looks_up
                && is(&[Outcome::ResolverUnavailable, Outcome::NameUnresolved, Outcome::InspectionBusy])
            || proves
                && is(&[
                    Outcome::CertificateInvalid,
                    Outcome::CertificateUnavailable,
                    Outcome::InspectionBusy,
                ])
    }
}

impl Judgement {
    /// Judgement on a client that belongs to no tenant.
    pub fn unknown_tenant() -> Self {
        Self::Deny(Denial { outcome: Outcome::UnknownTenant, rule: None })
    }

    /// Label of the rule that decides, if one does.
    pub fn rule(&self) -> Option<&Arc<str>> {
        match self {
            Self::NeedsInspection => None,
            Self::Permit { permit, .. } => permit.rule(),
            Self::Deny(denial) => denial.rule.as_ref(),
        }
    }

    /// Reason for a denial, including one that monitor mode has waived.
    pub fn deny_reason(&self) -> Option<Outcome> {
        match self {
            Self::NeedsInspection => None,
            Self::Permit { permit, .. } => permit.would_deny(),
            Self::Deny(denial) => Some(denial.outcome),
        }
    }

    /// Reason for a denial that holds.
    pub fn denies(&self) -> Option<Outcome> {
        match self {
            Self::NeedsInspection | Self::Permit { .. } => None,
            Self::Deny(denial) => Some(denial.outcome),
        }
    }

    /// The permit of a rule; or the reason why there is none, whatever the mode.
    pub fn allowed(self) -> Result<Permit, Outcome> {
        match self {
            Self::NeedsInspection => Err(Outcome::NoHostname),
            Self::Permit { permit, .. } => permit.would_deny().map_or(Ok(permit), Err),
            Self::Deny(denial) => Err(denial.outcome),
        }
    }

    /// True if checks are made before the flow is dialled, or beside.
    pub fn needs_checks(&self) -> bool {
        match self {
            Self::Permit { permit, .. } => permit.needs_checks(),
            Self::NeedsInspection | Self::Deny(_) => false,
        }
    }
}
