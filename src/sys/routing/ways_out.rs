//! Ways out of this machine from several source addresses.

use super::{LOCAL_TABLE, RouteDecision, RoutingRule, far_address, routes, rules, way};
use crate::family::Family;
use ipnet::IpNet;
use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::rc::Rc;

/// Source addresses that are asked about.
pub const SOURCES: usize = 16;
/// Routes of a table that are asked about.
const ROUTES: usize = 64;
/// Addresses of a route's network that are asked about: the machine may have the first ones itself.
const HOSTS: usize = 3;

/// The ways out of this machine from some source addresses. In doubt there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaysOut {
    /// From one of them to everywhere.
    Default,
    /// From one of them to some networks, to which the way cannot be told by the destination alone.
    SomeNetworks,
    /// None: a rule of policy routing keeps them from the default route that other addresses have.
    RuledOut,
    /// None to everywhere from any address; to some networks at most, whatever the source.
    NoDefault,
}

/// Rules and routes at one time, each list read once, when it is first needed.
#[derive(Debug, Default)]
pub struct RoutingTables {
    rules: [OnceCell<Option<Vec<RoutingRule>>>; 2],
    networks: RefCell<BTreeMap<(Family, u32), TableNetworks>>,
}

/// Networks of a table; `None` if they are not known, or more than [`ROUTES`].
type TableNetworks = Option<Rc<[IpNet]>>;

/// The tables whose routes are asked about.
#[derive(Debug, Clone, Copy)]
enum TablesOf<'s> {
    /// Every source address.
    All,
    /// These source addresses, and not every other one.
    Alone(&'s [IpAddr]),
}

impl RoutingTables {
    /// Looks up the ways out from source addresses. Those that are not local say nothing of routes that go by them.
    pub fn ways_out(&self, family: Family, sources: impl Iterator<Item = IpAddr>) -> WaysOut {
        of_lookups(family, sources, &|to, from| way(to, from, None).ok(), |of| self.networks(family, of))
    }

    /// Networks that the routes of tables lead to, but for default routes; `None` if they are not known.
    fn networks(&self, family: Family, of: TablesOf<'_>) -> Option<Vec<IpNet>> {
        let rules = self.rules[usize::from(family == Family::V6)].get_or_init(|| rules(family).ok());
        let tables = tables(rules.as_deref()?, of).into_iter();
        let networks: Option<Vec<_>> = tables.map(|table| self.networks_of(family, table)).collect();
        Some(networks?.iter().flat_map(|networks| networks.iter().copied()).collect())
    }

    fn networks_of(&self, family: Family, table: u32) -> TableNetworks {
        let mut known = self.networks.borrow_mut();
        known.entry((family, table)).or_insert_with(|| networks(family, table).ok().map(Into::into)).clone()
    }
}

/// The tables that rules look packets up in, without the `local` table.
fn tables(rules: &[RoutingRule], of: TablesOf<'_>) -> BTreeSet<u32> {
    let looks_up = |rule: &&RoutingRule| ![0, LOCAL_TABLE].contains(&rule.table);
    let all = rules.iter().filter(looks_up);
    let TablesOf::Alone(sources) = of else { return all.map(|rule| rule.table).collect() };
    let is_of_all = |rule: &&RoutingRule| {
        let by_packet = rule.source.is_some() || rule.interface.is_some() || rule.mark.is_some();
        !by_packet
            && !rule.has_destination
            && !rule.is_narrow
            && rule.rest == format!("lookup {}", rule.table)
    };
    let is_of_sources = |rule: &&RoutingRule| {
        let matches =
            |network: &IpNet| sources.iter().any(|source| network.contains(source) != rule.inverted);
        rule.source.as_ref().is_some_and(matches)
    };
    let of_all: BTreeSet<_> = all.clone().filter(is_of_all).map(|rule| rule.table).collect();
    all.filter(is_of_sources).map(|rule| rule.table).filter(|table| !of_all.contains(table)).collect()
}

