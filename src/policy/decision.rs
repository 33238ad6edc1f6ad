//! What policy says of a flow, as values that the next step consumes.

use super::{CertificateRule, Destination};
use crate::addr::{DialAddr, OriginalDestination};
use crate::outcome::Outcome;
use std::sync::Arc;

/// May the flow leave?
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    /// Yes.
    Permit(Permit),
    /// No.
    Denial(Denial),
}

impl Decision {
    /// The label of the rule that decides, if one does.
    pub fn rule(&self) -> Option<&Arc<str>> {
        match self {
            Self::Permit(permit) => permit.rule(),
            Self::Denial(denial) => denial.rule.as_ref(),
        }
    }
}

impl Decision {
    /// Why the flow may not leave, or would not in another mode.
    pub fn denies_for(&self) -> Option<Outcome> {
        match self {
            Self::Permit(permit) => permit.would_deny,
            Self::Denial(denial) => Some(denial.outcome),
        }
    }
}

/// Leave to dial one address, once. Only this room makes one, and dialling consumes it.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a permit is there to be dialled"]
pub struct Permit {
    rule: Option<Arc<str>>,
    dial: DialAddr,
    every_request: bool,
    would_deny: Option<Outcome>,
    destination: Destination,
    certificate: CertificateRule,
    /// The rule's, in the tenant that gave it; of no rule in monitor mode.
    pub(super) rank: u32,
}

/// Why a flow may not leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// Of policy: `DeniedByRule`, `NotAllowed`, `EchDenied`, `NoHostname`, `InvalidHostname`, `UnknownProtocol` or `DestinationPrivate`. Of the
    /// inspection: why policy could not be asked. Of the verification: why the address is not taken
    /// for the name's.
    pub outcome: Outcome,
    /// The deny rule, or the allow rule that would have let it out to a public address; `None` where no rule decided.
    pub rule: Option<Arc<str>>,
}

impl Permit {
    /// The client's own choice of address is the one dialled.
    pub(super) fn new(
        rule: &Arc<str>,
        rank: u32,
        (destination, certificate): (Destination, CertificateRule),
        every_request: bool,
        to: OriginalDestination,
    ) -> Self {
        Self {
            rule: Some(rule.clone()),
            dial: DialAddr::new(to.socket()),
            every_request,
            would_deny: None,
            destination,
            certificate,
            rank,
        }
    }

    /// Whether anything is to be asked before the flow is dialled.
    pub fn asks(&self) -> bool {
        self.destination != Destination::Original || self.certificate != CertificateRule::Unasked
    }

    /// What the server has to prove.
    pub fn certificate(&self) -> CertificateRule {
        self.certificate
    }

    /// Which address the flow goes to. With `Resolve`, [`Tenant::redirect`](super::Tenant::redirect) says which of them
    /// it may; with `Verify`, not before it is known to be the name's.
    pub fn destination(&self) -> Destination {
        self.destination
    }

    /// As if there were no gateway.
    pub(super) fn in_spite_of(denial: Denial, to: OriginalDestination) -> Self {
        Self {
            rule: denial.rule,
            dial: DialAddr::new(to.socket()),
            every_request: false,
            would_deny: Some(denial.outcome),
            destination: Destination::Original,
            certificate: CertificateRule::Unasked,
            rank: u32::MAX,
        }
    }

    /// The label of the rule that lets the flow out; in monitor mode, that of the rule that would not have.
    pub fn rule(&self) -> Option<&Arc<str>> {
        self.rule.as_ref()
    }

    /// Why the flow leaves in monitor mode alone.
    pub fn would_deny(&self) -> Option<Outcome> {
        self.would_deny
    }

    /// What it is good for, to choose a source address and port by.
    pub fn dial(&self) -> DialAddr {
        self.dial
    }

    /// Whether it is for one HTTP request, and the next of the same connection is to be judged by itself.
    pub fn is_for_one_request(&self) -> bool {
        self.every_request
    }

    /// Uses it up.
    pub fn into_dial(self) -> DialAddr {
        self.dial
    }
}
