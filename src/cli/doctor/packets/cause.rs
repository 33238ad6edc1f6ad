//! From what was seen of a packet that got lost to the hook that took it, and the cure.

use super::cure::{Cure, Hook, PacketEnd};
use super::evidence::{ConnectionEvidence, LossCause, LostPart};
use super::kernel;
use super::owner::RuleOwner;
use super::probe::Spot;
use super::shown::family_name;
use super::trace::{TraceLine, TraceLineKind};
use crate::cli::doctor::listeners::has_listener;
use crate::cli::mend::Mend;
use std::net::IpAddr;

/// The gateway's table that refuses families that cannot leave (docs/steering.md).
const FAMILIES: &str = "egret_families";

impl ConnectionEvidence {
    /// `peer` is the other end of the probe's connections: the server that a client dials, or the pool's address.
    pub(super) fn cause(&self, lost: LostPart, peer: IpAddr, spot: &Spot, cure: &Cure<'_>) -> LossCause {
        self.by_trace(lost, cure)
            .or_else(|| self.by_counters(lost, cure))
            .or_else(|| kernel::cause(self, lost, peer, spot, cure))
            .unwrap_or_else(|| self.unknown(lost, spot))
    }

    /// The first verdict that ended such a packet.
    pub(super) fn by_trace(&self, lost: LostPart, cure: &Cure<'_>) -> Option<LossCause> {
        let events = self.events.as_deref()?;
        let (end, packet) =
            events.iter().enumerate().filter(|(_, event)| event.is_end()).find_map(|(at, end)| {
                let entered = events[..at].iter().rev();
                let packet = entered
                    .clone()
                    .find(|event| event.id == end.id && event.kind == TraceLineKind::Packet)?;
                let icmp = first(events, end).contains("icmp");
                let asked = lost == LostPart::Handshake && !self.found_gateway;
                (icmp == (lost == LostPart::TooBig) || asked).then_some((end, packet))
            })?;
        let before: Vec<_> = events.iter().filter(|event| event.id == end.id).collect();
        if end.table == FAMILIES {
            return Some(family_refused(cure));
        }
        let owner = RuleOwner::of(&end.family, &end.table, &end.chain, &before);
        let hook = Hook::of(&packet.family, &packet.table, &packet.chain);
        let what = packet_name(first(events, end));
        let found = format!(
            "{what} ends at {}: table {} {}, chain {}, rule `{}` ({})",
            hook.as_str(),
            end.family,
            end.table,
            end.chain,
            end.rule(),
            owner.as_str()
        );
        if owner == RuleOwner::Egret {
            return Some(LossCause { found, cure: eaten_by_egret(&end.chain, cure) });
        }
        let marked =
            before.iter().any(|event| event.is_of_steering() && event.text.contains("(verdict accept)"));
        let chain = if end.family == "ip" || end.family == "ip6" || end.family == "inet" {
            &packet.chain
        } else {
            &end.chain
        };
        let end = PacketEnd { family: &end.family, table: &end.table, chain, hook, owner, marked };
        Some(LossCause { found, cure: cure.accept(&end) })
    }

    /// Rules that a trace does not show.
    fn by_counters(&self, lost: LostPart, cure: &Cure<'_>) -> Option<LossCause> {
        let rule = self.after.ended(&self.before)?;
        let family = if cure.v4 { "ip" } else { "ip6" };
        let owner = RuleOwner::of(family, &rule.table, &rule.chain, &[]);
        let found = format!(
            "{} is lost; the iptables rule that dropped most packets meanwhile is in table {}, chain {}: `{}` ({})",
            lost.as_str(),
            rule.table,
            rule.chain,
            rule.rule,
            owner.as_str()
        );
        if owner == RuleOwner::Egret {
            return Some(LossCause { found, cure: eaten_by_egret(&rule.chain, cure) });
        }
        let hook = Hook::of_iptables(&rule.table, &rule.chain);
        let end = PacketEnd {
            family,
            table: &rule.table,
            chain: hook.builtin(),
            hook,
            owner,
            marked: hook != Hook::Prerouting,
        };
        Some(LossCause { found, cure: cure.accept(&end) })
    }

