//! Servers on the way out, on hosts of doctor's own.

use super::probe::{ProbeHost, ProbePorts, Spot};
use super::spot;
use super::stand_in::StandIn;
use std::net::IpAddr;

/// A server on the way out: that of the pools' connections, and of clients' where policy lets a probe's request pass.
pub(super) struct Outside {
    spot: Spot,
    pub(super) probe: ProbeHost,
    _server: StandIn,
}

impl Outside {
    pub(super) fn new(spot: Spot, ports: &[u16]) -> Result<Self, String> {
        // Nobody else has the address: its packets are taken whatever their port.
        let probe = ProbeHost::attach(&spot, ProbePorts { base: 0, mask: 0 })?;
        let server = StandIn::start(&probe, spot.address, ports).map_err(|error| error.to_string())?;
        Ok(Self { spot, probe, _server: server })
    }

    /// One at each destination that can be had.
    pub(super) fn all(destinations: &[IpAddr], ports: &[u16]) -> Vec<Self> {
        let spots = destinations.iter().filter_map(|destination| spot::server(*destination, None).ok());
        spots.filter_map(|spot| Self::new(spot, ports).ok()).collect()
    }

    pub(super) fn is_at(&self, spot: &Spot) -> bool {
        (self.spot.address, &self.spot.enters.name, &self.spot.mac)
            == (spot.address, &spot.enters.name, &spot.mac)
    }
}
