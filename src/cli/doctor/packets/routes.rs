//! Routes and rules of policy routing that take packets elsewhere or nowhere.

use super::cure::{Cure, Leg};
use super::evidence::{ConnectionEvidence, LossCause};
use super::path;
use super::probe::Spot;
use super::shown::family_name;
use super::trace::{TraceLine, TraceLineKind};
use crate::cli::doctor::refusing;
use crate::cli::mend::Mend;
use crate::cli::tool::output;
use crate::clock;
use crate::steering::{Lost, Part, Remedy, SteeringMonitor, before_mark_rule};
use crate::sys::routing::{self, RouteDecision};
use std::net::IpAddr;

/// A cause of lost packets in routing.
pub(super) fn cause(
    evidence: &ConnectionEvidence,
    peer: IpAddr,
    spot: &Spot,
    cure: &Cure<'_>,
) -> Option<LossCause> {
    match cure.leg {
        Leg::Client => overwritten_mark(evidence, cure.params.mark)
            .or_else(|| routed_elsewhere(cure))
            .or_else(|| refused(spot.address)),
        Leg::Pool => not_local(peer),
    }
}

/// The route by which answers to this client would leave, where it refuses them.
pub(super) fn refused(client: IpAddr) -> Option<LossCause> {
    let kind = path::refusal(client)?;
    let found = format!("the route to {client} {kind}");
    let cure = refusing_route(client);
    Some(LossCause { found, cure })
}

/// Deletes the route that refuses packets to an address, or shows where to look for it.
fn refusing_route(to: IpAddr) -> Mend {
    match refusing::route_to(to) {
        Some(route) => Mend::run(format!("ip route del {route}")).and("if it is not meant"),
        None => Mend::run(format!("ip route show table all match {to}; ip rule")).and(ADD_OR_DELETE),
    }
}

/// The listener drops a SYN that it has room for if its answer has no route.
pub(super) fn none_for_answer(server: IpAddr, spot: &Spot, cure: &Cure<'_>) -> LossCause {
    let ip = if cure.v4 { "ip -4" } else { "ip -6" };
    let client = spot.address;
    LossCause {
        found: format!(
            "the gateway's socket has room and drops the SYN: its answer from {server} to {client} has no route"
        ),
        cure: Mend::run(format!("{ip} rule; {ip} route show table all match {client}")).and(ADD_OR_DELETE),
    }
}

/// The kernel tells a rule that refuses packets and a route that is missing alike.
const ADD_OR_DELETE: &str = "add the route that is missing (ip route add NETWORK via ROUTER dev INTERFACE), or delete the rule or \
    the route that refuses it";

/// The packet rules of the family that are not in place, if any: without them the packet filter may have no chain that a trace shows.
pub(super) fn lost_packet_rules(cure: &Cure<'_>) -> Option<String> {
    let look = SteeringMonitor::new(cure.params).look(clock::now()).ok()?;
    missing_rules(look.lost, cure.v4)
}

fn missing_rules(lost: Vec<Lost>, v4: bool) -> Option<String> {
    let other = family_name(!v4);
    let is_missing = |lost: &Lost| {
        lost.part == Part::PacketRules && lost.remedy == Remedy::Renew && !lost.what.starts_with(other)
    };
    lost.into_iter().find(is_missing).map(|lost| lost.what)
}

fn not_local(pool: IpAddr) -> Option<LossCause> {
    let decision = routing::way(pool, None, None).ok()?;
    let where_to = match decision {
        RouteDecision::Local => return None,
        RouteDecision::Out => "leads out of this machine",
        RouteDecision::Nowhere => path::refusal(pool)?,
    };
    let found = format!("the route to {pool} {where_to}: answers to it are lost");
    let cure = Mend::run(format!("ip route get {pool}; ip rule; systemctl restart egret-steering"))
        .and("delete the rule or the route that takes the address elsewhere");
    Some(LossCause { found, cure })
}

/// A rule behind Egret's, after which the packet's mark has no longer our bit: the packet is routed on.
fn overwritten_mark(evidence: &ConnectionEvidence, mark: u32) -> Option<LossCause> {
    let lines = evidence.lines();
    let (steered, ours) = lines.iter().enumerate().find(|(_, line)| {
        line.is_of_steering() && line.text.contains("(verdict accept)") && line.is_of_mangle()
    })?;
    let mut rest = lines[steered + 1..].iter().filter(|line| line.id == ours.id && !line.is_of_steering());
    let mut setter: Option<&TraceLine> = None;
    let unmarked = rest.find(|line| {
        if line.kind == TraceLineKind::Rule && (line.text.contains("mark set ") || line.text.contains("MARK"))
        {
            setter = Some(line);
        }
        setter.is_some()
            && line.kind != TraceLineKind::Packet
            && line.mark().is_some_and(|now| now & mark == 0)
    });
    let rule = unmarked.and(setter)?;
    let TraceLine { family, table, chain, .. } = rule;
    let found = format!(
        "another rule overwrites the mark: table {family} {table}, chain {chain}, rule `{}`",
        rule.rule()
    );
    let cure = Mend::from(format!(
        "have that rule keep bit {mark:#x}: `meta mark set meta mark and {mark:#x} or VALUE`, or with iptables --set-xmark VALUE/VALUE; or choose a [steering] mark that it keeps",
    ));
    Some(LossCause { found, cure })
}

/// The rule of policy routing that marked packets meet before Egret's, or what is missing there.
fn routed_elsewhere(cure: &Cure<'_>) -> Option<LossCause> {
    let (mark, table) = (cure.params.mark, cure.params.table);
    let look = SteeringMonitor::new(cure.params).look(clock::now()).ok()?;
    let family = family_name(cure.v4);
    let Lost { what, remedy, .. } = look.lost.into_iter().find(|lost| {
        let of_routing = matches!(lost.part, Part::MarkRule | Part::SteeringTable);
        of_routing && lost.what.starts_with(family)
    })?;
    if !matches!(remedy, Remedy::Renew | Remedy::MoveRule | Remedy::DeleteRule) {
        return Some(LossCause { found: what, cure: remedy.into() });
    }
    let ip = if cure.v4 { "ip -4" } else { "ip -6" };
    let rules = output(&format!("{ip} -N rule show")).unwrap_or_default();
    Some(match before_mark_rule(&rules, mark, table) {
        None => LossCause { found: what, cure: Mend::renew() },
        Some(rule) => LossCause {
            found: format!("{what}: `{rule}`"),
            cure: Mend::run(format!("{ip} rule del pref {}", rule.replacen(':', "", 1))),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_rules_are_those_of_the_family() {
        let lost =
            |what: &str| Lost { part: Part::PacketRules, what: what.to_owned(), remedy: Remedy::Renew };
        let all = || ["IPv4: no rules", "IPv6: no rules", "table inet egret: no rules"].map(lost);
        let said = |skip, v4| missing_rules(all().into_iter().skip(skip).collect(), v4).unwrap();
        assert_eq!(said(0, true), "IPv4: no rules");
        assert_eq!(said(0, false), "IPv6: no rules");
        assert_eq!([said(1, true), said(2, false)], ["table inet egret: no rules"; 2]);
    }
}