    fn unknown(&self, lost: LostPart, spot: &Spot) -> LossCause {
        let device = &spot.enters.name;
        let seen = self.lines().iter().rev().find(|line| line.kind == TraceLineKind::Packet);
        let sent_large =
            || self.lines().iter().any(|line| line.text.contains("oif ") && length(&line.text).is_some());
        let large = lost == LostPart::Rest || lost == LostPart::Data && sent_large();
        let what = if large { "a large packet, unlike small ones," } else { lost.as_str() };
        let found = match seen {
            Some(TraceLine { family, table, chain, .. }) => {
                format!(
                    "{what} is lost behind table {family} {table}, chain {chain}; no rule of the packet filter dropped it"
                )
            }
            None => format!("{what} is lost, and the packet filter did not see it"),
        };
        let cure = match self.events {
            None => Mend::run("apt install nftables").and("then run doctor again: it will name the rule"),
            Some(_) if large => Mend::run(format!(
                "ip -d link show dev {0}; tc -s filter show dev {0} egress; tc -s qdisc show dev {0}",
                spot.leaves.name
            ))
            .and(format!("look for what takes large packets; the MTU is {}", spot.leaves.mtu)),
            Some(_) => Mend::run(format!(
                "tc -s filter show dev {device} ingress; ip -d link show dev {device}; nstat -az | grep -i drop"
            ))
            .and("look for what takes packets before or behind the packet filter, such as an XDP program"),
        };
        LossCause { found, cure }
    }
}

/// The first line about the packet of an event: those of later hooks may know less of it.
fn first<'a>(events: &'a [TraceLine], of: &TraceLine) -> &'a str {
    let of_packet = |event: &&TraceLine| event.id == of.id && event.kind == TraceLineKind::Packet;
    events.iter().find(of_packet).map_or("", |event| &event.text)
}

/// A packet as long as this carries data.
const LARGE: u32 = 600;

/// Length of a large packet.
fn length(text: &str) -> Option<u32> {
    let length = text.split(" length ").nth(1)?.split(' ').next()?.parse().ok()?;
    (length >= LARGE).then_some(length)
}

fn packet_name(text: &str) -> String {
    if text.contains("icmp") {
        return if text.contains("nd-neighbor") { "neighbour discovery" } else { "an ICMP error" }.to_owned();
    }
    if let Some(length) = length(text) {
        return format!("a packet of {length} bytes");
    }
    let flags = text.split("flags == ").nth(1).unwrap_or_default();
    let name = if flags.starts_with("syn | ack") || flags.starts_with("0x12") || flags.starts_with("syn|ack")
    {
        "the SYN-ACK"
    } else if flags.starts_with("syn") || flags.starts_with("0x2 ") || flags.starts_with("0x02") {
        "the SYN"
    } else {
        "a packet of the connection"
    };
    name.to_owned()
}

/// The gateway's own refusal of a family whose connections could not leave.
fn family_refused(cure: &Cure<'_>) -> LossCause {
    let family = family_name(cure.v4);
    LossCause {
        found: format!(
            "the gateway itself refuses {family} here, since such connections cannot leave: no {family} source address \
             of the tenant's pool gives out ports, or no route leads out"
        ),
        cure: Mend::run("egret doctor --no-packets; egret ports")
            .and("see the findings on `families` and `source addresses`"),
    }
}

/// Egret's rules end packets that the gateway or the routes do not take.
fn eaten_by_egret(chain: &str, cure: &Cure<'_>) -> Mend {
    let forwarded = ["EGRET_REFUSE", "EGRET_FORWARD", "refuse"].contains(&chain);
    if !forwarded && !has_listener(cure.params.listen_port) {
        return Mend::run("systemctl start egret; journalctl -u egret")
            .and(format!("nothing listens on port {}", cure.params.listen_port));
    }
    Mend::renew()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probe_packets_have_names() {
        assert_eq!(packet_name("tcp sport 61000 tcp dport 80 tcp flags == syn tcp window 64240"), "the SYN");
        assert_eq!(packet_name("tcp flags == 0x12 tcp window"), "the SYN-ACK");
        assert_eq!(packet_name("tcp flags == ack"), "a packet of the connection");
        assert_eq!(packet_name("ip protocol tcp ip length 1500 tcp flags == ack"), "a packet of 1500 bytes");
        assert_eq!(packet_name("ip length 60 tcp sport 80 tcp flags == 0x12 tcp window"), "the SYN-ACK");
        assert_eq!(packet_name("ip protocol icmp icmp type destination-unreachable"), "an ICMP error");
        assert_eq!(packet_name("icmpv6 type nd-neighbor-solicit"), "neighbour discovery");
    }
}
