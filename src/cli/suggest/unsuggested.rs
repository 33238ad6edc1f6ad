//! Targets that are listed but not suggested.

use super::seen::{SeenTarget, TargetTally};
use crate::hostname::Hostname;
use crate::outcome::Outcome;
use jiff::Timestamp;
use serde::Serialize;
use std::net::IpAddr;

/// A target that is listed but not suggested.
#[derive(Debug, Serialize)]
pub(super) struct UnsuggestedTarget {
    /// Name; `null` if the client sent none.
    pub(super) name: Option<Hostname>,
    /// Address of the last flow.
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) flows: u64,
    pub(super) last: Timestamp,
    /// Outcome of the last flow.
    pub(super) outcome: Option<Outcome>,
}

impl UnsuggestedTarget {
    pub(super) fn new(what: SeenTarget, port: u16, tally: &TargetTally) -> Self {
        let name = if let SeenTarget::Name(name) = what { Some(name) } else { None };
        let TargetTally { flows, last, to, outcome, .. } = *tally;
        Self { name, address: to.ip(), port, flows, last, outcome }
    }
}
