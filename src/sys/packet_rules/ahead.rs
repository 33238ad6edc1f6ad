//! Effect of a rule of nf_tables on packets, by its expressions.

use super::rule::{self, Ahead, PacketEffect, be32};
use crate::sys::netlink::{array_at, attribute, attributes, text, u32_at};

/// The rule's effect, and on whose packets, as far as its expressions tell.
pub(super) fn ahead(rule: &[u8]) -> Ahead {
    let mut found = Ahead { effect: PacketEffect::None, ..Ahead::taking() };
    let mut loaded = None;
    for (_, expression) in attributes(attribute(rule, 4).unwrap_or_default()) {
        let kind = attribute(expression, 1).map(text).unwrap_or_default();
        let data = attribute(expression, 2).unwrap_or_default();
        let number = |kind| attribute(data, kind).and_then(|value| be32(value).ok());
        let name = || attribute(data, 1).map(text).unwrap_or_default();
        let before = std::mem::take(&mut loaded);
        match &*kind {
            "meta" => loaded = number(2).and_then(LoadedField::of_meta),
            // NFTA_PAYLOAD_BASE, NFTA_PAYLOAD_OFFSET, NFTA_PAYLOAD_LEN
            "payload" => loaded = LoadedField::of_payload(number(2), number(3), number(4)),
            "bitwise" => loaded = before,
            // NFTA_CMP_OP: equal
            "cmp" => {
                let value = attribute(data, 3).and_then(|data| attribute(data, 1)).unwrap_or_default();
                match (before, number(2) == Some(0)) {
                    (Some(LoadedField::Mark), true) => {
                        found.known_only |= value.iter().any(|byte| *byte != 0);
                    }
                    (Some(LoadedField::Interface), true) => {
                        let pattern = if value.contains(&0) { "" } else { "*" };
                        found.comes_by = Some(text(value) + pattern);
                    }
                    (Some(LoadedField::Protocol), true) => found.is_narrow |= value.first() != Some(&6),
                    (Some(LoadedField::Port), true) => {
                        found
                            .ports
                            .extend(array_at(value, 0).map(u16::from_be_bytes).map(|port| (port, port)));
                    }
                    (Some(LoadedField::Interface), false) => {}
                    (Some(LoadedField::Mark | LoadedField::Protocol | LoadedField::Port), false)
                    | (None, _) => found.is_narrow = true,
                }
            }
            "match" => {
                let info = attribute(data, 3).unwrap_or_default();
                let (known, invalid) = is_of_known(&name(), info);
                found.known_only |= known;
                found.invalid_too |= invalid;
                match &*name() {
                    "tcp" => match rule::ports_of_match(info) {
                        Some(ports) => found.ports.push(ports),
                        None => found.is_narrow = true,
                    },
                    "comment" | "conntrack" => {}
                    _ => found.is_narrow = true,
                }
            }
            "counter" | "log" | "last" | "notrack" => {}
            "immediate" => found.effect = verdict(data).unwrap_or(found.effect),
            "target" => {
                let untracks = rule::untracks(attribute(data, 3).unwrap_or_default());
                found.effect = PacketEffect::of_target(&name(), untracks);
            }
            "reject" => found.effect = PacketEffect::Drop,
            "nat" | "masq" | "redir" | "tproxy" | "queue" | "fwd" | "synproxy" => {
                found.effect = PacketEffect::Take;
            }
            _ => found.is_narrow = true,
        }
    }
    found
}

/// True if the rule compares source or destination addresses with others that they must be.
pub(super) fn is_by_address(rule: &[u8]) -> bool {
    let (mut loaded, mut found) = (false, false);
    for (_, expression) in attributes(attribute(rule, 4).unwrap_or_default()) {
        let kind = attribute(expression, 1).map(text).unwrap_or_default();
        let data = attribute(expression, 2).unwrap_or_default();
        let number = |kind| attribute(data, kind).and_then(|value| be32(value).ok());
        let is_negated = match &*kind {
            "payload" => {
                loaded |= is_address(number(2), number(3), number(4));
                continue;
            }
            // NFT_CMP_NEQ, NFT_RANGE_NEQ
            "cmp" | "range" => number(2) == Some(1),
            // NFTA_LOOKUP_FLAGS: NFT_LOOKUP_F_INV
            "lookup" => number(5).is_some_and(|flags| flags & 1 != 0),
            _ => continue,
        };
        if std::mem::take(&mut loaded) {
            if is_negated {
                return false;
            }
            found = true;
        }
    }
    found
}

/// True for the addresses of the network header, or a part of them. IPv4 has TTL, protocol and checksum where those of IPv6
/// begin; the TTL cannot be told from the first byte of a source.
fn is_address(base: Option<u32>, offset: Option<u32>, length: Option<u32>) -> bool {
    base == Some(1)
        && offset.is_some_and(|offset| offset >= 8)
        && !matches!((offset, length), (Some(9), Some(1)) | (Some(10), Some(2)))
}

/// Content of a register, for the comparison that follows.
#[derive(Debug, Clone, Copy)]
enum LoadedField {
    Mark,
    /// The name of the interface that the packet arrives on.
    Interface,
    Protocol,
    /// TCP's destination port.
    Port,
}

impl LoadedField {
    /// By `NFTA_META_KEY`.
    fn of_meta(key: u32) -> Option<Self> {
        match key {
            3 => Some(Self::Mark),
            6 => Some(Self::Interface),
            16 => Some(Self::Protocol),
            _ => None,
        }
    }

    fn of_payload(base: Option<u32>, offset: Option<u32>, length: Option<u32>) -> Option<Self> {
        match (base?, offset?, length?) {
            (2, 2, 2) => Some(Self::Port),
            // IPv4 and IPv6
            (1, 9 | 6, 1) => Some(Self::Protocol),
            _ => None,
        }
    }
}

/// Facts of a match of iptables (`struct xt_conntrack_mtinfo3`, `struct xt_mark_mtinfo1`): true if it is for known or marked
/// packets, and true if it is for invalid ones.
fn is_of_known(name: &str, info: &[u8]) -> (bool, bool) {
    // XT_CONNTRACK_STATE, XT_CONNTRACK_STATE_INVALID, XT_CONNTRACK_STATE_UNTRACKED
    const STATE: u16 = 1;
    const INVALID: u16 = 1;
    const UNTRACKED: u16 = 1 << 8;
    let half = |at| array_at(info, at).map(u16::from_ne_bytes).unwrap_or_default();
    match name {
        "conntrack" => {
            let by_state = half(146) & !half(148) & STATE != 0;
            (by_state && half(150) & UNTRACKED == 0, by_state && half(150) & INVALID != 0)
        }
        "mark" => (u32_at(info, 0).is_some_and(|mark| mark != 0) && info.get(8) == Some(&0), false),
        _ => (false, false),
    }
}

/// `NFTA_IMMEDIATE_DATA`, `NFTA_DATA_VERDICT`, `NFTA_VERDICT_CODE` and `NFTA_VERDICT_CHAIN`.
fn verdict(data: &[u8]) -> Option<PacketEffect> {
    let verdict = attribute(attribute(data, 2)?, 2)?;
    Some(match be32(attribute(verdict, 1)?).ok()?.cast_signed() {
        -1 => PacketEffect::None,
        -3 | -4 => PacketEffect::Jump(attribute(verdict, 2).map(text)?),
        -5 => PacketEffect::Return,
        0 => PacketEffect::Drop,
        _ => PacketEffect::Take,
    })
}
