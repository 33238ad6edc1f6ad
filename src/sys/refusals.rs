//! Refusal of connections at the SYN, by a table that this process owns.

use super::owned_table::{ChainPlace, NftRule, OwnedTable, TableContent};
use super::packet_rules::TableFamily;
use crate::family::Family;
use std::io;
use std::net::IpAddr;

/// Name of the table.
const TABLE: &str = "egret_families";
/// Before the rules that intercept (`NF_IP_PRI_MANGLE` is -150), after those that turn connection tracking off.
const PLACE: ChainPlace = ChainPlace { hook: ChainPlace::ARRIVED, priority: -151 };

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
    table: OwnedTable,
    /// Connections that earlier tables refused.
    counted: [u64; 2],
}

impl Refusals {
    /// Refuses nothing until [`Refusals::put`] is called.
    pub fn new() -> io::Result<Self> {
        Ok(Self { table: OwnedTable::new(TABLE)?, counted: [0; 2] })
    }

    /// Replaces the refusals, given for IPv4 and IPv6, in one transaction. After an error the former ones are in place.
    pub fn put(&mut self, scope: &RefusalScope, refused: [&RefusedClients; 2]) -> io::Result<()> {
        let counted = self.counted()?;
        let any = refused.iter().any(|refused| !refused.is_empty());
        self.table.put(any.then_some(|content: &mut TableContent| fill(content, scope, refused)))?;
        self.counted = counted;
        Ok(())
    }

    /// SYNs refused since the start, of IPv4 and IPv6; retries count.
    pub fn counted(&self) -> io::Result<[u64; 2]> {
        let mut counted = self.counted;
        if self.table.is_in_place() {
            for (rule, chain) in ["refuse4", "refuse6"].into_iter().enumerate() {
                counted[rule] += super::packet_rules::counts::total(TableFamily::Inet, TABLE, chain)?;
            }
        }
        Ok(counted)
    }
}

fn fill(content: &mut TableContent, scope: &RefusalScope, refused: [&RefusedClients; 2]) {
    for chain in ["steered", "dialled", "refuse4", "refuse6"] {
        content.chain(chain);
    }
    content.base_chain("arrived", PLACE);
    for interface in &scope.interfaces {
        content.rule("arrived", &NftRule::default().arriving_by(interface).jump("steered"));
    }
    match &scope.ports {
        None => content.rule("steered", &NftRule::default().tcp().jump("dialled")),
        Some(ranges) => {
            for (first, last) in ranges {
                content
                    .rule("steered", &NftRule::default().tcp().sent_to_ports(*first, *last).jump("dialled"));
            }
        }
    }
    for (chain, family) in [("refuse4", Family::V4), ("refuse6", Family::V6)] {
        content.rule("dialled", &NftRule::default().syn().family(family).for_others().jump(chain));
    }
    for (family, refused) in Family::ALL.into_iter().zip(refused) {
        let (chain, v) = match family {
            Family::V4 => ("refuse4", '4'),
            Family::V6 => ("refuse6", '6'),
        };
        for (set, clients, unrouted) in [
            (format!("everywhere{v}"), &refused.everywhere, false),
            (format!("unrouted{v}"), &refused.unrouted, true),
        ] {
            if clients.is_empty() {
                continue;
            }
            content.set(&set, family, clients);
            let rule = NftRule::default().sent_by_one_of(family, &set);
            let rule = if unrouted { rule.without_route() } else { rule };
            content.rule(chain, &rule.count().reset());
        }
    }
}
