//! Reasons why a guard stops a flow.

use crate::hostname::Hostname;
use crate::inspect::{Malformed, Protocol, Unclear};
use crate::outcome::Outcome;
use std::sync::Arc;

/// Reason why a permitted flow ends while it is relayed.
pub(super) struct GuardRefusal {
    pub(super) outcome: Outcome,
    pub(super) detail: Option<&'static str>,
    /// The rule that denied a later request.
    pub(super) rule: Option<Arc<str>>,
    /// The name that a later request asked for.
    pub(super) hostname: Option<Hostname>,
    /// True if monitor mode waived it: it passed, with all that followed.
    pub(super) waived: bool,
}

impl GuardRefusal {
    pub(super) fn bare(outcome: Outcome, detail: Option<&'static str>) -> Self {
        Self { outcome, detail, rule: None, hostname: None, waived: false }
    }
}

impl From<Unclear> for GuardRefusal {
    fn from(unclear: Unclear) -> Self {
        let (outcome, detail) = outcome_of(unclear);
        Self::bare(outcome, detail)
    }
}

/// Outcome and detail of a flow whose inspection failed.
pub(in crate::gateway) fn outcome_of(unclear: Unclear) -> (Outcome, Option<&'static str>) {
    match unclear {
        Unclear::ClientLeft => (Outcome::ClientLeft, None),
        Unclear::TimedOut(_) => (Outcome::InspectTimeout, None),
        Unclear::TooLarge(_) => (Outcome::HelloTooLarge, None),
        Unclear::Malformed(Malformed { protocol: Protocol::Http, reason }) => {
            (Outcome::MalformedHttp, Some(reason))
        }
        Unclear::Malformed(Malformed { protocol: Protocol::Tls | Protocol::Other, reason }) => {
            (Outcome::MalformedTls, Some(reason))
        }
    }
}
