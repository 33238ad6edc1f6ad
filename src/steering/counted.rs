//! The packets that steering counts: those that it drops or refuses, and those that it does not intercept.

/// The reason why a packet on a steered interface does not become part of a flow. The names are those of the counters in
/// nftables and the comments in iptables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PacketCounter {
    /// TCP from an address of the gateway's own: a loop, or forged.
    OwnSource,
    /// TCP to an intercepted port without a gateway that takes it.
    NoListener,
    /// To an intercepted port, and would have been forwarded past the gateway.
    NotForwarded,
    /// UDP to an intercepted port.
    UdpRefused,
    /// TCP and UDP port 53.
    Dns,
    /// UDP port 123.
    Ntp,
    /// TCP to other ports.
    Tcp,
    /// UDP to other ports.
    Udp,
    /// ICMP that is about no connection of the gateway's.
    Icmp,
    /// Other protocols.
    Other,
}

/// The chains of iptables that have the rules with comments, each after its table.
pub const COUNTED_CHAINS: [(&str, &str); 3] =
    [("mangle", "EGRET_STEER"), ("mangle", "EGRET_UNSTEERED"), ("filter", "EGRET_REFUSE")];

impl PacketCounter {
    /// In the order of the rules.
    pub const ALL: [Self; 10] = [
        Self::OwnSource,
        Self::NoListener,
        Self::NotForwarded,
        Self::UdpRefused,
        Self::Dns,
        Self::Ntp,
        Self::Tcp,
        Self::Udp,
        Self::Icmp,
        Self::Other,
    ];

    /// The counter's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OwnSource => "own_source",
            Self::NoListener => "no_listener",
            Self::NotForwarded => "not_forwarded",
            Self::UdpRefused => "udp_refused",
            Self::Dns => "unsteered_dns",
            Self::Ntp => "unsteered_ntp",
            Self::Tcp => "unsteered_tcp",
            Self::Udp => "unsteered_udp",
            Self::Icmp => "unsteered_icmp",
            Self::Other => "unsteered_other",
        }
    }

    /// A short description of the packets and their treatment.
    pub fn fate(self) -> &'static str {
        match self {
            Self::OwnSource => "dropped: from the gateway's own addresses",
            Self::NoListener => "dropped: the gateway was not running",
            Self::NotForwarded => "refused instead of forwarded past the gateway",
            Self::UdpRefused => "refused: UDP to intercepted ports (QUIC)",
            Self::Dns => "not intercepted: DNS, port 53",
            Self::Ntp => "not intercepted: NTP, UDP port 123",
            Self::Tcp => "not intercepted: TCP to other ports",
            Self::Udp => "not intercepted: UDP to other ports",
            Self::Icmp => "not intercepted: ICMP",
            Self::Other => "not intercepted: other protocols",
        }
    }
}

/// The counts that are not zero, largest first, from `iptables-save -c` (of both families, concatenated) or `nft list table`.
pub fn counts(listed: &str) -> Vec<(PacketCounter, u64)> {
    let mut counts: Vec<_> = PacketCounter::ALL.map(|counted| (counted, count(counted, listed))).into();
    counts.retain(|(_, packets)| *packets > 0);
    counts.sort_by_key(|(_, packets)| std::cmp::Reverse(*packets));
    counts
}

fn count(counted: PacketCounter, listed: &str) -> u64 {
    let comment = format!(" --comment {} ", counted.as_str());
    let rules = listed.lines().filter(|line| line.contains(&comment));
    let iptables: u64 =
        rules.filter_map(|line| line.strip_prefix('[')?.split(':').next()?.parse::<u64>().ok()).sum();
    let start = format!("\tcounter {} {{", counted.as_str());
    let mut lines = listed.lines().skip_while(|line| *line != start);
    let nft =
        lines.nth(1).and_then(|line| line.trim().strip_prefix("packets ")?.split(' ').next()?.parse().ok());
    iptables + nft.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_either_format() {
        let iptables = "*mangle\n:EGRET_UNSTEERED - [0:0]\n\
            [7:420] -A EGRET_UNSTEERED -p udp -m udp --dport 53 -m comment --comment unsteered_dns -j RETURN\n\
            [2:120] -A EGRET_UNSTEERED -p tcp -m tcp --dport 53 -m comment --comment unsteered_dns -j RETURN\n\
            [0:0] -A EGRET_UNSTEERED -p udp -m udp --dport 123 -m comment --comment unsteered_ntp -j RETURN\n\
            [11:1] -A EGRET_UNSTEERED -m comment --comment unsteered_other -j RETURN\n";
        assert_eq!(counts(iptables), [(PacketCounter::Other, 11), (PacketCounter::Dns, 9)]);
        let nft = "table inet egret {\n\tcounter unsteered_dns {\n\t\tpackets 3 bytes 180\n\t}\n\n\tcounter unsteered_ntp {\n\t\tpackets 0 bytes 0\n\t}\n}\n";
        assert_eq!(counts(nft), [(PacketCounter::Dns, 3)]);
        assert_eq!(counts(""), []);
    }
}
