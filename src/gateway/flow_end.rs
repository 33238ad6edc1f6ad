//! The end of a flow.

use crate::flow::RevocationReason;
use crate::outcome::Outcome;

/// Detail of a certificate check without TLS.
pub(super) const NO_TLS: &str = "the client does not speak TLS";

/// Outcome of a flow, with its detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FlowEnd {
    pub(super) outcome: Outcome,
    pub(super) detail: Option<&'static str>,
}

impl From<Outcome> for FlowEnd {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, detail: None }
    }
}

impl From<RevocationReason> for FlowEnd {
    fn from(RevocationReason(why): RevocationReason) -> Self {
        Self { outcome: Outcome::PolicyRevoked, detail: Some(why) }
    }
}
