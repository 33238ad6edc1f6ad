//! From what was seen of a packet that got lost to the hook that took it, and the cure.

use super::counters::Counters;
use super::cure::{Cure, Hook, Leg, PacketEnd};
use super::owner::RuleOwner;
use super::probe::Spot;
use super::shown::family_name;
use super::trace::{TraceLine, TraceLineKind};
use crate::cli::doctor::listeners::has_listener;
use crate::cli::doctor::proc::number;
use crate::cli::tool::output;
use crate::clock;
use crate::steering::{Part, REMEDY, SteeringMonitor, before_mark_rule};

/// The part of a connection that was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LostPart {
    Handshake,
    Data,
    /// An ICMP error.
    TooBig,
}

impl LostPart {
    fn as_str(self) -> &'static str {
        match self {
            Self::Handshake => "the handshake",
            Self::Data => "data",
            Self::TooBig => "ICMP \"packet too big\"",
        }
    }
}

/// Observations while a connection was tried.
#[derive(Debug)]
pub(super) struct ConnectionEvidence {
    /// `None` without nft.
    pub(super) events: Option<Vec<TraceLine>>,
    pub(super) before: Counters,
    pub(super) after: Counters,
    /// False where the probe's host did not find the machine's link address.
    pub(super) found_gateway: bool,
}

/// Why packets got lost.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LossCause {
    pub(super) found: String,
    pub(super) cure: String,
}

impl ConnectionEvidence {
    pub(super) fn cause(&self, lost: LostPart, spot: &Spot, cure: &Cure<'_>) -> LossCause {
        self.by_trace(lost, cure)
            .or_else(|| self.by_counters(lost, cure))
            .or_else(|| self.by_kernel(lost, spot, cure))
            .unwrap_or_else(|| self.unknown(lost, spot))
    }

    /// The first verdict that ended such a packet.
    fn by_trace(&self, lost: LostPart, cure: &Cure<'_>) -> Option<LossCause> {
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
        let marked = before.iter().any(|event| {
            let steers = event.chain.starts_with("EGRET_") || event.table == "egret";
            steers && event.text.contains("(verdict accept)")
        });
        let chain = if end.family == "ip" || end.family == "ip6" || end.family == "inet" {
            &packet.chain
        } else {
            &end.chain
        };
        let end = PacketEnd { family: &end.family, table: &end.table, chain, hook, owner, marked };
        Some(LossCause { found, cure: cure.accept(&end) })
    }

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

    /// Everything that drops packets outside the packet filter.
    fn by_kernel(&self, lost: LostPart, spot: &Spot, cure: &Cure<'_>) -> Option<LossCause> {
        if lost == LostPart::TooBig {
            let found = "an ICMP error about the connection does not reach its socket".to_owned();
            return Some(LossCause { found, cure: REMEDY.to_owned() });
        }
        let device = &spot.enters.name;
        if !self.found_gateway {
            return Some(unresolved(spot));
        }
        if lost == LostPart::Handshake && cure.leg == Leg::Client && self.was_not_steered() {
            let found = "Egret's own packet rules did not see the SYN".to_owned();
            return Some(LossCause { found, cure: REMEDY.to_owned() });
        }
        if lost == LostPart::Handshake
            && cure.leg == Leg::Client
            && let Some(cause) = routed_elsewhere(cure)
        {
            return Some(cause);
        }
        // A source that the mark makes local is a "martian", and not counted as reverse path.
        let martian = cure.v4 && ["src_valid_mark", "rp_filter"].iter().all(|name| setting(device, name) > 0);
        if martian || self.after.rose(&self.before, "TcpIPReversePathFilter") {
            return Some(reverse_path(spot));
        }
        if let Some(cause) = bridge_filter(spot, cure.v4) {
            return Some(cause);
        }
        let overflows = ["TcpListenOverflows", "TcpListenDrops"];
        if overflows.iter().any(|name| self.after.rose(&self.before, name)) {
            let found = "the listener's queue is full: the gateway accepts too slowly".to_owned();
            return Some(LossCause { found, cure: "see `egret ports` and the processor's load; sysctl -w net.core.somaxconn=16384; systemctl restart egret".to_owned() });
        }
        if lost == LostPart::Handshake && cure.leg == Leg::Client && spot.leaves.name != *device {
            let (address, leaves) = (spot.address, &spot.leaves.name);
            let found = format!(
                "the route to {address} is by {leaves}, which [steering] interfaces does not name; answers to {device} get lost"
            );
            let cure = format!(
                "write {leaves} in [steering] interfaces, then `egret reload`; or give {address} a route by {device}"
            );
            return Some(LossCause { found, cure });
        }
        let mut answers = self
            .events
            .as_deref()
            .unwrap_or_default()
            .iter()
            .filter(|event| event.kind == TraceLineKind::Packet);
        let out = answers.find_map(|event| event.text.split("oif \"").nth(1)?.split('"').next());
        let elsewhere = out.filter(|out| *out != spot.leaves.name)?;
        let found =
            format!("answers to {} leave by {elsewhere}, though packets come in by {device}", spot.address);
        let cure =
            format!("give {elsewhere} no route to {0}: `ip route get {0}` must name {device}", spot.address);
        Some(LossCause { found, cure })
    }

