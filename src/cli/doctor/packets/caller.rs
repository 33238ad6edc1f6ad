//! A probe that plays a client.

use super::answer::ProbeAnswer;
use super::evidence::{ConnectionEvidence, LostPart};
use super::exchange::{Ends, Patience, ProbeExchange};
use super::fate::is_waiting;
use super::legs::{TracedPackets, lost, watched};
use super::probe::{ProbeHost, ProbePorts, Spot};
use crate::admin::{ProbeExpected, ProbeOrder, ProbedFlow, ProbedFlowAnswer};
use crate::cli::ask::{ask_within, with_query};
use crate::cli::doctor::gateway::PATIENCE;
use crate::cli::output::json_line;
use rand::RngExt as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// Above the ports that Linux chooses by itself unless told otherwise; other systems choose them too, so a real client may
/// have a connection with one of them.
const CLIENT_PORTS: std::ops::Range<u16> = 61_008..65_008;
/// Bytes that a server does not say as a goodbye, when the probe has closed.
const LARGE: u64 = 512;
/// Attempts have a port each.
const ATTEMPTS: u16 = 16;

/// A probe that plays the client, and how often it has.
pub(super) struct Caller {
    pub(super) spot: Spot,
    probe: ProbeHost,
    base: u16,
    attempts: u16,
    /// The gateway's control socket.
    socket: Option<PathBuf>,
}

impl Caller {
    /// `socket`: the gateway's control socket, where it is told of each attempt.
    pub(super) fn new(spot: Spot, socket: Option<&Path>) -> Result<Self, String> {
        let base = rand::rng().random_range(CLIENT_PORTS) & !(ATTEMPTS - 1);
        let probe = ProbeHost::attach(&spot, ProbePorts { base, mask: !(ATTEMPTS - 1) })?;
        Ok(Self { spot, probe, base, attempts: 0, socket: socket.map(Path::to_owned) })
    }

    /// Tells the gateway of the connection that comes. Without that, its flow cannot be asked about.
    fn announce(&self, client: SocketAddr) {
        let Some(socket) = &self.socket else { return };
        let order = json_line(&ProbeOrder { client });
        let _ = ask_within::<ProbeExpected>(PATIENCE, socket, "POST", "/v1/probe", &order);
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

    /// The part of an attempt that got lost, if any. A reset that the gateway, which tells flows and their ends, knows nothing of
    /// is not the gateway's, and so a loss.
    pub(super) fn lost(&self, exchange: &ProbeExchange) -> Option<LostPart> {
        let is_foreign =
            || exchange.answer.is_reset() && self.flow(true).is_some_and(|flow| flow.outcome.is_none());
        lost(exchange)
            .or_else(|| is_foreign().then_some(LostPart::Data))
            .or_else(|| self.is_short(&exchange.answer).then_some(LostPart::Rest))
    }

    /// True if the gateway has more of an answer whose end cannot be told.
    fn is_short(&self, answer: &ProbeAnswer) -> bool {
        let came = u64::try_from(answer.bytes.len()).unwrap_or(u64::MAX);
        let is_short = |flow: ProbedFlow| flow.bytes_down.saturating_sub(came) >= LARGE;
        answer.is_open() && self.flow(false).is_some_and(is_short)
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
        self.announce(client);
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
