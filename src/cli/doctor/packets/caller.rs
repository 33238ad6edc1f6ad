//! A probe that plays a client.

use super::evidence::{ConnectionEvidence, LostPart};
use super::exchange::{Ends, Patience, ProbeExchange};
use super::fate::is_waiting;
use super::legs::{TracedPackets, watched};
use super::probe::{ProbeHost, ProbePorts, Spot};
use crate::admin::{ProbeExpected, ProbeOrder, ProbedFlow, ProbedFlowAnswer};
use crate::cli::ask::{ask_within, with_query};
use crate::cli::doctor::gateway::PATIENCE;
use crate::cli::output::json_line;
use crate::flow::PROBE_PORTS;
use rand::RngExt as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// Above the ports that Linux chooses by itself, so that no real client has a connection with them.
const CLIENT_PORTS: std::ops::Range<u16> = 61_008..65_008;
/// Attempts have a port each.
const ATTEMPTS: u16 = PROBE_PORTS;

/// A probe that plays the client, and how often it has.
pub(super) struct Caller {
    pub(super) spot: Spot,
    probe: ProbeHost,
    base: u16,
    attempts: u16,
    /// The control socket of the gateway that was told of the probe.
    socket: Option<PathBuf>,
}

impl Caller {
    /// Tells the gateway of the probe, if it has a control socket.
    pub(super) fn new(spot: Spot, socket: Option<&Path>) -> Result<Self, String> {
        let base = rand::rng().random_range(CLIENT_PORTS) & !(ATTEMPTS - 1);
        let probe = ProbeHost::attach(&spot, ProbePorts { base, mask: !(ATTEMPTS - 1) })?;
        let order = json_line(&ProbeOrder { client: spot.address, first_port: base });
        let expects = |socket: &&Path| {
            ask_within::<ProbeExpected>(PATIENCE, socket, "POST", "/v1/probe", &order).is_ok()
        };
        let socket = socket.filter(expects).map(Path::to_owned);
        Ok(Self { spot, probe, base, attempts: 0, socket })
    }

    /// The flow of the last attempt as the gateway has it, a moment later if its end may be near. `has_ended`: the gateway has
    /// ended the connection. `None` if it has no such flow, or cannot be asked.
    pub(super) fn flow(&self, has_ended: bool) -> Option<ProbedFlow> {
        const LOOKS: u32 = 10;
        let port = self.base + self.attempts.checked_sub(1)? % ATTEMPTS;
        let client = SocketAddr::new(self.spot.address, port).to_string();
        let target = with_query("/v1/probe", [("client", &*client)].into_iter());
        let socket = self.socket.as_ref()?;
        let mut seen = None;
        for _ in 0..LOOKS {
            let answer = ask_within::<ProbedFlowAnswer>(PATIENCE, socket, "GET", &target, "").ok()?;
            let flow = answer.flow?;
            let is_known = flow.outcome.is_some() || flow.bytes_down > 0 || is_waiting(&flow) && !has_ended;
            seen = Some(flow);
            if is_known {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
        seen
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
        let (exchange, mut evidence) =
            watched(&spot, &[spot.address], (port, TracedPackets::OfProbe), || {
                self.call(server, request, lost == LostPart::TooBig, Patience::LONG)
            });
        evidence.found_gateway = self.probe.found_gateway(&spot);
        (exchange, evidence)
    }
}
