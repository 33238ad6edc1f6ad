//! The gateway's way to a real server that does not answer: whether this machine is to blame.

use super::caller::Caller;
use super::cure::{Cure, Leg};
use super::evidence::{ConnectionEvidence, LossCause, LostPart};
use super::exchange::Patience;
use super::legs::{TracedPackets, watched};
use super::next_hop;
use super::path;
use super::probe::Spot;
use super::spot;
use super::trace::TraceLineKind;
use crate::cli::mend::Mend;
use crate::steering::SteeringParams;
use std::net::{IpAddr, SocketAddr};

/// A connection through the gateway to a server.
pub(super) struct WayOut<'a> {
    pub(super) params: &'a SteeringParams,
    /// The address that the gateway dials.
    pub(super) server: SocketAddr,
    /// The pool's address that it leaves from.
    pub(super) source: IpAddr,
}

impl WayOut<'_> {
    /// Has the caller try again, and looks where handshakes with the server end. `None` if they leave this machine and
    /// nothing comes back.
    pub(super) fn own_fault(
        &self,
        caller: &mut Caller,
        dialled: SocketAddr,
        request: &[u8],
    ) -> Option<LossCause> {
        if let Some(cause) = self.dead_next_hop() {
            return Some(cause);
        }
        let (evidence, spot, left_from) = self.traced(caller, dialled, request)?;
        let cure = self.cure(&spot);
        if comes_back(&evidence) {
            return Some(evidence.cause(LostPart::Handshake, left_from, &spot, &cure));
        }
        evidence.by_trace(LostPart::Handshake, &cure)
    }

    /// Has the caller try again, and looks for a rule of this machine that refuses the handshake with the server: to the
    /// gateway its answer looks like the server's.
    pub(super) fn own_refusal(
        &self,
        caller: &mut Caller,
        dialled: SocketAddr,
        request: &[u8],
    ) -> Option<LossCause> {
        let (evidence, spot, _) = self.traced(caller, dialled, request)?;
        evidence.by_trace(LostPart::Handshake, &self.cure(&spot))
    }

    /// A further handshake with the server, where it leaves, and from which address.
    fn traced(
        &self,
        caller: &mut Caller,
        dialled: SocketAddr,
        request: &[u8],
    ) -> Option<(ConnectionEvidence, Spot, IpAddr)> {
        let Self { server, source, .. } = self;
        let spot = spot::server(server.ip(), Some(*source)).ok()?;
        let ports = Some((server.port(), 1));
        let (_, mut evidence) = watched(&spot, &[server.ip()], (ports, TracedPackets::Handshakes), || {
            caller.call(dialled, request, false, Patience::LONG)
        });
        // Handshakes of everybody with that server were traced; a least-used address may be another than before.
        let left_from = caller.flow(false).and_then(|flow| flow.source).map_or(*source, |source| source.ip());
        evidence.retain_between(&[server.ip(), left_from]);
        Some((evidence, spot, left_from))
    }

    fn cure<'a>(&'a self, spot: &'a Spot) -> Cure<'a> {
        let (v4, device) = (self.server.is_ipv4(), &*spot.enters.name);
        Cure { params: self.params, leg: Leg::Pool, v4, device, sources: &[] }
    }

    fn dead_next_hop(&self) -> Option<LossCause> {
        let route = path::route(self.server.ip(), Some(self.source)).ok()?;
        let hop = route.gateway.unwrap_or(self.server.ip());
        let dead =
            path::link(&route.dev).ok()?.is_ethernet() && path::link_address(hop, &route.dev).is_none();
        let how = if hop.is_ipv4() { "ARP" } else { "neighbour discovery" };
        if !dead {
            return None;
        }
        let (v4, device) = (hop.is_ipv4(), &*route.dev);
        let cure = Cure { params: self.params, leg: Leg::Pool, v4, device, sources: &[] };
        next_hop::filtered(self.server.ip(), Some(self.source), &cure).or_else(|| {
            Some(LossCause {
                found: format!("the next hop {hop} does not answer {how} on {}", route.dev),
                cure: Mend::run(format!(
                    "ip route get {} from {}; ip neigh show dev {}",
                    self.server.ip(),
                    self.source,
                    route.dev
                ))
                .and(format!(
                    "see that {hop} is up and on the network of {}, or correct the route",
                    route.dev
                )),
            })
        })
    }
}

/// True if an answer of the server's comes in.
fn comes_back(evidence: &ConnectionEvidence) -> bool {
    evidence.lines().iter().any(|line| line.kind == TraceLineKind::Packet && line.text.contains("iif "))
}
