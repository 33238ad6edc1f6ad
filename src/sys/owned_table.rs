//! An nf_tables table that this process owns: the kernel removes it when the process ends, and `nft flush ruleset` leaves it
//! alone (`NFT_TABLE_F_OWNER`, Linux 5.12).
//!
//! Needs `CAP_NET_ADMIN` alone.

use super::netlink::{Netlink, attribute_of};
use super::packet_rules::{NF_TABLES, TableFamily, name};
use crate::family::Family;
use expressions::number;
use nix::sys::socket::SockProtocol;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

mod expressions;

pub(super) use expressions::NftRule;

/// Longest wait for a transaction.
const PATIENCE: Duration = Duration::from_secs(5);
/// `NFT_MSG_NEWTABLE` and so on.
const NEW_TABLE: u16 = NF_TABLES;
const DELETE_TABLE: u16 = NF_TABLES | 2;
const NEW_CHAIN: u16 = NF_TABLES | 3;
const NEW_RULE: u16 = NF_TABLES | 6;
const NEW_SET: u16 = NF_TABLES | 9;
const NEW_ELEMENTS: u16 = NF_TABLES | 0xc;
/// `NFT_TABLE_F_OWNER`
const OWNED: u32 = 2;
/// Most elements of a set in one message: an attribute is limited to 64 KiB.
const ELEMENTS: usize = 1000;
/// `NLM_F_CREATE`, and `NLM_F_APPEND` for rules.
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

/// Place of a chain that packets enter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChainPlace {
    /// `NF_INET_PRE_ROUTING` and so on.
    pub(super) hook: u32,
    pub(super) priority: i32,
}

impl ChainPlace {
    /// `NF_INET_PRE_ROUTING`
    pub(super) const ARRIVED: u32 = 0;
    /// `NF_INET_LOCAL_OUT`
    pub(super) const SENT: u32 = 3;
}

/// Owner of a table, which the kernel removes when this is dropped.
#[derive(Debug)]
pub(super) struct OwnedTable {
    netlink: Netlink,
    name: &'static str,
    in_place: bool,
}

impl OwnedTable {
    /// There is no table until [`OwnedTable::put`] is called.
    pub(super) fn new(name: &'static str) -> io::Result<Self> {
        Ok(Self { netlink: Netlink::open(SockProtocol::NetlinkNetFilter)?, name, in_place: false })
    }

    pub(super) fn is_in_place(&self) -> bool {
        self.in_place
    }

    /// Replaces the table in one transaction; `None` removes it. After an error the former one is in place.
    pub(super) fn put(&mut self, fill: Option<impl FnOnce(&mut TableContent)>) -> io::Result<()> {
        let mut content = TableContent { table: self.name, messages: Vec::new() };
        if self.in_place {
            content.add(DELETE_TABLE, 0, &name(1, self.name));
        }
        let wanted = fill.is_some();
        if let Some(fill) = fill {
            content.add(NEW_TABLE, CREATE, &[name(1, self.name), number(2, OWNED)].concat());
            fill(&mut content);
        }
        if !content.messages.is_empty() {
            self.netlink.transact(content.messages, crate::clock::now() + PATIENCE)?;
        }
        self.in_place = wanted;
        Ok(())
    }
}

/// The content of a table, as the messages of one transaction.
#[derive(Debug)]
pub(super) struct TableContent {
    table: &'static str,
    messages: Vec<(u16, u16, Vec<u8>)>,
}

impl TableContent {
    fn add(&mut self, kind: u16, flags: u16, attributes: &[u8]) {
        let mut body = vec![TableFamily::Inet as u8, 0, 0, 0];
        body.extend(attributes);
        self.messages.push((kind, flags, body));
    }

    /// A chain that packets enter by jumps.
    pub(super) fn chain(&mut self, chain: &str) {
        self.add(NEW_CHAIN, CREATE, &[name(1, self.table), name(3, chain)].concat());
    }

    /// A chain that packets enter by a hook, and leave unharmed.
    pub(super) fn base_chain(&mut self, chain: &str, place: ChainPlace) {
        let place = [number(1, place.hook), number(2, place.priority.cast_unsigned())].concat();
        let hook = attribute_of(4, &place);
        let base = [name(1, self.table), name(3, chain), hook, number(5, 1), name(7, "filter")];
        self.add(NEW_CHAIN, CREATE, &base.concat());
    }

    pub(super) fn rule(&mut self, chain: &str, rule: &NftRule) {
        let body = [name(1, self.table), name(2, chain), attribute_of(4, &rule.expressions())].concat();
        self.add(NEW_RULE, CREATE | APPEND, &body);
    }

    /// A set of addresses: disjoint ranges (first, last) in order that do not touch.
    pub(super) fn set(&mut self, set: &str, family: Family, ranges: &[(IpAddr, IpAddr)]) {
        const INTERVAL: u32 = 4;
        // nft's numbers of the types ipv4_addr and ipv6_addr, for `nft list`, and the length of a key
        let (shown, length) = match family {
            Family::V4 => (7, 4),
            Family::V6 => (8, 16),
        };
        let id = u32::try_from(self.messages.len()).unwrap_or(u32::MAX);
        let keys = [number(3, INTERVAL), number(4, shown), number(5, length), number(10, id)].concat();
        self.add(NEW_SET, CREATE, &[name(1, self.table), name(2, set), keys].concat());
        let elements: Vec<_> = ranges.iter().flat_map(|(first, last)| interval(*first, *last)).collect();
        for chunk in elements.chunks(ELEMENTS) {
            let body = [name(1, self.table), name(2, set), attribute_of(3, &chunk.concat())].concat();
            self.add(NEW_ELEMENTS, CREATE, &body);
        }
    }
}

/// `NFT_SET_ELEM_INTERVAL_END`
const INTERVAL_END: u32 = 1;

/// The elements of an interval: its start, and an end marker behind it unless it reaches to the family's last address.
fn interval(first: IpAddr, last: IpAddr) -> impl Iterator<Item = Vec<u8>> {
    let end = match last {
        IpAddr::V4(last) => u32::from(last).checked_add(1).map(|end| end.to_be_bytes().to_vec()),
        IpAddr::V6(last) => u128::from(last).checked_add(1).map(|end| end.to_be_bytes().to_vec()),
    };
    let first = match first {
        IpAddr::V4(first) => first.octets().to_vec(),
        IpAddr::V6(first) => first.octets().to_vec(),
    };
    let element = |key: Vec<u8>, flags: u32| {
        let key = attribute_of(1, &attribute_of(1, &key));
        let flags = if flags == 0 { Vec::new() } else { number(3, flags) };
        attribute_of(1, &[key, flags].concat())
    };
    std::iter::once(element(first, 0)).chain(end.map(|end| element(end, INTERVAL_END)))
}