/// By lookups, which may not be known; `networks` are those with routes.
fn of_lookups(
    family: Family,
    sources: impl Iterator<Item = IpAddr>,
    way: &dyn Fn(IpAddr, Option<IpAddr>) -> Option<RouteDecision>,
    networks: impl FnOnce(TablesOf<'_>) -> Option<Vec<IpNet>>,
) -> WaysOut {
    let is_none = |way: Option<RouteDecision>| way == Some(RouteDecision::Nowhere);
    let mut without = Vec::new();
    for source in sources.take(SOURCES).filter(|source| way(*source, None) == Some(RouteDecision::Local)) {
        if !is_none(way(far_address(family), Some(source))) {
            return WaysOut::Default;
        }
        without.push(source);
    }
    let from_any = way(far_address(family), None);
    if without.is_empty() {
        return if is_none(from_any) { WaysOut::NoDefault } else { WaysOut::Default };
    }
    let others_have_one = from_any == Some(RouteDecision::Out);
    let leads_to = |network: &IpNet| {
        without.iter().any(|source| {
            let ways = network.hosts().take(HOSTS).map(|host| (host, way(host, Some(*source))));
            let mut ways = ways.filter(|(_, way)| *way != Some(RouteDecision::Local));
            let reached = ways.next().filter(|(_, way)| !is_none(*way));
            reached.is_some_and(|(host, _)| others_have_one || is_none(way(host, None)))
        })
    };
    let (tables, nowhere) = if others_have_one {
        (TablesOf::All, WaysOut::RuledOut)
    } else {
        (TablesOf::Alone(&without), WaysOut::NoDefault)
    };
    match networks(tables) {
        Some(networks) if !networks.iter().any(leads_to) => nowhere,
        Some(_) | None => WaysOut::SomeNetworks,
    }
}

/// Networks that the routes of a table lead to, but for default routes. An error if there are more than [`ROUTES`].
fn networks(family: Family, table: u32) -> io::Result<Vec<IpNet>> {
    let mut found = Vec::new();
    routes(family, table, libc::RTN_UNICAST, |network, _| {
        if network.prefix_len() > 0 {
            found.push(network);
        }
        if found.len() > ROUTES { Err(io::Error::other("too many routes")) } else { Ok(()) }
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::RouteDecision::{Local, Nowhere, Out};
    use super::*;

    /// Asked for two sources of a machine with some networks; lookups by destination and last byte of the source.
    fn found(way: impl Fn(&str, u8) -> Option<RouteDecision>, networks: Option<Vec<IpNet>>) -> WaysOut {
        let sources = [1, 2].map(|n| IpAddr::from([203, 0, 113, n]));
        let last = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(_) => 0,
        };
        let ask = |to: IpAddr, from: Option<IpAddr>| {
            let to = if to == far_address(Family::V4) { "far".to_owned() } else { to.to_string() };
            way(&to, from.map_or(0, last))
        };
        of_lookups(Family::V4, sources.into_iter(), &ask, |_| networks)
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
            found(way, Some(Vec::new()))
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
            assert_eq!(found(way, Some(Vec::new())), expected, "{any:?}");
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
            found(way, Some(vec!["198.51.100.0/24".parse().unwrap()]))
        };
        assert_eq!(to(Some(Nowhere)), WaysOut::RuledOut);
        assert_eq!(to(Some(Out)), WaysOut::SomeNetworks);
        assert_eq!(to(None), WaysOut::SomeNetworks);
        let ruled = |to: &str, from| match (to, from) {
            ("far", 0) => Some(Out),
            ("far", _) => Some(Nowhere),
            _ => Some(Local),
        };
        assert_eq!(found(ruled, None), WaysOut::SomeNetworks);
    }

    #[test]
    fn route_of_own_table_is_seen_without_default() {
        let to = |from_source: Option<RouteDecision>, from_any| {
            let way = move |to: &str, from| match (to, from) {
                ("far", _) => Some(Nowhere),
                ("198.51.100.1", 2) => from_source,
                ("198.51.100.1", 0) => from_any,
                (_, 0) => Some(Local),
                _ => Some(Nowhere),
            };
            found(way, Some(vec!["198.51.100.0/24".parse().unwrap()]))
        };
        let (out, nowhere) = (Some(Out), Some(Nowhere));
        assert_eq!(to(out, nowhere), WaysOut::SomeNetworks);
        assert_eq!(to(None, nowhere), WaysOut::SomeNetworks);
        assert_eq!(to(out, out), WaysOut::NoDefault, "the kernel sees it by the destination");
        assert_eq!(to(nowhere, nowhere), WaysOut::NoDefault);
    }

    #[test]
    fn tables_of_sources_alone_are_chosen() {
        let rule = |source: Option<&str>, table: u32| RoutingRule {
            source: source.map(|source| source.parse().unwrap()),
            table,
            rest: format!("lookup {table}"),
            ..RoutingRule::default()
        };
        let rules = [
            rule(None, LOCAL_TABLE),
            RoutingRule { mark: Some((1, 1)), ..rule(None, 100) },
            rule(Some("203.0.113.0/28"), 7),
            rule(Some("203.0.113.0/28"), 254),
            rule(Some("203.0.113.32/28"), 8),
            RoutingRule { inverted: true, ..rule(Some("203.0.113.32/28"), 9) },
            RoutingRule { inverted: true, ..rule(Some("203.0.113.0/28"), 10) },
            RoutingRule { rest: "unreachable".into(), ..rule(Some("203.0.113.0/28"), 0) },
            rule(None, 254),
            rule(None, 253),
        ];
        let sources = ["203.0.113.1".parse().unwrap()];
        assert_eq!(tables(&rules, TablesOf::Alone(&sources)), [7, 9].into());
        assert_eq!(tables(&rules, TablesOf::All), [7, 8, 9, 10, 100, 253, 254].into());
        assert_eq!(tables(&rules[..2], TablesOf::Alone(&sources)), [].into());
    }
}
