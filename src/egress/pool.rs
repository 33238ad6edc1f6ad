//! Pools: the source addresses of a tenant's flows.

mod outlook;
mod pools;

use super::addresses;
use super::book::SourceBook;
use super::destination_key::DestinationKey;
use super::lease::Lease;
use super::lease_error::LeaseError;
use super::ledger::Ledger;
use super::port_space::PortSpace;
use super::share::Share;
use super::share_table::FamilyCapacity;
use super::sources::{AddressCandidate, PoolSources};
use super::state::SourceState;
use super::{PoolSpec, ShareSpec, SourceSelection};
use crate::addr::{ClientAddr, DialAddr, SourceAddr};
use crate::family::Family;
use ipnet::IpNet;
pub use pools::Pools;
use rand::RngExt;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Maximum number of further searches for a free port when the counts say that there is one.
const LOOKS: usize = 16;
/// Addresses whose due ports are freed for a refused flow. [`Ledger::sweep`] soon frees those of the others.
const SEARCHED: usize = 32;

/// A named set of source addresses with a port range.
#[derive(Debug)]
pub struct Pool {
    name: Arc<str>,
    select: SourceSelection,
    space: Arc<PortSpace>,
    v4: PoolSources,
    v6: PoolSources,
    public: BTreeMap<SourceAddr, IpAddr>,
    /// Minimum time that a connected port is held.
    pub(super) rest: Duration,
    /// Shares of its tenants; empty if no tenant has one.
    shares: Vec<ShareSpec>,
    /// Set once the counts follow this configuration: before the first lease of a tenant with a share.
    settled: OnceLock<()>,
    ledger: Arc<Ledger>,
}

/// Port usage of a pool.
#[derive(Debug, Clone)]
pub struct PoolUsage {
    /// Name of the pool.
    pub pool: Arc<str>,
    /// Usage of its source addresses.
    pub sources: Vec<SourceUsage>,
}

/// Port usage of one source address, or of all addresses in a network whose addresses are derived per client.
#[derive(Debug, Clone, Copy)]
pub struct SourceUsage {
    /// A single address, or a network whose addresses are derived per client.
    pub source: IpNet,
    /// Ports per address towards each destination.
    pub capacity: u16,
    /// Leased ports, over all destinations.
    pub live: usize,
    /// Ports that are not leased and may not be leased again yet, over all destinations.
    pub held: usize,
    /// Live and held ports of the most used pair of address and destination. At most the capacity.
    pub busiest: u16,
    /// State of the address. Networks are always available.
    pub state: SourceState,
}

impl Pool {
    fn new(spec: &PoolSpec, reserved: &[u16], generation: u64, ledger: &Arc<Ledger>) -> Self {
        let mut space = PortSpace::new(spec.ports, reserved, generation);
        space.drain.clone_from(&spec.drain);
        space.shares = (!spec.shares.is_empty()).then(|| ledger.shares(&spec.name));
        let space = Arc::new(space);
        let family = |family| PoolSources::new(&spec.addresses, family, &space, ledger);
        Self {
            name: Arc::clone(&spec.name),
            select: spec.select,
            v4: family(Family::V4),
            v6: family(Family::V6),
            space,
            public: spec.public.clone(),
            rest: spec.rest,
            shares: spec.shares.clone(),
            settled: OnceLock::new(),
            ledger: Arc::clone(ledger),
        }
    }

    /// Families of its addresses, IPv6 first.
    pub fn families(&self) -> Vec<Family> {
        let of = [(Family::V6, &self.v6), (Family::V4, &self.v4)];
        of.into_iter().filter(|(_, sources)| sources.count() > 0).map(|(family, _)| family).collect()
    }

    /// Name of the pool.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Ports of each of its addresses towards each destination.
    pub fn capacity(&self) -> u16 {
        self.space.capacity()
    }

    /// Share under which a tenant leases; [`Share::NONE`] if no tenant of this pool has one.
    pub fn share(&self, tenant: &Arc<str>) -> Share {
        self.space.shares.as_ref().map_or(Share::NONE, |table| Share::new(table, tenant))
    }

    /// Public address that a source address is mapped to on the way out, if configured.
    pub fn public(&self, source: SourceAddr) -> Option<IpAddr> {
        self.public.get(&source).copied()
    }

    /// Leases a source address and port for a flow, until the lease is dropped. `share` must be one of this pool.
    pub fn lease(
        self: &Arc<Self>,
        client: ClientAddr,
        to: DialAddr,
        share: &Share,
        now: Instant,
    ) -> Result<Lease, LeaseError> {
        self.lease_towards(client, to.into(), Family::of(to.ip()), share, now)
    }

    /// Source address of a client as long as it has free ports; `None` if there is none of that family, or if the pool
    /// does not tie clients to addresses.
    pub fn preferred(&self, client: ClientAddr, family: Family) -> Option<SourceAddr> {
        match self.select {
            SourceSelection::Paired => self.sources(family).preferred(addresses::hash(client.ip())),
            SourceSelection::LeastUsed => None,
        }
    }

