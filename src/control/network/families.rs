//! Early refusal of address families that have no way out: their connections are reset at the SYN, so that dual-stack
//! clients fall back to the other family (Happy Eyeballs, RFC 8305).
//!
//! Only if the other family has a way out. If neither has, connections are accepted and refused with a reason.

use crate::addr::SourceAddr;
use crate::admin::FamilyRefusal;
use crate::control::failure_notice::FailureNotice;
use crate::egress::{Pool, Pools};
use crate::family::Family;
use crate::sys::refusals::{RefusalScope, Refusals, RefusedClients};
use crate::sys::routing::{self, RouteDecision, RoutingTables, WaysOut};
use ipnet::IpNet;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// Ability of a pool to send out flows of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FamilyReachability {
    Yes,
    /// There is no default route, though there may be routes to some networks, whatever the source.
    Unrouted,
    /// There is a default route, but rules of policy routing keep the pool's addresses from it and from all others.
    PoolUnrouted,
    /// No address of the family hands out ports, or the gateway does not listen for the family.
    No,
}

/// The states of IPv4 and IPv6 of each pool.
type PoolStates = BTreeMap<Arc<str>, [FamilyReachability; 2]>;

/// The families that the kernel refuses before the handshake.
#[derive(Debug, Default)]
pub(crate) struct RefusedFamilies(PoolStates);

impl RefusedFamilies {
    /// The reason why a connection is refused, by the pool of its client.
    pub(crate) fn refusal(&self, pool: &str, to: IpAddr) -> Option<FamilyRefusal> {
        self.refusal_by(pool, to, |to| routing::way(to, None, None).ok())
    }

    /// `way`: the route of a destination; `None` if it is not known.
    fn refusal_by(
        &self,
        pool: &str,
        to: IpAddr,
        way: impl FnOnce(IpAddr) -> Option<RouteDecision>,
    ) -> Option<FamilyRefusal> {
        let state = self.0.get(pool)?[usize::from(to.is_ipv6())];
        let refusal = state.refusal()?;
        let is_routed = || way(to) != Some(RouteDecision::Nowhere);
        (state != FamilyReachability::Unrouted || !is_routed()).then_some(refusal)
    }
}

impl FamilyReachability {
    fn refusal(self) -> Option<FamilyRefusal> {
        match self {
            Self::Yes => None,
            Self::Unrouted => Some(FamilyRefusal::NoRoute),
            Self::PoolUnrouted => Some(FamilyRefusal::PoolRuledOut),
            Self::No => Some(FamilyRefusal::NoAddress),
        }
    }
}

/// A client network, and the pool that its flows leave from.
pub(super) type ClientPool = (IpNet, Arc<str>);

/// A pool and a family of its clients.
type PoolFamily = (Arc<str>, Family);

type FamilyStates = BTreeMap<PoolFamily, FamilyReachability>;

/// The packets that may be refused, and the clients of IPv4 and IPv6 whose packets are.
type ScopedRefusals = (RefusalScope, [RefusedClients; 2]);

/// Keeps the kernel's table of refusals in step with routes and pools.
pub(super) struct FamilyRefusals {
    refusals: Option<Refusals>,
    scope: RefusalScope,
    clients: Vec<ClientPool>,
    /// The families of each pool's clients. No other is missed.
    used: BTreeSet<PoolFamily>,
    /// The gateway listens for IPv6 connections.
    takes_ipv6: bool,
    /// The refusals in the kernel; `None` before the first; after a failure, what was there before.
    in_kernel: Option<ScopedRefusals>,
    /// The states by which they were put there.
    in_force: Arc<RefusedFamilies>,
    /// The states that were last logged.
    logged: FamilyStates,
    /// Pools without a way out in either family.
    stuck: PoolStates,
    /// Failures to put refusals in the kernel.
    unsupported: FailureNotice,
    /// Connections refused since the start, as last read.
    counted: [u64; 2],
}

impl FamilyRefusals {
    pub(super) fn new(scope: RefusalScope, clients: Vec<ClientPool>, takes_ipv6: bool) -> Self {
        Self {
            refusals: None,
            scope,
            used: used(&clients),
            clients,
            takes_ipv6,
            in_kernel: None,
            in_force: Arc::default(),
            logged: BTreeMap::new(),
            stuck: PoolStates::new(),
            unsupported: FailureNotice::default(),
            counted: [0; 2],
        }
    }

    /// Replaces scope and clients after a reload.
    pub(super) fn expect(&mut self, scope: RefusalScope, clients: Vec<ClientPool>) {
        self.used = used(&clients);
        (self.scope, self.clients) = (scope, clients);
    }

