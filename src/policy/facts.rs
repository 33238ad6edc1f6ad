//! Facts of a flow that a policy judges it by.

use crate::addr::{DialAddr, OriginalDestination};
use crate::hostname::AskedName;
use crate::outcome::Outcome;
use jiff::Timestamp;

/// Everything that a policy decides about a flow by.
#[derive(Debug, Clone, Copy)]
pub struct FlowFacts<'a> {
    /// Address that the client dialled.
    pub dialled: OriginalDestination,
    /// Address that the flow goes to, or would go to, if its name was resolved to another.
    pub reached: Option<DialAddr>,
    /// Inspection of what the client sent.
    pub inspection: Inspection<'a>,
    /// Results of the checks of address and server.
    pub checks: CheckResults,
    /// Time of the judgement: a monitor mode may end.
    pub now: Timestamp,
}

/// Inspection of the bytes that a client sent.
#[derive(Debug, Clone, Copy)]
pub enum Inspection<'a> {
    /// Nothing: they are inspected if a rule needs that.
    Pending,
    /// Nothing, and nothing will be: another policy decided without them.
    Skipped,
    /// Result for the first bytes.
    First(&'a ClientInspection),
    /// A later HTTP request of a flow that was let out by its first.
    LaterRequest {
        /// Name that it asks for.
        name: &'a AskedName,
        /// Name that the first one asked for.
        first: &'a AskedName,
        /// True if the address was let out to for that name alone; `None`: as it would be by these rules.
        bound: Option<bool>,
    },
    /// A message of a relayed flow that cannot be let through, for this reason.
    Violation(Outcome),
}

/// Result of inspecting a client's first bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientInspection {
    /// They were understood.
    Asked {
        /// The name, if any.
        name: AskedName,
        /// True if it offered an encrypted ClientHello.
        ech: bool,
        /// True if it is an HTTP request without a clear end, so that none after it can be judged.
        unframed: bool,
    },
    /// They were not, which is denied with this outcome.
    Unclear(Outcome),
}

/// Results of the checks that policies require beyond name and address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CheckResults {
    /// Checks that succeeded.
    pub passed: CheckSet,
    /// The one that failed.
    pub failed: Option<CheckFailure>,
}

/// Checks of a flow beyond its name and address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct CheckSet {
    /// The address dialled is one of its name's.
    pub address: bool,
    /// The server there has a certificate for its name.
    pub certificate: bool,
}

/// Failure of a check, by its outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckFailure {
    /// These rules required the check.
    Own(Outcome),
    /// Another policy required it. It fails here too if these rules require the same.
    OfOther(Outcome),
}

impl<'a> FlowFacts<'a> {
    /// Facts of a flow that nothing was checked of yet.
    pub fn new(dialled: OriginalDestination, inspection: Inspection<'a>, now: Timestamp) -> Self {
        Self { dialled, reached: None, inspection, checks: CheckResults::default(), now }
    }

    /// The same facts for a policy that did not decide about the flow when they were found.
    #[must_use]
    pub fn for_shadow(self) -> Self {
        let inspection = match self.inspection {
            Inspection::Pending => Inspection::Skipped,
            known @ (Inspection::Skipped
            | Inspection::First(_)
            | Inspection::LaterRequest { .. }
            | Inspection::Violation(_)) => known,
        };
        let failed = self.checks.failed.map(|failed| match failed {
            CheckFailure::Own(outcome) | CheckFailure::OfOther(outcome) => CheckFailure::OfOther(outcome),
        });
        Self { inspection, checks: CheckResults { failed, ..self.checks }, ..self }
    }
}

impl CheckResults {
    /// Results after the one check that these rules required failed with this outcome.
    pub fn failed(outcome: Outcome) -> Self {
        Self { passed: CheckSet::default(), failed: Some(CheckFailure::Own(outcome)) }
    }
}

impl CheckSet {
    /// True if there is none.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    pub(super) fn without(self, passed: Self) -> Self {
        Self {
            address: self.address && !passed.address,
            certificate: self.certificate && !passed.certificate,
        }
    }
}

impl CheckFailure {
    pub(super) fn outcome(self) -> Outcome {
        match self {
            Self::Own(outcome) | Self::OfOther(outcome) => outcome,
        }
    }
}