    /// Iterates over the addresses of the family that give out ports, for no particular client.
    pub fn available(&self, family: Family) -> impl Iterator<Item = SourceAddr> {
        self.sources(family).available(0)
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(super) fn lease_towards(
        self: &Arc<Self>,
        client: ClientAddr,
        to: DestinationKey,
        family: Family,
        share: &Share,
        now: Instant,
    ) -> Result<Lease, LeaseError> {
        let sources = self.sources(family);
        if sources.count() == 0 {
            return Err(LeaseError::NoAddress);
        }
        let hash = addresses::hash(client.ip());
        self.claim(share, sources, hash, to, family, now)?;
        let take = |n| self.take(&sources.candidate(hash, n), to, share, now);
        let look = || match self.select {
            SourceSelection::Paired => sources.by_weight(hash).find_map(take),
            SourceSelection::LeastUsed => {
                sources.by_use(hash, |source| self.in_use(source, to)).find_map(take)
            }
        };
        // A flow that moves between two addresses can be missed by a search that visits one after the other.
        let again = || (0..LOOKS).find_map(|_| share.is_backed(to, family).then(look)?);
        let Some((book, port)) = look().or_else(again) else {
            share.unclaim(to);
            return Err(sources.nothing_free());
        };
        Ok(Lease::new(Arc::clone(self), book, to, port, share.clone()))
    }

    fn has(&self, source: IpAddr) -> bool {
        let sources = self.sources(Family::of(source));
        sources.book(SourceAddr::new(source)).is_some() || sources.wide().any(|net| net.contains(&source))
    }

    /// Claims a port for a tenant. If refused, frees the held ports that are due and tries once more: in a large pool those of
    /// some addresses at random, so that the flows of a tenant at its ceiling cost others little.
    fn claim(
        &self,
        share: &Share,
        sources: &PoolSources,
        client: u64,
        to: DestinationKey,
        family: Family,
        now: Instant,
    ) -> Result<(), LeaseError> {
        if share.table().is_none() {
            return Ok(());
        }
        self.settled.get_or_init(|| self.settle());
        let claimed = share.claim(to, family).or_else(|_| {
            let count = sources.count();
            let from = if count > SEARCHED { rand::rng().random_range(0..count) } else { 0 };
            for n in (from..count).chain(0..from).take(SEARCHED) {
                match sources.candidate(client, n) {
                    AddressCandidate::Listed(book) => book.release_due(now),
                    AddressCandidate::Derived(address) => {
                        self.ledger.find(address).inspect(|book| book.release_due(now));
                    }
                }
            }
            share.claim(to, family)
        });
        claimed.map_err(|error| if error == LeaseError::Exhausted { sources.nothing_free() } else { error })
    }

    /// Applies this configuration to every account, and then to the counts.
    fn settle(&self) {
        let Some(table) = &self.space.shares else { return };
        let _one_at_a_time = table.control();
        if table.generation() > self.space.generation {
            return;
        }
        for book in self.v4.listed().chain(self.v6.listed()) {
            book.adopt(&self.space);
        }
        // Addresses that an older configuration listed are not part of this one's capacity.
        self.ledger.for_each(|book| {
            if !self.sources(Family::of(book.source().ip())).contain(book.source()) {
                book.leave(table);
            }
        });
        table.adopt(&self.shares, self.offered(None), self.space.generation);
    }

    fn set_state(&self, source: SourceAddr, state: SourceState) -> Option<SourceState> {
        let book = self.sources(Family::of(source.ip())).book(source)?;
        book.adopt(&self.space);
        let Some(table) = &self.space.shares else { return Some(book.set_state(state)) };
        let _one_at_a_time = table.control();
        // While its busy ports are moved, its free ones do not count as capacity.
        table.set_capacity(self.offered(Some(source)), self.space.generation);
        let state = book.set_state(state);
        table.set_capacity(self.offered(None), self.space.generation);
        Some(state)
    }

    /// Capacity of the available addresses towards each destination, without `but`. A network whose addresses are
    /// derived per client counts as unlimited: it has more of them than there are clients.
    fn offered(&self, but: Option<SourceAddr>) -> FamilyCapacity {
        let of = |sources: &PoolSources| {
            if sources.wide().next().is_some() {
                return FamilyCapacity::ENDLESS;
            }
            let available = sources
                .listed()
                .filter(|book| Some(book.source()) != but && book.state() == SourceState::Available);
            available.count() as u64 * u64::from(self.capacity())
        };
        FamilyCapacity { v4: of(&self.v4), v6: of(&self.v6) }
    }

    fn network_of(&self, source: SourceAddr) -> Option<IpNet> {
        self.sources(Family::of(source.ip())).network_of(source)
    }

    fn sources(&self, family: Family) -> &PoolSources {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    fn take(
        &self,
        source: &AddressCandidate<'_>,
        to: DestinationKey,
        share: &Share,
        now: Instant,
    ) -> Option<(Arc<SourceBook>, u16)> {
        let book = match *source {
            AddressCandidate::Listed(book) => Arc::clone(book),
            AddressCandidate::Derived(address) => self.ledger.open(address, &self.space),
        };
        let port = book.take(&self.space, to, share, now)?;
        Some((book, port))
    }

    fn in_use(&self, source: &AddressCandidate<'_>, to: DestinationKey) -> u16 {
        match *source {
            AddressCandidate::Listed(book) => book.in_use(to),
            AddressCandidate::Derived(address) => self.ledger.find(address).map_or(0, |book| book.in_use(to)),
        }
    }

    /// The rows of wide networks stay empty.
    fn usage(&self, now: Instant) -> PoolUsage {
        let row = |source: IpNet, (live, held, busiest), state| SourceUsage {
            source,
            capacity: self.capacity(),
            live,
            held,
            busiest,
            state,
        };
        let families = [&self.v4, &self.v6].into_iter();
        let sources = families.flat_map(|sources| {
            let listed = sources.listed().map(|book| {
                let totals = book.totals(&self.space, now);
                row(book.source().ip().into(), (totals.live, totals.held, totals.busiest), totals.state)
            });
            listed.chain(sources.wide().map(|&net| row(net, (0, 0, 0), SourceState::Available)))
        });
        PoolUsage { pool: Arc::clone(&self.name), sources: sources.collect() }
    }
}

#[cfg(test)]
mod tests;
