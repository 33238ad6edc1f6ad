//! The way in: connections of a tenant's clients to the gateway, one for each port that is tried.

use super::caller::Caller;
use super::cure::{Cure, Leg};
use super::evidence::{LossCause, LostPart};
use super::exchange::{Patience, ProbeExchange};
use super::fate::{denied, silent_beyond_gateway};
use super::legs::{failure, success};
use super::next_hop;
use super::ports::listed;
use super::probe::Spot;
use super::request::{PADDING, PROBE_NAME, http};
use super::routes;
use super::shown::{family_name, names};
use super::spot;
use super::unserved;
use crate::cli::doctor::TenantClients;
use crate::cli::findings::{CheckFinding, FindingLevel};
use crate::steering::SteeringParams;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// Bytes of an answer that takes several full packets.
const LARGE: usize = 8 * 1024;

/// Connections of a tenant's clients to the gateway.
pub(super) struct ClientLeg<'a> {
    pub(super) params: &'a SteeringParams,
    /// The gateway's control socket.
    pub(super) socket: Option<&'a Path>,
    pub(super) tenant: &'a TenantClients,
    pub(super) v4: bool,
    pub(super) steered: &'a [String],
    pub(super) destinations: &'a [IpAddr],
    /// Intercepted ports that are tried.
    pub(super) ports: &'a [u16],
}

/// A first attempt.
pub(super) enum Tried {
    Done(CheckFinding),
    /// Has to be tried again and watched.
    Lost(Box<LostAttempt>),
}

/// An attempt that lost something.
pub(super) struct LostAttempt {
    caller: Caller,
    port: u16,
    lost: LostPart,
}