    /// Finds the families that can leave each pool, and updates the kernel's table.
    pub(super) fn check(&mut self, pools: &Pools) {
        let (mut states, tables) = (PoolStates::new(), RoutingTables::default());
        for (_, name) in &self.clients {
            if let Some(pool) = pools.pool(name).filter(|_| !states.contains_key(name)) {
                states.insert(Arc::clone(name), leaves(pool, self.takes_ipv6, &tables));
            }
        }
        self.note_stuck(&states);
        states.values_mut().filter(|families| is_stuck(**families)).for_each(|families| *families = ABLE);
        let of = |v4| refused(&self.clients, &states, v4);
        let wanted = (self.scope.clone(), [of(true), of(false)]);
        if self.in_kernel.as_ref() != Some(&wanted) {
            self.put(wanted.clone());
        }
        // What the kernel could not take is tried again at the next look, and told then.
        if self.in_kernel.as_ref() == Some(&wanted) {
            let used = of_used(&self.used, &states);
            for ((pool, family), state) in changes(&self.logged, &used) {
                log(pool, *family, state);
            }
            self.logged = used;
            self.in_force = Arc::new(RefusedFamilies(states));
        }
    }

    /// Keeps the pools that have no way out, and logs changes.
    fn note_stuck(&mut self, states: &PoolStates) {
        let stuck = states.iter().filter(|(_, families)| is_stuck(**families));
        let stuck: PoolStates = stuck.map(|(pool, families)| (Arc::clone(pool), *families)).collect();
        for (pool, families) in stuck.iter().filter(|(pool, _)| !self.stuck.contains_key(*pool)) {
            tracing::warn!("{}", no_way_out(pool, *families));
        }
        for pool in self.stuck.keys().filter(|pool| !stuck.contains_key(*pool)) {
            tracing::info!(%pool, "there is a way out again");
        }
        self.stuck = stuck;
    }

    /// Text that readiness mentions without being affected.
    pub(super) fn notes(&self) -> impl Iterator<Item = String> {
        let stuck = self.stuck.iter().map(|(pool, families)| no_way_out(pool, *families));
        stuck.chain(self.unsupported.text())
    }

    /// The families that the kernel refuses now.
    pub(super) fn in_force(&self) -> Arc<RefusedFamilies> {
        Arc::clone(&self.in_force)
    }

    fn put(&mut self, wanted: ScopedRefusals) {
        match self.apply(&wanted) {
            Ok(()) => {
                self.in_kernel = Some(wanted);
                self.unsupported.clear();
            }
            Err(error) => self.unsupported.note(format!(
                "cannot refuse connections of an address family without a route out before the handshake (this needs \
                 Linux 5.12 and nf_tables): {error}; dual-stack clients may hang instead of falling back to the other family"
            )),
        }
    }

    /// Connections refused since the start, of each family: as last read, if they cannot be read now.
    pub(super) fn counted(&mut self) -> [u64; 2] {
        if let Some(refusals) = &self.refusals {
            keep_last(&mut self.counted, &refusals.counted());
        }
        self.counted
    }

    fn apply(&mut self, (scope, [v4, v6]): &ScopedRefusals) -> io::Result<()> {
        if self.refusals.is_none() {
            if *v4 == RefusedClients::default() && *v6 == RefusedClients::default() {
                return Ok(());
            }
            self.refusals = Some(Refusals::new()?);
        }
        self.refusals.as_mut().map_or(Ok(()), |refusals| refusals.put(scope, [v4, v6]))
    }
}

/// The families of each pool's clients.
fn used(clients: &[ClientPool]) -> BTreeSet<PoolFamily> {
    clients.iter().map(|(client, pool)| (Arc::clone(pool), Family::of(client.addr()))).collect()
}

/// The states of these families.
fn of_used(used: &BTreeSet<PoolFamily>, states: &PoolStates) -> FamilyStates {
    let state = |(pool, family): &PoolFamily| Some(states.get(pool)?[usize::from(*family == Family::V6)]);
    used.iter().filter_map(|key| Some((key.clone(), state(key)?))).collect()
}

/// The families with another state than before. One that had none could leave.
fn changes<'a>(
    before: &FamilyStates,
    now: &'a FamilyStates,
) -> impl Iterator<Item = (&'a PoolFamily, FamilyReachability)> {
    let before = |key| before.get(key).copied().unwrap_or(FamilyReachability::Yes);
    now.iter().filter(move |(key, state)| before(key) != **state).map(|(key, state)| (key, *state))
}

fn log(pool: &str, family: Family, state: FamilyReachability) {
    let family = family.as_str();
    match state.refusal() {
        None => {
            tracing::info!(%pool, "there is a way out for {family} again: {family} connections are accepted");
        }
        Some(refusal) => tracing::warn!(%pool, "{}", refusal.text(family)),
    }
}

