//! What policy says of a flow, as values that the next step consumes.

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

/// Leave to dial one address, once. Only this room makes one, and dialling consumes it.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a permit is there to be dialled"]
pub struct Permit {
    rule: Arc<str>,
    dial: DialAddr,
}

/// Why a flow may not leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// `DeniedByRule`, `NotAllowed`, `NoHostname`, `InvalidHostname` or `DestinationPrivate`.
    pub outcome: Outcome,
    /// The deny rule, or the allow rule that would have let it out to a public address; `None` where no rule decided.
    pub rule: Option<Arc<str>>,
}

impl Permit {
    /// The client's own choice of address is the one dialled.
    pub(super) fn new(rule: &Arc<str>, to: OriginalDestination) -> Self {
        Self { rule: rule.clone(), dial: DialAddr::new(to.socket()) }
    }

    /// The label of the rule that lets the flow out.
    pub fn rule(&self) -> &Arc<str> {
        &self.rule
    }

    /// What it is good for, to choose a source address and port by.
    pub fn dial(&self) -> DialAddr {
        self.dial
    }

    /// Uses it up.
    pub fn into_dial(self) -> DialAddr {
        self.dial
    }
}