impl ClientLeg<'_> {
    pub(super) fn try_it(&self) -> Tried {
        let (name, family) = (&self.tenant.name, family_name(self.v4));
        let spot = match spot::tenant_client(&self.tenant.sources, self.v4, self.steered) {
            Ok(spot) => spot,
            Err(error) => return Tried::Done(self.no_spot(&error)),
        };
        if let Some(device) = spot::unsteered(&spot, self.steered) {
            return Tried::Done(not_steered(&format!("{name}, {}", spot.address), device));
        }
        let mut caller = match Caller::new(spot, self.socket) {
            Ok(caller) => caller,
            Err(error) => {
                let found = format!("{name}, {family}: no probe could be set up: {error}");
                return Tried::Done(self.no_way(&found));
            }
        };
        let mut passed = None;
        for (place, port) in (1..).zip(self.ports) {
            // The kernel remembers a smaller MTU, and large packets are to stay large.
            let is_last = place == self.ports.len();
            match self.try_port(&mut caller, *port, is_last) {
                Ok(finding) if finding.level != FindingLevel::Ok => return Tried::Done(finding),
                Ok(finding) => passed = Some(finding),
                Err(lost) => return Tried::Lost(Box::new(LostAttempt { caller, port: *port, lost })),
            }
        }
        Tried::Done(passed.unwrap_or_else(|| CheckFinding::ok(Leg::Client.check(), "no port to try")))
    }

    /// The finding of packets that passed, or what was lost. A filter may drop the handshake to documentation addresses alone.
    fn try_port(&self, caller: &mut Caller, port: u16, tell_too_big: bool) -> Result<CheckFinding, LostPart> {
        let mut first_lost = None;
        for destination in self.destinations() {
            let exchange =
                caller.call(SocketAddr::new(destination, port), &request(), tell_too_big, Patience::SHORT);
            match caller.lost(&exchange) {
                None => {
                    let to = format!("{destination}, {}", listed(self.ports));
                    let small = if exchange.answer.bytes.len() < LARGE { ", no large answer" } else { "" };
                    return Ok(passed(caller, &self.who(caller, &to), &exchange, small));
                }
                Some(LostPart::Handshake) => first_lost = first_lost.or(Some(LostPart::Handshake)),
                Some(lost @ (LostPart::Data | LostPart::Rest | LostPart::TooBig)) => return Err(lost),
            }
        }
        Err(first_lost.unwrap_or(LostPart::Handshake))
    }

    /// The attempt that decides, and names what takes the packets.
    pub(super) fn watch(&self, attempt: &mut LostAttempt) -> CheckFinding {
        let LostAttempt { caller, port, lost: first } = attempt;
        let destination = self.destinations().next().unwrap_or(spot::nowhere(self.v4));
        let server = SocketAddr::new(destination, *port);
        let who = self.who(caller, &server.to_string());
        let (exchange, evidence) = caller.watch(server, &request(), *first);
        let Some(lost) = caller.lost(&exchange) else {
            return passed(caller, &who, &exchange, ", at the second attempt");
        };
        if let Some(finding) = caller.flow(false).as_ref().and_then(silent_beyond_gateway) {
            return about(&who, finding);
        }
        let cure = Cure {
            params: self.params,
            leg: Leg::Client,
            v4: self.v4,
            device: &caller.spot.enters.name,
            sources: &self.tenant.sources,
        };
        failure(Leg::Client, lost, &who, evidence.cause(lost, destination, &caller.spot, &cure))
    }

    /// For one whose first attempt got lost, as another tenant's did that was watched.
    pub(super) fn not_watched(&self) -> CheckFinding {
        let family = family_name(self.v4);
        CheckFinding::warn(
            Leg::Client.check(),
            format!("{}, {family}: packets get lost, and were not traced", self.tenant.name),
            "what loses one tenant's packets mostly loses those of the others",
            format!("cure what fails for {family}, then egret doctor"),
        )
    }

    fn destinations(&self) -> impl Iterator<Item = IpAddr> {
        let none = self.destinations.is_empty().then(|| spot::nowhere(self.v4));
        self.destinations.iter().copied().chain(none)
    }

    fn who(&self, caller: &Caller, to: &str) -> String {
        let Spot { address, enters, .. } = &caller.spot;
        format!("{}, {address} to {to} by {}", self.tenant.name, enters.name)
    }

    /// No address for a client was found: its route refuses packets, or nothing is known.
    fn no_spot(&self, error: &str) -> CheckFinding {
        let (name, family) = (&self.tenant.name, family_name(self.v4));
        let addresses = spot::tenant_addresses(&self.tenant.sources, self.v4, self.steered);
        let (params, sources) = (self.params, &*self.tenant.sources);
        let cure = Cure { params, leg: Leg::Client, v4: self.v4, device: "", sources };
        let filtered = || addresses.first().and_then(|address| next_hop::filtered(*address, None, &cure));
        match addresses.iter().copied().find_map(routes::refused).or_else(filtered) {
            Some(LossCause { found, cure }) => CheckFinding::fail(
                Leg::Client.check(),
                format!("{name}, {family}: {found}"),
                Leg::Client.why(),
                cure,
            ),
            None => self.no_way(&format!("{name}, {family}: no test client could be set up: {error}")),
        }
    }

    fn no_way(&self, found: &str) -> CheckFinding {
        let why = "whether such clients' packets pass is not known";
        let cure = format!(
            "a route to the tenant's network by {}; or name a client: egret doctor --packet --from CLIENT --to DEST",
            names(&self.params.interfaces)
        );
        CheckFinding::warn(Leg::Client.check(), found, why, cure)
    }
}

/// The finding of a connection that lost nothing.
fn passed(caller: &Caller, who: &str, exchange: &ProbeExchange, more: &str) -> CheckFinding {
    let check = Leg::Client.check();
    let answer = &exchange.answer.bytes;
    let by_flow = || {
        let flow = answer.is_empty().then(|| caller.flow(true))??;
        denied(&flow, false).map(|finding| about(who, finding))
    };
    unserved::by_answer(check, who, answer)
        .or_else(by_flow)
        .unwrap_or_else(|| CheckFinding::ok(check, format!("{who}: {}{more}", success(exchange))))
}

/// A finding on the flow of a client's probe.
fn about(who: &str, finding: CheckFinding) -> CheckFinding {
    CheckFinding { check: Leg::Client.check(), found: format!("{who}: {}", finding.found), ..finding }
}

/// Clients whose packets come in by a device that is not steered. No probe enters by another one, where all would look well.
pub(super) fn not_steered(who: &str, device: &str) -> CheckFinding {
    CheckFinding::fail(
        Leg::Client.check(),
        format!("{who}: clients arrive by {device}, which [steering] interfaces does not name"),
        "their connections are not intercepted, and they hang or pass by the gateway",
        format!("write {device} in [steering] interfaces, then `egret reload`"),
    )
}

/// HTTP on every port: the gateway looks at the first bytes and not at the port, and its refusal is an answer of many
/// packets.
fn request() -> Vec<u8> {
    http(PROBE_NAME, PADDING)
}