/// Replaces the counts, which never fall, unless they could not be read.
fn keep_last(counted: &mut [u64; 2], read: &io::Result<[u64; 2]>) {
    if let Ok(read) = read {
        *counted = *read;
    }
}

/// States that refuse nothing.
const ABLE: [FamilyReachability; 2] = [FamilyReachability::Yes; 2];

/// True if neither family can leave. Then both count as able to: see the head of this file.
fn is_stuck(families: [FamilyReachability; 2]) -> bool {
    !families.contains(&FamilyReachability::Yes)
}

/// The reasons why a pool has no way out.
fn no_way_out(pool: &str, families: [FamilyReachability; 2]) -> String {
    let causes = ["IPv4", "IPv6"].into_iter().zip(families);
    let causes: Vec<_> = causes.filter_map(|(family, state)| Some(state.refusal()?.cause(family))).collect();
    format!(
        "pool {pool} has no way out, but for networks with routes of their own: {}; `egret doctor` tries it",
        causes.join("; ")
    )
}

/// The states of IPv4 and IPv6.
fn leaves(pool: &Pool, takes_ipv6: bool, tables: &RoutingTables) -> [FamilyReachability; 2] {
    Family::ALL.map(|family| {
        let taken = takes_ipv6 || family == Family::V4;
        let mut sources = pool.available(family).map(SourceAddr::ip).peekable();
        if !taken || sources.peek().is_none() {
            return FamilyReachability::No;
        }
        match tables.ways_out(family, sources) {
            // no refusals on uncertain grounds
            WaysOut::Default | WaysOut::SomeNetworks => FamilyReachability::Yes,
            // The kernel, which refuses by destination alone, would let pass what the pool's addresses have no route for.
            WaysOut::RuledOut => FamilyReachability::PoolUnrouted,
            WaysOut::NoDefault => FamilyReachability::Unrouted,
        }
    })
}

/// The clients of one family whose connections cannot leave.
fn refused(clients: &[ClientPool], states: &PoolStates, v4: bool) -> RefusedClients {
    let mut networks = Vec::new();
    for (network, pool) in clients.iter().filter(|(network, _)| network.addr().is_ipv4() == v4) {
        let state = states.get(pool).map_or(FamilyReachability::Yes, |states| states[usize::from(!v4)]);
        networks.push((number(network.network()), number(network.broadcast()), state));
    }
    let mut refused = RefusedClients::default();
    for (first, last, state) in flattened(networks) {
        let range = (address(first, v4), address(last, v4));
        match state {
            FamilyReachability::Yes => {}
            FamilyReachability::Unrouted => refused.unrouted.push(range),
            FamilyReachability::PoolUnrouted | FamilyReachability::No => refused.everywhere.push(range),
        }
    }
    refused
}

/// Nested networks as disjoint ranges, in order: the longest prefix wins, and adjacent ranges of one state are merged.
fn flattened(mut networks: Vec<(u128, u128, FamilyReachability)>) -> Vec<(u128, u128, FamilyReachability)> {
    networks.sort_by_key(|(first, last, _)| (*first, Reverse(*last)));
    let mut ranges: Vec<(u128, u128, FamilyReachability)> = Vec::new();
    let mut open: Vec<(u128, FamilyReachability)> = Vec::new();
    // first address that is in no range yet; `None` past the last address of the family
    let mut at = Some(0);
    let mut put = |from: Option<u128>, to: u128, state: FamilyReachability| {
        let Some(from) = from.filter(|from| *from <= to) else { return };
        match ranges.last_mut() {
            Some((_, last, before)) if *before == state && last.checked_add(1) == Some(from) => *last = to,
            _ => ranges.push((from, to, state)),
        }
    };
    for (first, last, state) in networks {
        while let Some((end, around)) = open.last().copied().filter(|(end, _)| *end < first) {
            put(at, end, around);
            at = end.checked_add(1);
            open.pop();
        }
        if let (Some((_, around)), Some(before)) = (open.last(), first.checked_sub(1)) {
            put(at, before, *around);
        }
        at = Some(first);
        open.push((last, state));
    }
    while let Some((end, around)) = open.pop() {
        put(at, end, around);
        at = at.and_then(|at| end.checked_add(1).map(|behind| behind.max(at)));
    }
    ranges
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

fn address(number: u128, v4: bool) -> IpAddr {
    match u32::try_from(number) {
        Ok(number) if v4 => Ipv4Addr::from(number).into(),
        _ => Ipv6Addr::from(number).into(),
    }
}

#[cfg(test)]
mod tests;
