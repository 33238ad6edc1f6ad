//! Attempts that are watched, and results in words: for both legs of a flow.

use super::counters::Counters;
use super::cure::Leg;
use super::evidence::{ConnectionEvidence, LossCause, LostPart};
use super::exchange::{ProbeExchange, TooBig};
use super::probe::Spot;
use super::request::told;
use super::trace::Trace;
use crate::cli::findings::CheckFinding;
use std::net::IpAddr;

/// Why a lost ICMP error matters.
const TOO_BIG_WHY: &str =
    "where a hop on the way takes smaller packets only, connections hang at the first large one";

/// Effect of a lost rest of an answer.
const REST_WHY: &str = "small answers pass, and large ones hang";

/// Packets that are traced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TracedPackets {
    /// All of a probe's own.
    OfProbe,
    /// Handshakes of everybody, and not all of them where there are many.
    Handshakes,
}

impl TracedPackets {
    /// An nft expression.
    fn as_str(self) -> &'static str {
        match self {
            Self::OfProbe => "",
            Self::Handshakes => " tcp flags & syn == syn limit rate 50/second",
        }
    }
}

/// An attempt, and everything that was seen meanwhile of packets from and to the probe, with all these addresses.
pub(super) fn watched(
    spot: &Spot,
    addresses: &[IpAddr],
    (port, traced): (Option<(u16, u16)>, TracedPackets),
    attempt: impl FnOnce() -> ProbeExchange,
) -> (ProbeExchange, ConnectionEvidence) {
    let address = spot.address;
    let ip = if address.is_ipv4() { "ip" } else { "ip6" };
    let ports = |side: &str| {
        port.map(|(base, count)| format!(" tcp {side} {base}-{}", base + count - 1)).unwrap_or_default()
    };
    let (from, to) = (
        format!("{ip} saddr {address}{}{}", ports("sport"), traced.as_str()),
        format!("{ip} daddr {address}{}{}", ports("dport"), traced.as_str()),
    );
    let trace = Trace::start(&from, &to, &spot.enters.name);
    let counters = || Counters::read(address.is_ipv4(), trace.is_some());
    let before = counters();
    let exchange = attempt();
    let after = counters();
    let events = trace.map(|trace| trace.finish(addresses));
    (exchange, ConnectionEvidence { events, before, after, found_gateway: true })
}

/// The part that got lost, if any.
pub(super) fn lost(exchange: &ProbeExchange) -> Option<LostPart> {
    if exchange.handshake.is_err() {
        Some(LostPart::Handshake)
    } else if exchange.answer.is_lost() || exchange.unacknowledged && exchange.answer.is_open() {
        Some(LostPart::Data)
    } else if exchange.answer.is_partial() {
        Some(LostPart::Rest)
    } else {
        (exchange.too_big == TooBig::Lost).then_some(LostPart::TooBig)
    }
}

/// A connection that went well, in words.
pub(super) fn success(exchange: &ProbeExchange) -> String {
    let answer = match &exchange.answer.end {
        Err(error) if exchange.answer.bytes.is_empty() => format!("then ended: {error}"),
        Ok(()) | Err(_) => told(&exchange.answer.bytes),
    };
    let too_big = match exchange.too_big {
        TooBig::Heeded(mtu) => format!(", path MTU {mtu} heeded"),
        TooBig::NotTried | TooBig::Lost => String::new(),
    };
    format!("handshake, {} bytes sent, {answer}{too_big}", exchange.sent)
}

/// The finding for a connection that lost something.
pub(super) fn failure(leg: Leg, lost: LostPart, who: &str, cause: LossCause) -> CheckFinding {
    let LossCause { found, cure } = cause;
    match lost {
        LostPart::Rest => CheckFinding::fail(leg.check(), format!("{who}: {found}"), REST_WHY, cure),
        LostPart::Handshake | LostPart::Data => {
            CheckFinding::fail(leg.check(), format!("{who}: {found}"), leg.why(), cure)
        }
        LostPart::TooBig => CheckFinding::warn(leg.check(), format!("{who}: {found}"), TOO_BIG_WHY, cure),
    }
}
