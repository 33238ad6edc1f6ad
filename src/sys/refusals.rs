//! Refusal of connections at the SYN, by an nf_tables table that this process owns: the kernel removes it when the process
//! ends, and `nft flush ruleset` leaves it alone (`NFT_TABLE_F_OWNER`, Linux 5.12).
//!
//! Needs `CAP_NET_ADMIN` alone.

use super::netlink::{Netlink, attribute_of};
use super::packet_rules::{NF_TABLES, TableFamily, name};
use super::routing::IpFamily;
use expressions::{NftRule, number};
use nix::sys::socket::SockProtocol;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

mod expressions;

/// Longest wait for a transaction.
const PATIENCE: Duration = Duration::from_secs(5);
/// Name of the table.
const TABLE: &str = "egret_families";
/// `NFT_MSG_NEWTABLE` and so on.
const NEW_TABLE: u16 = NF_TABLES;
const DELETE_TABLE: u16 = NF_TABLES | 2;
const NEW_CHAIN: u16 = NF_TABLES | 3;
const NEW_RULE: u16 = NF_TABLES | 6;
const NEW_SET: u16 = NF_TABLES | 9;
const NEW_ELEMENTS: u16 = NF_TABLES | 0xc;
/// `NFT_TABLE_F_OWNER`
const OWNED: u32 = 2;
/// Before the rules that intercept (`NF_IP_PRI_MANGLE` is -150), after those that turn connection tracking off.
const PRIORITY: i32 = -151;
/// Most elements of a set in one message: an attribute is limited to 64 KiB.
const ELEMENTS: usize = 1000;

/// The packets that may be refused: those that steering intercepts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusalScope {
    /// Names of interfaces, or prefixes of names with a `+` or `*` at the end.
    pub interfaces: Vec<String>,
    /// First and last port of each range; `None` for every port.
    pub ports: Option<Vec<(u16, u16)>>,
}

/// Clients whose connections of one family are refused: disjoint address ranges (first, last) in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RefusedClients {
    /// Refused whatever the destination.
    pub everywhere: Vec<(IpAddr, IpAddr)>,
    /// Refused if there is no route to the destination.
    pub unrouted: Vec<(IpAddr, IpAddr)>,
}

impl RefusedClients {
    fn is_empty(&self) -> bool {
        self.everywhere.is_empty() && self.unrouted.is_empty()
    }
}

/// Owner of the table, which the kernel removes when this is dropped.
#[derive(Debug)]
pub struct Refusals {
    netlink: Netlink,
    in_place: bool,
    /// Connections that earlier tables refused.
    counted: [u64; 2],
}

impl Refusals {
    /// Refuses nothing until [`Refusals::put`] is called.
    pub fn new() -> io::Result<Self> {
        Ok(Self { netlink: Netlink::open(SockProtocol::NetlinkNetFilter)?, in_place: false, counted: [0; 2] })
    }

    /// Replaces the refusals, given for IPv4 and IPv6, in one transaction. After an error the former ones are in place.
    pub fn put(&mut self, scope: &RefusalScope, refused: [&RefusedClients; 2]) -> io::Result<()> {
        let counted = self.counted()?;
        let mut batch = Batch::default();
        if self.in_place {
            batch.add(DELETE_TABLE, 0, &name(1, TABLE));
        }
        let any = refused.iter().any(|refused| !refused.is_empty());
        if any {
            batch.table(scope, refused);
        }
        if any || self.in_place {
            self.netlink.transact(batch.messages, crate::clock::now() + PATIENCE)?;
        }
        (self.in_place, self.counted) = (any, counted);
        Ok(())
    }

    /// SYNs refused since the start, of IPv4 and IPv6; retries count.
    pub fn counted(&self) -> io::Result<[u64; 2]> {
        let mut counted = self.counted;
        if self.in_place {
            for (rule, chain) in ["refuse4", "refuse6"].into_iter().enumerate() {
                counted[rule] += super::packet_rules::counts::total(TableFamily::Inet, TABLE, chain)?;
            }
        }
        Ok(counted)
    }
}

