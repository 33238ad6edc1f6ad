//! Chains and their rules, as both backends have them.

use crate::sys::netlink::{array_at, malformed};
use std::io;

/// The family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum TableFamily {
    /// Both families, in one table (`NFPROTO_INET`).
    Inet = 1,
    /// IPv4.
    Ip = 2,
    /// IPv6.
    Ip6 = 10,
}

/// The rules of a chain, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PacketChain {
    /// Hook and priority, as the kernel numbers them; `None` for a chain that is only jumped to.
    pub hook: Option<(u32, i32)>,
    /// Its rules.
    pub rules: Vec<PacketRule>,
}

/// A chain of a table, without its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedChain {
    /// Its name.
    pub name: String,
    /// Its policy is to drop what comes to its end.
    pub drops: bool,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PacketRule {
    /// Digest of the rule's content, and in nf_tables of its handle and its table's: there, a reloaded rule has another
    /// digest.
    pub id: u64,
    /// The chain that it jumps or goes to.
    pub target: Option<String>,
    /// Its effect. Of the matches of the legacy iptables only the interface is read.
    pub ahead: Ahead,
    /// It is about certain source or destination addresses, and none of them is negated.
    pub by_address: bool,
    /// The port of the listener that it hands packets to (TPROXY).
    pub listener: Option<u16>,
}

/// A number in network byte order, as nf_tables has them.
pub(super) fn be32(value: &[u8]) -> io::Result<u32> {
    value.first_chunk().map(|bytes| u32::from_be_bytes(*bytes)).ok_or_else(malformed)
}

/// Reads the listener's port from the data of an iptables TPROXY target (`struct xt_tproxy_target_info`, and `_v1` for
/// revision 1).
pub(super) fn listener_of_target(revision: u32, info: &[u8]) -> Option<u16> {
    array_at(info, if revision == 0 { 12 } else { 24 }).map(u16::from_be_bytes)
}

/// True if the data of an iptables CT target ask for no tracking (`struct xt_ct_target_info`, `XT_CT_NOTRACK`).
pub(super) fn untracks(info: &[u8]) -> bool {
    array_at(info, 0).map(u16::from_ne_bytes).is_some_and(|flags| flags & 1 != 0)
}

/// The destination ports of a match of iptables' on TCP alone (`struct xt_tcp`); `None` if it asks for more.
pub(super) fn ports_of_match(info: &[u8]) -> Option<(u16, u16)> {
    let half = |at| array_at(info, at).map(u16::from_ne_bytes);
    let asks_more = info.get(8..12)?.iter().any(|byte| *byte != 0);
    (half(0)? == 0 && half(2)? == u16::MAX && !asks_more).then_some((half(4)?, half(6)?))
}

/// The effect of a rule on a packet that it matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PacketEffect {
    /// It goes on to the next rule, perhaps marked, counted, or changed in a field that Egret's rules do not look at.
    None,
    /// It goes through the chain.
    Jump(String),
    /// It goes back to where the chain was jumped to from.
    Return,
    /// It ends here, and does not get through.
    Drop,
    /// It gets through without meeting the rules that follow, or its addresses or tracking are changed.
    Take,
}

impl PacketEffect {
    /// That of a target of iptables', which is no chain; `untracks` is about the target CT.
    pub fn of_target(target: &str, untracks: bool) -> Self {
        match target {
            "MARK" | "CONNMARK" | "LOG" | "NFLOG" | "TRACE" | "TCPMSS" | "DSCP" | "CLASSIFY" | "CHECKSUM"
            | "TOS" | "TTL" | "HL" | "ECN" | "NOTRACK" => Self::None,
            "CT" if untracks => Self::None,
            "RETURN" => Self::Return,
            "DROP" | "REJECT" => Self::Drop,
            _ => Self::Take,
        }
    }
}

impl Ahead {
    /// A rule of which nothing is known but that it may take packets.
    pub fn taking() -> Self {
        Self {
            comes_by: None,
            known_only: false,
            invalid_too: false,
            is_narrow: false,
            ports: Vec::new(),
            effect: PacketEffect::Take,
        }
    }
}

/// A rule, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ahead {
    /// The one interface that it is about, or the pattern of them.
    pub comes_by: Option<String>,
    /// It is about connections that conntrack knows, or about packets that somebody has marked.
    pub known_only: bool,
    /// It is also about what conntrack calls invalid.
    pub invalid_too: bool,
    /// It is about some packets of an interface and a port only, or about another protocol than TCP.
    pub is_narrow: bool,
    /// The destination ports that it is about; none for all of them.
    pub ports: Vec<(u16, u16)>,
    /// On packets that it matches.
    pub effect: PacketEffect,
}
