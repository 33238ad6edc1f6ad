//! Evidence of a connection that was tried again, and the conclusion from it.

use super::counters::Counters;
use super::trace::{TraceLine, of_addresses};
use crate::cli::mend::Mend;
use std::net::IpAddr;

/// The part of a connection that was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LostPart {
    Handshake,
    Data,
    /// A part of the answer came, the rest did not.
    Rest,
    /// An ICMP error.
    TooBig,
}

impl LostPart {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Handshake => "the handshake",
            Self::Data => "data",
            Self::Rest => "the rest of a large answer",
            Self::TooBig => "ICMP \"packet too big\"",
        }
    }
}

/// Observations while a connection was tried.
#[derive(Debug)]
pub(super) struct ConnectionEvidence {
    /// `None` without nft.
    pub(super) events: Option<Vec<TraceLine>>,
    pub(super) before: Counters,
    pub(super) after: Counters,
    /// False where the probe's host did not find the machine's link address.
    pub(super) found_gateway: bool,
}

impl ConnectionEvidence {
    /// The lines of the trace; none without nft.
    pub(super) fn lines(&self) -> &[TraceLine] {
        self.events.as_deref().unwrap_or_default()
    }

    /// Keeps the lines of packets between these addresses.
    pub(super) fn retain_between(&mut self, addresses: &[IpAddr]) {
        self.events = self.events.take().map(|events| of_addresses(&events, addresses));
    }

    /// True if one of these counters of the kernel has risen.
    pub(super) fn rose(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.after.rose(&self.before, name))
    }

    /// True if packets were traced, and none of them met a rule of Egret's.
    pub(super) fn was_not_steered(&self) -> bool {
        !self.lines().is_empty() && !self.lines().iter().any(TraceLine::is_of_steering)
    }
}

/// Why packets got lost.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LossCause {
    pub(super) found: String,
    pub(super) cure: Mend,
}
