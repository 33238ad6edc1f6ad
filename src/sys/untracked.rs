//! Keeps connection tracking off what the pools send and are sent, by a table that this process owns: NAT leaves alone what is
//! not tracked.

use super::owned_table::{ChainPlace, NftRule, OwnedTable, TableContent};
use crate::family::Family;
use std::io;
use std::net::IpAddr;

/// Name of the table.
const TABLE: &str = "egret_untracked";
/// `NF_IP_PRI_RAW`: connection tracking comes next.
const PRIORITY: i32 = -300;

/// Addresses whose packets from and to some ports are not tracked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UntrackedRange {
    /// First and last port.
    pub ports: (u16, u16),
    /// Addresses of IPv4 and IPv6: disjoint ranges (first, last) in order that do not touch.
    pub addresses: [Vec<(IpAddr, IpAddr)>; 2],
}

/// Owner of the table, which the kernel removes when this is dropped.
#[derive(Debug)]
pub struct Untracked(OwnedTable);

impl Untracked {
    /// Has no effect until [`Untracked::put`] is called.
    pub fn new() -> io::Result<Self> {
        Ok(Self(OwnedTable::new(TABLE)?))
    }

    /// Replaces the addresses in one transaction. After an error the former ones are in place.
    pub fn put(&mut self, ranges: &[UntrackedRange]) -> io::Result<()> {
        self.0.put((!ranges.is_empty()).then_some(|content: &mut TableContent| fill(content, ranges)))
    }
}

fn fill(content: &mut TableContent, ranges: &[UntrackedRange]) {
    content.base_chain("arrived", ChainPlace { hook: ChainPlace::ARRIVED, priority: PRIORITY });
    content.base_chain("sent", ChainPlace { hook: ChainPlace::SENT, priority: PRIORITY });
    for (UntrackedRange { ports, addresses }, number) in ranges.iter().zip(1..) {
        for (family, addresses) in Family::ALL.into_iter().zip(addresses) {
            if addresses.is_empty() {
                continue;
            }
            let set = match family {
                Family::V4 => format!("pool{number}v4"),
                Family::V6 => format!("pool{number}v6"),
            };
            content.set(&set, family, addresses);
            let rule = || NftRule::default().family(family).tcp();
            let (first, last) = *ports;
            let arrived = rule().sent_to_ports(first, last).sent_to_one_of(family, &set);
            content.rule("arrived", &arrived.untrack());
            content.rule("sent", &rule().sent_from_ports(first, last).sent_by_one_of(family, &set).untrack());
        }
    }
}