    /// True if packets were traced, and none of them met a rule of Egret's.
    fn was_not_steered(&self) -> bool {
        let own = |event: &TraceLine| event.table == "egret" || event.chain.starts_with("EGRET_");
        self.events.as_deref().is_some_and(|events| !events.is_empty() && !events.iter().any(own))
    }

    fn unknown(&self, lost: LostPart, spot: &Spot) -> LossCause {
        let device = &spot.enters.name;
        let seen = self
            .events
            .as_deref()
            .unwrap_or_default()
            .iter()
            .rev()
            .find(|event| event.kind == TraceLineKind::Packet);
        let found = match seen {
            Some(TraceLine { family, table, chain, .. }) => {
                format!(
                    "{} is lost behind table {family} {table}, chain {chain}; no rule of the packet filter dropped it",
                    lost.as_str()
                )
            }
            None => format!("{} is lost, and the packet filter did not see it", lost.as_str()),
        };
        let cure = match self.events {
            None => "install nftables (apt install nftables) and run doctor again: it will name the rule"
                .to_owned(),
            Some(_) => format!(
                "look for what takes packets before or behind the packet filter: tc -s filter show dev {device} ingress; ip link show dev {device} (xdp); nstat -az | grep -i drop"
            ),
        };
        LossCause { found, cure }
    }
}

/// The first line about the packet of an event: those of later hooks may know less of it.
fn first<'a>(events: &'a [TraceLine], of: &TraceLine) -> &'a str {
    let of_packet = |event: &&TraceLine| event.id == of.id && event.kind == TraceLineKind::Packet;
    events.iter().find(of_packet).map_or("", |event| &event.text)
}

fn packet_name(text: &str) -> &'static str {
    if text.contains("icmp") {
        return if text.contains("nd-neighbor") { "neighbour discovery" } else { "an ICMP error" };
    }
    let flags = text.split("flags == ").nth(1).unwrap_or_default();
    if flags.starts_with("syn | ack") || flags.starts_with("0x12") || flags.starts_with("syn|ack") {
        "the SYN-ACK"
    } else if flags.starts_with("syn") || flags.starts_with("0x2 ") || flags.starts_with("0x02") {
        "the SYN"
    } else {
        "a packet of the connection"
    }
}

/// Egret's rules end packets that the gateway or the routes do not take.
fn eaten_by_egret(chain: &str, cure: &Cure<'_>) -> String {
    let forwarded = ["EGRET_REFUSE", "EGRET_FORWARD", "refuse"].contains(&chain);
    if !forwarded && !has_listener(cure.params.listen_port) {
        return format!(
            "nothing listens on port {}: systemctl start egret; journalctl -u egret",
            cure.params.listen_port
        );
    }
    REMEDY.to_owned()
}

