//! A probe that plays a client.

use super::evidence::{ConnectionEvidence, LostPart};
use super::exchange::{Ends, Patience, ProbeExchange};
use super::legs::watched;
use super::probe::{ProbeHost, ProbePorts, Spot};
use rand::RngExt as _;
use std::net::SocketAddr;

/// Above the ports that Linux chooses by itself, so that no real client has a connection with them.
const CLIENT_PORTS: std::ops::Range<u16> = 61_008..65_008;
/// Attempts have a port each.
const ATTEMPTS: u16 = 16;

/// A probe that plays the client, and how often it has.
pub(super) struct Caller {
    pub(super) spot: Spot,
    probe: ProbeHost,
    base: u16,
    attempts: u16,
}

impl Caller {
    pub(super) fn new(spot: Spot) -> Result<Self, String> {
        let base = rand::rng().random_range(CLIENT_PORTS) & !(ATTEMPTS - 1);
        let probe = ProbeHost::attach(&spot, ProbePorts { base, mask: !(ATTEMPTS - 1) })?;
        Ok(Self { spot, probe, base, attempts: 0 })
    }

    /// An attempt; `tell_too_big`: with an ICMP error about it.
    pub(super) fn call(
        &mut self,
        server: SocketAddr,
        request: &[u8],
        tell_too_big: bool,
        patience: Patience,
    ) -> ProbeExchange {
        let client = SocketAddr::new(self.spot.address, self.base + self.attempts % ATTEMPTS);
        self.attempts += 1;
        // What the machine believes of a real client's path would slow the client down.
        let tell_too_big = tell_too_big && (self.spot.mac.is_none() || !self.spot.shared);
        ProbeExchange::from_client(&self.probe, Ends { client, server }, request, tell_too_big, patience)
    }

    /// Calls again as when a part was lost, and looks where it gets lost.
    pub(super) fn watch(
        &mut self,
        server: SocketAddr,
        request: &[u8],
        lost: LostPart,
    ) -> (ProbeExchange, ConnectionEvidence) {
        let spot = self.spot.clone();
        let port = spot.shared.then_some((self.base, ATTEMPTS));
        let (exchange, mut evidence) = watched(&spot, &[spot.address], port, || {
            self.call(server, request, lost == LostPart::TooBig, Patience::LONG)
        });
        evidence.found_gateway = self.probe.found_gateway(&spot);
        (exchange, evidence)
    }
}
