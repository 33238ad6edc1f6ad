//! The end of a flow that was not relayed.

use crate::flow::RevocationReason;
use crate::outcome::Outcome;

/// Detail of a certificate check without TLS.
pub(super) const NO_TLS: &str = "the client does not speak TLS";

/// Outcome of a flow that ended before it was relayed.
pub(super) struct EarlyEnd {
    pub(super) outcome: Outcome,
    pub(super) detail: Option<&'static str>,
}

impl From<Outcome> for EarlyEnd {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, detail: None }
    }
}

impl From<RevocationReason> for EarlyEnd {
    fn from(RevocationReason(why): RevocationReason) -> Self {
        Self { outcome: Outcome::PolicyRevoked, detail: Some(why) }
    }
}
