//! One flow of one client's, from its handshake to its end.

use super::caller::Caller;
use super::cure::{Cure, Leg};
use super::evidence::LostPart;
use super::exchange::{Patience, ProbeExchange, TooBig};
use super::fate::{beyond_gateway, denied, is_refused, is_waiting, own_fault, silent_beyond_gateway};
use super::legs::failure;
use super::request::told;
use super::unserved;
use super::verdict::{explained, verdict};
use super::way_out::WayOut;
use crate::admin::{ClientTarget, ProbedFlow};
use crate::cli::findings::CheckFinding;
use crate::cli::mend::Mend;
use crate::steering::SteeringParams;
use ipnet::IpNet;
use std::net::SocketAddr;
use std::path::Path;

/// A flow that is asked for, and the probe that makes it.
pub(super) struct AskedFlow<'a> {
    pub(super) params: &'a SteeringParams,
    /// The gateway's control socket.
    pub(super) socket: Option<&'a Path>,
    /// Networks of the client's tenant.
    pub(super) sources: &'a [IpNet],
    pub(super) caller: Caller,
    pub(super) target: ClientTarget,
    pub(super) server: SocketAddr,
    pub(super) request: Vec<u8>,
}

impl<'a> AskedFlow<'a> {
    /// Makes the connection, a second time if something was lost that the gateway does not account for.
    pub(super) fn stations(&mut self) -> Vec<CheckFinding> {
        let exchange = self.caller.call(self.server, &self.request, true, Patience::LONG);
        let Some(first) = self.caller.lost(&exchange) else { return self.whole(&exchange) };
        if let Some(found) = self.lost_beyond(&exchange) {
            return found;
        }
        let (exchange, evidence) = self.caller.watch(self.server, &self.request, first);
        let Some(lost) = self.caller.lost(&exchange) else {
            let mut found = self.whole(&exchange);
            let said = format!("{} at the first, passed at the second", lost_name(first));
            found.push(CheckFinding::ok("attempts", said));
            return found;
        };
        if let Some(found) = self.lost_beyond(&exchange) {
            return found;
        }
        let mut found = match lost {
            LostPart::TooBig => self.whole(&exchange),
            LostPart::Handshake | LostPart::Data | LostPart::Rest => passed(&exchange),
        };
        let spot = &self.caller.spot;
        let cure = Cure {
            params: self.params,
            leg: Leg::Client,
            v4: self.server.is_ipv4(),
            device: &spot.enters.name,
            sources: self.sources,
        };
        let who = format!("{} to {}", spot.address, self.server);
        found.push(failure(Leg::Client, lost, &who, evidence.cause(lost, self.server.ip(), spot, &cure)));
        found
    }

    /// Findings of an answer that did not come, where the gateway waits for it too or knows why.
    fn lost_beyond(&mut self, exchange: &ProbeExchange) -> Option<Vec<CheckFinding>> {
        let flow = self.caller.flow(false)?;
        let failed = silent_beyond_gateway(&flow)?;
        let mut found = passed(exchange);
        found.push(CheckFinding::ok(
            "request",
            format!("{} bytes sent, and taken by the gateway: flow {}", exchange.sent, flow.flow),
        ));
        found.extend(self.verdict(None));
        let cause = ways(&flow)
            .and_then(|ends| self.way_out(ends).own_fault(&mut self.caller, self.server, &self.request));
        found.push(cause.map_or(failed, |cause| own_fault(&flow, cause)));
        Some(found)
    }

    /// Findings of a connection that lost nothing, or an ICMP error alone.
    fn whole(&mut self, exchange: &ProbeExchange) -> Vec<CheckFinding> {
        let mut found = passed(exchange);
        found.push(CheckFinding::ok("request", format!("{} bytes sent", exchange.sent)));
        let flow = self.caller.flow(true);
        let answer = &exchange.answer;
        let failed = flow.as_ref().filter(|_| answer.bytes.is_empty()).and_then(beyond_gateway);
        match &answer.end {
            _ if failed.is_some() => {}
            Ok(()) if answer.bytes.is_empty() => {
                found.push(no_answer("closed without an answer", flow.as_ref()));
            }
            Err(error) if answer.bytes.is_empty() => {
                let said = format!("the gateway ended the connection: {error}");
                found.push(no_answer(&said, flow.as_ref()));
            }
            Ok(()) | Err(_) => found.push(CheckFinding::ok("answer", told(&answer.bytes))),
        }
        found.extend(self.verdict(flow.as_ref()));
        if flow.is_none() {
            let who = format!("{} to {}", self.caller.spot.address, self.server);
            found.extend(unserved::by_answer("flow", &who, &answer.bytes));
        }
        let refused = flow.filter(|flow| failed.is_some() && is_refused(flow));
        let ends = refused.as_ref().and_then(|flow| flow.dialled.zip(flow.source));
        let cause = ends
            .and_then(|ends| self.way_out(ends).own_refusal(&mut self.caller, self.server, &self.request));
        found.extend(match (refused, cause) {
            (Some(flow), Some(cause)) => Some(own_fault(&flow, cause)),
            _ => failed,
        });
        found
    }

    /// The gateway's way to a server, from a source address.
    fn way_out(&self, (server, source): (SocketAddr, SocketAddr)) -> WayOut<'a> {
        WayOut { params: self.params, server, source: source.ip() }
    }

    /// The verdict on such flows; and where this flow was denied in spite of it, or could not be served, its end.
    fn verdict(&self, flow: Option<&ProbedFlow>) -> Vec<CheckFinding> {
        let report = self
            .socket
            .and_then(|socket| explained(socket, self.caller.spot.address, self.target.clone(), self.server));
        let allowed = report.as_ref().is_some_and(|report| report.allowed);
        let contrary = flow.and_then(|flow| denied(flow, allowed));
        report.as_ref().map(verdict).into_iter().chain(contrary).collect()
    }
}

/// The ends of a connection whose server has not answered.
fn ways(flow: &ProbedFlow) -> Option<(SocketAddr, SocketAddr)> {
    let silent = flow.outcome.is_none() || flow.outcome.as_deref() == Some("client_left");
    flow.dialled.zip(flow.source).filter(|_| is_waiting(flow) && silent)
}

/// The stations that were passed before a part was lost.
fn passed(exchange: &ProbeExchange) -> Vec<CheckFinding> {
    let mut found = Vec::new();
    if exchange.handshake.is_ok() {
        found.push(CheckFinding::ok("handshake", "SYN, SYN-ACK and ACK passed"));
    }
    if matches!(exchange.too_big, TooBig::Heeded(_)) {
        found.push(CheckFinding::ok("path MTU", "ICMP \"packet too big\" reaches the gateway's socket"));
    }
    found
}

fn no_answer(found: &str, flow: Option<&ProbedFlow>) -> CheckFinding {
    let why = "packets pass both ways, and the flow is refused or its server says nothing";
    let cure = flow.map_or_else(
        || Mend::from("see the flow's outcome in the flow log: docs/outcomes.md"),
        |flow| Mend::run(format!("egret why {}", flow.flow)),
    );
    CheckFinding::warn("answer", found, why, cure)
}

fn lost_name(lost: LostPart) -> &'static str {
    match lost {
        LostPart::Handshake => "the handshake was lost",
        LostPart::Data => "data was lost",
        LostPart::Rest => "the rest of the answer was lost",
        LostPart::TooBig => "an ICMP error was lost",
    }
}