/// The larger of the interface's setting and that for all of them counts.
fn setting(device: &str, name: &str) -> u64 {
    let of = |scope: &str| number(&format!("net/ipv4/conf/{scope}/{name}")).unwrap_or_default();
    of("all").max(of(device))
}

/// The rule of policy routing that marked packets meet before Egret's, or what is missing there.
fn routed_elsewhere(cure: &Cure<'_>) -> Option<LossCause> {
    let (mark, table) = (cure.params.mark, cure.params.table);
    let look = SteeringMonitor::new(cure.params).look(clock::now()).ok()?;
    let family = family_name(cure.v4);
    let what = look.lost.into_iter().find_map(|lost| {
        let of_routing = matches!(lost.part, Part::MarkRule | Part::SteeringTable);
        (of_routing && lost.what.starts_with(family)).then_some(lost.what)
    })?;
    let ip = if cure.v4 { "ip -4" } else { "ip -6" };
    let rules = output(&format!("{ip} -N rule show")).unwrap_or_default();
    Some(match before_mark_rule(&rules, mark, table) {
        None => LossCause { found: what, cure: REMEDY.to_owned() },
        Some(rule) => LossCause {
            found: format!("{what}: `{rule}`"),
            cure: format!("{ip} rule del pref {}", rule.replacen(':', "", 1)),
        },
    })
}

fn unresolved(spot: &Spot) -> LossCause {
    let (address, device) = (spot.address, &spot.enters.name);
    let own = spot.gateway.map(|own| own.to_string()).unwrap_or_default();
    if address.is_ipv6() {
        let found = format!("{address} gets no neighbour advertisement for {own} on {device}");
        return LossCause {
            found,
            cure: "let ICMPv6 135 and 136 in and out (RFC 4890): ip6tables -I INPUT -p ipv6-icmp -j ACCEPT"
                .to_owned(),
        };
    }
    for name in ["arp_ignore", "arp_filter"] {
        let value = setting(device, name);
        if value > 0 {
            let found = format!("{address} gets no ARP answer for {own} on {device}: {name}={value}");
            let cure = format!(
                "sysctl -w net.ipv4.conf.all.{name}=0 net.ipv4.conf.{device}.{name}=0, and in /etc/sysctl.d"
            );
            return LossCause { found, cure };
        }
    }
    let found = format!("{address} gets no ARP answer for {own} on {device}");
    LossCause {
        found,
        cure: format!("see `ip link show dev {device}` (NOARP), `nft list tables arp`, `arptables -L`"),
    }
}

fn reverse_path(spot: &Spot) -> LossCause {
    let device = &spot.enters.name;
    let strict = setting(device, "rp_filter");
    let marked = setting(device, "src_valid_mark");
    let found = format!("rp_filter drops it: {strict} on {device}, src_valid_mark {marked}");
    let cure = if marked > 0 {
        format!(
            "sysctl -w net.ipv4.conf.all.src_valid_mark=0 net.ipv4.conf.{device}.src_valid_mark=0, and in /etc/sysctl.d"
        )
    } else {
        format!(
            "the route to {} does not lead to {device}: add that route, or sysctl -w net.ipv4.conf.{device}.rp_filter=2 net.ipv4.conf.all.rp_filter=2, and in /etc/sysctl.d",
            spot.address
        )
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
        cure: format!(
            "sysctl -w net.bridge.{name}=0, and in /etc/sysctl.d (Docker sets it to 1 when it starts)"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probe_packets_have_names() {
        assert_eq!(packet_name("tcp sport 61000 tcp dport 80 tcp flags == syn tcp window 64240"), "the SYN");
        assert_eq!(packet_name("tcp flags == 0x12 tcp window"), "the SYN-ACK");
        assert_eq!(packet_name("tcp flags == ack"), "a packet of the connection");
        assert_eq!(packet_name("ip protocol icmp icmp type destination-unreachable"), "an ICMP error");
        assert_eq!(packet_name("icmpv6 type nd-neighbor-solicit"), "neighbour discovery");
    }
}