/// The messages of one transaction.
#[derive(Debug, Default)]
struct Batch {
    messages: Vec<(u16, u16, Vec<u8>)>,
}

/// `NLM_F_CREATE`, and `NLM_F_APPEND` for rules.
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

impl Batch {
    fn add(&mut self, kind: u16, flags: u16, attributes: &[u8]) {
        let mut body = vec![TableFamily::Inet as u8, 0, 0, 0];
        body.extend(attributes);
        self.messages.push((kind, flags, body));
    }

    fn table(&mut self, scope: &RefusalScope, refused: [&RefusedClients; 2]) {
        self.add(NEW_TABLE, CREATE, &[name(1, TABLE), number(2, OWNED)].concat());
        for chain in ["steered", "dialled", "refuse4", "refuse6"] {
            self.add(NEW_CHAIN, CREATE, &[name(1, TABLE), name(3, chain)].concat());
        }
        let hook = attribute_of(4, &[number(1, 0), number(2, PRIORITY.cast_unsigned())].concat());
        let base = [name(1, TABLE), name(3, "arrived"), hook, number(5, 1), name(7, "filter")];
        self.add(NEW_CHAIN, CREATE, &base.concat());

        for interface in &scope.interfaces {
            self.rule("arrived", &NftRule::default().arriving_by(interface).jump("steered"));
        }
        match &scope.ports {
            None => self.rule("steered", &NftRule::default().tcp().jump("dialled")),
            Some(ranges) => {
                for (first, last) in ranges {
                    self.rule("steered", &NftRule::default().tcp().ports(*first, *last).jump("dialled"));
                }
            }
        }
        for (chain, family) in [("refuse4", IpFamily::V4), ("refuse6", IpFamily::V6)] {
            self.rule("dialled", &NftRule::default().syn().family(family).for_others().jump(chain));
        }
        for (family, refused) in IpFamily::ALL.into_iter().zip(refused) {
            let (chain, v) = match family {
                IpFamily::V4 => ("refuse4", '4'),
                IpFamily::V6 => ("refuse6", '6'),
            };
            for (set, clients, unrouted) in [
                (format!("everywhere{v}"), &refused.everywhere, false),
                (format!("unrouted{v}"), &refused.unrouted, true),
            ] {
                if clients.is_empty() {
                    continue;
                }
                self.set(&set, family, clients);
                let rule = NftRule::default().client_in(family, &set);
                let rule = if unrouted { rule.without_route() } else { rule };
                self.rule(chain, &rule.count().reset());
            }
        }
    }

    fn rule(&mut self, chain: &str, rule: &NftRule) {
        let body = [name(1, TABLE), name(2, chain), attribute_of(4, &rule.expressions())].concat();
        self.add(NEW_RULE, CREATE | APPEND, &body);
    }

    fn set(&mut self, set: &str, family: IpFamily, clients: &[(IpAddr, IpAddr)]) {
        const INTERVAL: u32 = 4;
        // nft's numbers of the types ipv4_addr and ipv6_addr, for `nft list`, and the length of a key
        let (shown, length) = match family {
            IpFamily::V4 => (7, 4),
            IpFamily::V6 => (8, 16),
        };
        let id = u32::try_from(self.messages.len()).unwrap_or(u32::MAX);
        let keys = [number(3, INTERVAL), number(4, shown), number(5, length), number(10, id)].concat();
        self.add(NEW_SET, CREATE, &[name(1, TABLE), name(2, set), keys].concat());
        let elements: Vec<_> = clients.iter().flat_map(|(first, last)| interval(*first, *last)).collect();
        for chunk in elements.chunks(ELEMENTS) {
            let body = [name(1, TABLE), name(2, set), attribute_of(3, &chunk.concat())].concat();
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
