//! Rules of policy routing.

use super::{HEADER, header, list};
use crate::family::Family;
use crate::sys::netlink::{array_at, attribute, text, u32_at};
use ipnet::IpNet;
use std::io;
use std::net::IpAddr;

/// `FRA_SRC`, `FRA_IIFNAME`, `FRA_GOTO`, `FRA_PRIORITY`, `FRA_FWMARK`, `FRA_TABLE`, `FRA_FWMASK`, `FRA_OIFNAME`, `FRA_L3MDEV`,
/// `FRA_PROTOCOL`, `FRA_IP_PROTO`, `FRA_SPORT_RANGE`, `FRA_DPORT_RANGE` of linux/fib_rules.h
const RULE_SOURCE: u16 = 2;
const RULE_INTERFACE: u16 = 3;
const RULE_TARGET: u16 = 4;
const RULE_PRIORITY: u16 = 6;
const RULE_MARK: u16 = 10;
const RULE_TABLE: u16 = 15;
const RULE_MASK: u16 = 16;
const RULE_OUTPUT: u16 = 17;
const RULE_VRF: u16 = 19;
const RULE_PROTOCOL: u16 = 21;
const RULE_IP_PROTOCOL: u16 = 22;
const RULE_SOURCE_PORTS: u16 = 23;
const RULE_PORTS: u16 = 24;
/// `FR_ACT_TO_TBL`, `FR_ACT_GOTO`, `FR_ACT_NOP`, `FR_ACT_BLACKHOLE`, `FR_ACT_UNREACHABLE`, `FR_ACT_PROHIBIT`, and the flag
/// `FIB_RULE_INVERT`.
const LOOK_UP: u8 = 1;
const GO_TO: u8 = 2;
const NOTHING: u8 = 3;
const BLACKHOLE: u8 = 6;
const UNREACHABLE: u8 = 7;
const PROHIBIT: u8 = 8;
const INVERTED: u32 = 2;

/// A rule of policy routing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of the kernel's structure")]
pub struct RoutingRule {
    /// The position among the rules; lower ones are asked first.
    pub priority: u32,
    /// The source network that the rule matches, if any.
    pub source: Option<IpNet>,
    /// The input interface that the rule matches, if any.
    pub interface: Option<String>,
    /// The mark that the rule matches and its mask, if any.
    pub mark: Option<(u32, u32)>,
    /// The table to look packets up in; 0 if the rule has another action.
    pub table: u32,
    /// The origin of the rule (`FRA_PROTOCOL`).
    pub protocol: u8,
    /// The protocol and ports that it is about, and its action, in the syntax of `ip rule`.
    pub rest: String,
    /// It looks packets up in a table or skips rules, and does not refuse.
    pub leads_on: bool,
    /// It is for some destinations only.
    pub has_destination: bool,
    /// It is for some output interfaces or VRFs only.
    pub is_narrow: bool,
    /// It is for what it does not match (`not`).
    pub inverted: bool,
}

/// Lists every rule of a family.
pub fn rules(family: Family) -> io::Result<Vec<RoutingRule>> {
    let mut rules = Vec::new();
    list(libc::RTM_GETRULE, &header(family, 0, 0), |body| {
        let value = |kind| attribute(body.get(HEADER..).unwrap_or_default(), kind);
        let number = |kind| value(kind).and_then(|value| u32_at(value, 0));
        let byte = |at: usize| body.get(at).copied().unwrap_or_default();
        // The header has one byte for the table; larger numbers are in an attribute only.
        let table = number(RULE_TABLE).or(body.get(4).copied().map(u32::from)).unwrap_or_default();
        let action = match byte(7) {
            LOOK_UP => format!("lookup {table}"),
            GO_TO => format!("goto {}", number(RULE_TARGET).unwrap_or_default()),
            NOTHING => "nop".to_owned(),
            BLACKHOLE => "blackhole".to_owned(),
            UNREACHABLE => "unreachable".to_owned(),
            PROHIBIT => "prohibit".to_owned(),
            other => other.to_string(),
        };
        let protocol = value(RULE_IP_PROTOCOL).and_then(|value| value.first());
        let parts = [
            protocol.map(|protocol| format!("ipproto {protocol}")),
            value(RULE_SOURCE_PORTS).and_then(ports).map(|ports| format!("sport {ports}")),
            value(RULE_PORTS).and_then(ports).map(|ports| format!("dport {ports}")),
            Some(action),
        ];
        rules.push(RoutingRule {
            rest: parts.into_iter().flatten().collect::<Vec<_>>().join(" "),
            priority: number(RULE_PRIORITY).unwrap_or_default(),
            source: value(RULE_SOURCE).and_then(|address| prefix(address, byte(2))),
            leads_on: matches!(byte(7), LOOK_UP | GO_TO),
            has_destination: byte(1) > 0,
            is_narrow: value(RULE_OUTPUT).is_some() || value(RULE_VRF).is_some_and(|on| on != [0]),
            inverted: u32_at(body, 8).unwrap_or_default() & INVERTED != 0,
            interface: value(RULE_INTERFACE).map(text),
            mark: number(RULE_MARK).map(|mark| (mark, number(RULE_MASK).unwrap_or(u32::MAX))),
            table,
            protocol: value(RULE_PROTOCOL).and_then(|value| value.first().copied()).unwrap_or_default(),
        });
        Ok(())
    })?;
    Ok(rules)
}

/// `struct fib_rule_port_range`, as `ip rule` takes it.
fn ports(range: &[u8]) -> Option<String> {
    let [first, last] = [0, 2].map(|at| array_at::<2>(range, at).map(u16::from_ne_bytes));
    let (first, last) = (first?, last?);
    Some(if first == last { first.to_string() } else { format!("{first}-{last}") })
}

fn prefix(address: &[u8], length: u8) -> Option<IpNet> {
    let address = match address.len() {
        4 => IpAddr::from(array_at::<4>(address, 0)?),
        _ => IpAddr::from(array_at::<16>(address, 0)?),
    };
    IpNet::new(address, length).ok()
}
