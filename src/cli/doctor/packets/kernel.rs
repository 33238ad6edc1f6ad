//! Everything that drops packets outside the packet filter.

use super::cure::{Cure, Leg, neighbour_discovery};
use super::evidence::{ConnectionEvidence, LossCause, LostPart};
use super::probe::Spot;
use super::routes;
use super::trace::TraceLineKind;
use crate::cli::doctor::proc::number;
use crate::cli::mend::Mend;
use crate::steering;
use std::net::IpAddr;

/// Such a cause of a loss.
pub(super) fn cause(
    evidence: &ConnectionEvidence,
    lost: LostPart,
    peer: IpAddr,
    spot: &Spot,
    cure: &Cure<'_>,
) -> Option<LossCause> {
    if lost == LostPart::TooBig {
        let found = "an ICMP error about the connection does not reach its socket".to_owned();
        return Some(LossCause { found, cure: Mend::renew() });
    }
    let device = &spot.enters.name;
    if !evidence.found_gateway {
        return Some(unresolved(spot));
    }
    let is_clients_handshake = lost == LostPart::Handshake && cure.leg == Leg::Client;
    let lost_rules = routes::lost_packet_rules(cure).filter(|_| is_clients_handshake);
    let unseen = is_clients_handshake && evidence.was_not_steered();
    let unseen = unseen.then(|| "Egret's own packet rules did not see the SYN".to_owned());
    let found: Vec<_> = lost_rules.into_iter().chain(unseen).collect();
    if !found.is_empty() {
        return Some(LossCause { found: found.join("; "), cure: Mend::renew() });
    }
    if let Some(cause) = routes::cause(evidence, peer, spot, cure) {
        return Some(cause);
    }
    // A source that the mark makes local is a "martian", and not counted as reverse path.
    let martian = cure.v4 && steering::drops_marked(device);
    if martian || evidence.rose(&["TcpIPReversePathFilter"]) {
        return Some(reverse_path(spot));
    }
    if let Some(cause) = bridge_filter(spot, cure.v4) {
        return Some(cause);
    }
    if evidence.rose(&["TcpListenOverflows", "TcpTCPReqQFullDrop"]) {
        let found = "the listener's queue is full: the gateway accepts too slowly".to_owned();
        return Some(LossCause {
            found,
            cure: Mend::run("sysctl -w net.core.somaxconn=16384; systemctl restart egret")
                .and("see `egret ports` and the processor's load, too"),
        });
    }
    if is_clients_handshake && evidence.rose(&["TcpListenDrops"]) {
        return Some(routes::none_for_answer(peer, spot, cure));
    }
    if is_clients_handshake && spot.leaves.name != *device {
        let (address, leaves) = (spot.address, &spot.leaves.name);
        let found = format!(
            "the route to {address} is by {leaves}, which [steering] interfaces does not name; answers to {device} get lost"
        );
        let cure = format!(
            "write {leaves} in [steering] interfaces, then `egret reload`; or give {address} a route by {device}"
        );
        return Some(LossCause { found, cure: cure.into() });
    }
    let mut answers = evidence.lines().iter().filter(|line| line.kind == TraceLineKind::Packet);
    let out = answers.find_map(|line| line.text.split("oif \"").nth(1)?.split('"').next());
    let elsewhere = out.filter(|out| *out != spot.leaves.name)?;
    let found =
        format!("answers to {} leave by {elsewhere}, though packets come in by {device}", spot.address);
    let cure =
        format!("give {elsewhere} no route to {0}: `ip route get {0}` must name {device}", spot.address)
            .into();
    Some(LossCause { found, cure })
}

const LASTING: &str = "to make it last, write it in /etc/sysctl.d";

fn sysctl(settings: &str) -> Mend {
    Mend::run(format!("sysctl -w {settings}")).and(LASTING)
}

/// The larger of the interface's setting and that for all of them counts.
fn setting(device: &str, name: &str) -> u64 {
    let of = |scope: &str| number(&format!("net/ipv4/conf/{scope}/{name}")).unwrap_or_default();
    of("all").max(of(device))
}

fn unresolved(spot: &Spot) -> LossCause {
    let (address, device) = (spot.address, &spot.enters.name);
    let own = spot.gateway.map(|own| own.to_string()).unwrap_or_default();
    if address.is_ipv6() {
        let found = format!("{address} gets no neighbour advertisement for {own} on {device}");
        return LossCause {
            found,
            cure: Mend::run(neighbour_discovery("ip6tables -I INPUT").collect::<Vec<_>>().join("; "))
                .and("neighbour discovery has to pass in and out (RFC 4890)"),
        };
    }
    for name in ["arp_ignore", "arp_filter"] {
        let value = setting(device, name);
        if value > 0 {
            let found = format!("{address} gets no ARP answer for {own} on {device}: {name}={value}");
            let cure = sysctl(&format!("net.ipv4.conf.all.{name}=0 net.ipv4.conf.{device}.{name}=0"));
            return LossCause { found, cure };
        }
    }
    let found = format!("{address} gets no ARP answer for {own} on {device}");
    LossCause {
        found,
        cure: Mend::run(format!("ip link show dev {device}; nft list tables arp"))
            .and("look for NOARP and for rules about ARP, those of arptables, too"),
    }
}

fn reverse_path(spot: &Spot) -> LossCause {
    let device = &spot.enters.name;
    let strict = setting(device, "rp_filter");
    let marked = setting(device, "src_valid_mark");
    let found = format!("rp_filter drops it: {strict} on {device}, src_valid_mark {marked}");
    let cure = if marked > 0 {
        sysctl(&format!("net.ipv4.conf.all.src_valid_mark=0 net.ipv4.conf.{device}.src_valid_mark=0"))
    } else {
        sysctl(&format!("net.ipv4.conf.{device}.rp_filter=2 net.ipv4.conf.all.rp_filter=2"))
            .and(format!("or add a route to {} by {device}, which it does not have; {LASTING}", spot.address))
    };
    LossCause { found, cure }
}

/// With `bridge-nf-call-iptables` the packet filter sees packets on their way through the bridge, and the kernel then
/// forgets the socket that TPROXY gave them.
fn bridge_filter(spot: &Spot, v4: bool) -> Option<LossCause> {
    let name = if v4 { "bridge-nf-call-iptables" } else { "bridge-nf-call-ip6tables" };
    let on = spot.enters.is_bridge() && number(&format!("net/bridge/{name}")).is_some_and(|value| value != 0);
    on.then(|| LossCause {
        found: format!(
            "{} is a bridge and net.bridge.{name}=1: packets lose TPROXY's socket between bridge and IP",
            spot.enters.name
        ),
        cure: sysctl(&format!("net.bridge.{name}=0"))
            .and(format!("Docker sets it to 1 when it starts; {LASTING}")),
    })
}
