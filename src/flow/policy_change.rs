//! Change that a candidate policy would make.

use serde::Serialize;

/// Change that a candidate would make for a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyChange {
    /// None: both let it out, or both deny it.
    Same,
    /// It is let out, and the candidate would deny it.
    WouldDeny,
    /// It is denied, and the candidate would let it out.
    WouldAllow,
    /// Unknown: one policy decides without inspection, which the other needs.
    Unjudged,
}

impl PolicyChange {
    /// All variants; `change as usize` is the index here.
    pub const ALL: [Self; 4] = [Self::Same, Self::WouldDeny, Self::WouldAllow, Self::Unjudged];

    /// Identifier in the flow log and the metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::WouldDeny => "would_deny",
            Self::WouldAllow => "would_allow",
            Self::Unjudged => "unjudged",
        }
    }
}
