//! Ways out of this machine from several source addresses.

use super::{IpFamily, LOCAL_TABLE, RouteDecision, routes, rules, way};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

/// Source addresses that are asked about.
pub const SOURCES: usize = 16;
/// Routes that are asked about.
const ROUTES: usize = 64;
/// Addresses of a route's network that are asked about: the machine may have the first ones itself.
const HOSTS: usize = 3;

/// The ways out of this machine from some source addresses. In doubt there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaysOut {
    /// From one of them to everywhere.
    Default,
    /// From one of them to some networks; to everywhere from other addresses alone.
    SomeNetworks,
    /// None: a rule of policy routing keeps them from the default route that other addresses have.
    RuledOut,
    /// None to everywhere from any address.
    NoDefault,
}

/// Looks up the ways out from source addresses. Those that are not local say nothing of routes that go by them.
pub fn ways_out(family: IpFamily, sources: impl Iterator<Item = IpAddr>) -> WaysOut {
    of_lookups(family, sources, &|to, from| way(to, from, None).ok(), || networks(family))
}

/// By lookups, which may not be known; `networks` are those with routes.
fn of_lookups(
    family: IpFamily,
    sources: impl Iterator<Item = IpAddr>,
    way: &dyn Fn(IpAddr, Option<IpAddr>) -> Option<RouteDecision>,
    networks: impl FnOnce() -> io::Result<Vec<IpNet>>,
) -> WaysOut {
    let is_none = |way: Option<RouteDecision>| way == Some(RouteDecision::Nowhere);
    let mut without = Vec::new();
    for source in sources.take(SOURCES).filter(|source| way(*source, None) == Some(RouteDecision::Local)) {
        if !is_none(way(family.far(), Some(source))) {
            return WaysOut::Default;
        }
        without.push(source);
    }
    let from_any = way(family.far(), None);
    if without.is_empty() {
        return if is_none(from_any) { WaysOut::NoDefault } else { WaysOut::Default };
    }
    if from_any != Some(RouteDecision::Out) {
        return WaysOut::NoDefault;
    }
    let leads_to = |network: &IpNet| {
        without.iter().any(|source| {
            let mut ways = network.hosts().take(HOSTS).map(|host| way(host, Some(*source)));
            ways.find(|way| *way != Some(RouteDecision::Local)).is_some_and(|way| !is_none(way))
        })
    };
    match networks() {
        Ok(networks) if !networks.iter().any(leads_to) => WaysOut::RuledOut,
        Ok(_) | Err(_) => WaysOut::SomeNetworks,
    }
}

/// Networks that the routes of all tables lead to, but for default routes. An error if there are more than [`ROUTES`].
fn networks(family: IpFamily) -> io::Result<Vec<IpNet>> {
    let tables: BTreeSet<u32> = rules(family)?.iter().map(|rule| rule.table).collect();
    let mut found = Vec::new();
    for table in tables.into_iter().filter(|table| ![0, LOCAL_TABLE].contains(table)) {
        routes(family, table, libc::RTN_UNICAST, |network, _| {
            if network.prefix_len() > 0 {
                found.push(network);
            }
            if found.len() > ROUTES { Err(io::Error::other("too many routes")) } else { Ok(()) }
        })?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::RouteDecision::{Local, Nowhere, Out};
    use super::*;

    /// Asked for two sources of a machine with some networks; lookups by destination and last byte of the source.
    fn found(way: impl Fn(&str, u8) -> Option<RouteDecision>, networks: io::Result<Vec<IpNet>>) -> WaysOut {
        let sources = [1, 2].map(|n| IpAddr::from([203, 0, 113, n]));
        let last = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(_) => 0,
        };
        let ask = |to: IpAddr, from: Option<IpAddr>| {
            let to = if to == IpFamily::V4.far() { "far".to_owned() } else { to.to_string() };
            way(&to, from.map_or(0, last))
        };
        of_lookups(IpFamily::V4, sources.into_iter(), &ask, || networks)
    }

    #[test]
    fn doubt_leaves_a_way_out() {
        let far = |any, first, second| {
            let way = move |to: &str, from| match (to, from) {
                ("far", 0) => any,
                ("far", 1) => first,
                ("far", _) => second,
                _ => Some(Local),
            };
            found(way, Ok(Vec::new()))
        };
        let (out, nowhere) = (Some(Out), Some(Nowhere));
        for (any, first, second, expected) in [
            (out, nowhere, nowhere, WaysOut::RuledOut),
            (out, nowhere, out, WaysOut::Default),
            (out, nowhere, None, WaysOut::Default),
            (out, Some(Local), nowhere, WaysOut::Default),
            (nowhere, nowhere, nowhere, WaysOut::NoDefault),
            (None, nowhere, nowhere, WaysOut::NoDefault),
            (nowhere, out, nowhere, WaysOut::Default),
        ] {
            assert_eq!(far(any, first, second), expected, "{any:?}, {first:?}, {second:?}");
        }
        // No source is local.
        for (any, expected) in
            [(out, WaysOut::Default), (None, WaysOut::Default), (nowhere, WaysOut::NoDefault)]
        {
            let way = |to: &str, from| if (to, from) == ("far", 0) { any } else { nowhere };
            assert_eq!(found(way, Ok(Vec::new())), expected, "{any:?}");
        }
    }

    #[test]
    fn route_to_one_network_is_seen() {
        let to = |network: Option<RouteDecision>| {
            let way = move |to: &str, from| match (to, from) {
                ("far", 0) => Some(Out),
                ("far", _) => Some(Nowhere),
                ("198.51.100.2", 2) => network,
                // the machine's own address
                ("198.51.100.1", _) | (_, 0) => Some(Local),
                _ => Some(Nowhere),
            };
            found(way, Ok(vec!["198.51.100.0/24".parse().unwrap()]))
        };
        assert_eq!(to(Some(Nowhere)), WaysOut::RuledOut);
        assert_eq!(to(Some(Out)), WaysOut::SomeNetworks);
        assert_eq!(to(None), WaysOut::SomeNetworks);
        let ruled = |to: &str, from| match (to, from) {
            ("far", 0) => Some(Out),
            ("far", _) => Some(Nowhere),
            _ => Some(Local),
        };
        assert_eq!(found(ruled, Err(io::ErrorKind::TimedOut.into())), WaysOut::SomeNetworks);
    }
}
