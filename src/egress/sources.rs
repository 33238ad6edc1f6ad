//! Order in which a client tries the source addresses of a pool.

use super::addresses;
use super::book::SourceBook;
use super::lease_error::LeaseError;
use super::ledger::Ledger;
use super::port_space::PortSpace;
use super::state::SourceState;
use crate::addr::SourceAddr;
use crate::family::Family;
use ipnet::IpNet;
use rand::RngExt;
use std::collections::BinaryHeap;
use std::iter;
use std::sync::Arc;

/// Addresses per client of each network that is too wide to list.
const PER_CLIENT: u8 = 8;
/// Number of addresses that `least-used` compares for one flow; a larger pool is sampled at random.
const COMPARED: usize = 32;

/// Addresses of one family, numbered: the listed ones, then for each wide network the client's own few.
#[derive(Debug)]
pub(super) struct PoolSources {
    /// Ascending by address; with its hash.
    listed: Vec<(u64, Arc<SourceBook>)>,
    wide: Vec<IpNet>,
}

/// A source address for a client.
#[derive(Debug)]
pub(super) enum AddressCandidate<'a> {
    /// An address that the pool lists.
    Listed(&'a Arc<SourceBook>),
    /// An address derived for the client, with or without an account.
    Derived(SourceAddr),
}

impl PoolSources {
    pub(super) fn new(nets: &[IpNet], family: Family, space: &Arc<PortSpace>, ledger: &Ledger) -> Self {
        let nets = nets.iter().filter(|net| Family::of(net.addr()) == family);
        let (wide, small): (Vec<_>, Vec<_>) = nets.map(IpNet::trunc).partition(addresses::is_derived);
        let mut listed: Vec<_> = small.iter().flat_map(addresses::every_address).collect();
        listed.sort_unstable();
        listed.dedup();
        let listed = listed.into_iter().map(|a| (addresses::hash(a.ip()), ledger.open(a, space))).collect();
        Self { listed, wide }
    }

    /// Number of addresses that a client may use.
    pub(super) fn count(&self) -> usize {
        self.listed.len() + self.wide.len() * usize::from(PER_CLIENT)
    }

    /// Accounts of the listed addresses.
    pub(super) fn listed(&self) -> impl Iterator<Item = &Arc<SourceBook>> {
        self.listed.iter().map(|(_, book)| book)
    }

    /// Account of a listed address.
    pub(super) fn book(&self, source: SourceAddr) -> Option<&Arc<SourceBook>> {
        let at = self.listed.binary_search_by_key(&source, |(_, book)| book.source()).ok()?;
        Some(&self.listed[at].1)
    }

    /// True if an address is listed, or lies in a network whose addresses are derived.
    pub(super) fn contain(&self, source: SourceAddr) -> bool {
        self.book(source).is_some() || self.wide.iter().any(|net| net.contains(&source.ip()))
    }

    /// Reason why there is no free port: no address gives out any, or all are in use.
    pub(super) fn nothing_free(&self) -> LeaseError {
        let available = |book: &Arc<SourceBook>| book.state() == SourceState::Available;
        if self.wide.is_empty() && !self.listed().any(available) {
            return LeaseError::NoAddress;
        }
        LeaseError::Exhausted
    }

    /// Networks whose addresses are derived.
    pub(super) fn wide(&self) -> impl Iterator<Item = &IpNet> {
        self.wide.iter()
    }

    /// Network of an address: itself, if it is listed.
    pub(super) fn network_of(&self, source: SourceAddr) -> Option<IpNet> {
        let listed = self.listed.binary_search_by_key(&source, |(_, book)| book.source());
        let wide = || self.wide.iter().find(|net| net.contains(&source.ip())).copied();
        listed.ok().map(|_| source.ip().into()).or_else(wide)
    }

    /// Returns the `n`-th of [`PoolSources::count`] addresses, for a client of that hash.
    pub(super) fn candidate(&self, client: u64, n: usize) -> AddressCandidate<'_> {
        match self.listed.get(n) {
            Some((_, book)) => AddressCandidate::Listed(book),
            None => AddressCandidate::Derived(self.derived(client, n)),
        }
    }

    /// Address with the highest weight for a client.
    pub(super) fn preferred(&self, client: u64) -> Option<SourceAddr> {
        self.available(client).next()
    }

    /// Iterates over the addresses that give out ports, by descending weight for a client.
    pub(super) fn available(&self, client: u64) -> impl Iterator<Item = SourceAddr> {
        self.by_weight(client).filter_map(move |n| match self.candidate(client, n) {
            AddressCandidate::Listed(book) => (book.state() == SourceState::Available).then(|| book.source()),
            AddressCandidate::Derived(address) => Some(address),
        })
    }

    /// Iterates over all addresses by descending weight for the client. The first costs one pass over them; only a
    /// caller that goes on to the second pays for sorting.
    pub(super) fn by_weight(&self, client: u64) -> impl Iterator<Item = usize> {
        let weighed = move |n| (self.weight(client, n), n);
        let first = (0..self.count()).map(weighed).max().map(|(_, n)| n);
        let others =
            move || (0..self.count()).filter(|&n| Some(n) != first).map(weighed).collect::<BinaryHeap<_>>();
        let spill = iter::once_with(others).flat_map(|mut heap| iter::from_fn(move || heap.pop()));
        first.into_iter().chain(spill.map(|(_, n)| n))
    }

    /// Iterates over all addresses, those with the fewest ports in use first, ties at random; of more than
    /// [`COMPARED`], a random sample by use first, and then all, starting at a random one.
    pub(super) fn by_use(
        &self,
        client: u64,
        in_use: impl Fn(&AddressCandidate<'_>) -> u16,
    ) -> impl Iterator<Item = usize> {
        let count = self.count();
        let mut rng = rand::rng();
        let mut compared: Vec<(u16, u32, usize)> = (0..count.min(COMPARED))
            .map(|n| if count > COMPARED { rng.random_range(0..count) } else { n })
            .map(|n| (in_use(&self.candidate(client, n)), 0, n))
            .collect();
        for (_, tie, _) in &mut compared {
            *tie = rng.random();
        }
        compared.sort_unstable();
        let all = if count > COMPARED { count } else { 0 };
        let from = if all > 0 { rng.random_range(0..all) } else { 0 };
        compared.into_iter().map(|(_, _, n)| n).chain((from..all).chain(0..from))
    }

    fn weight(&self, client: u64, n: usize) -> u64 {
        let address = match self.listed.get(n) {
            Some((hash, _)) => *hash,
            None => addresses::hash(self.derived(client, n).ip()),
        };
        addresses::weight(client, address)
    }

    /// Derives the `n`-th address, which must not be a listed one and must be below the count.
    fn derived(&self, client: u64, n: usize) -> SourceAddr {
        let n = n - self.listed.len();
        let per_client = usize::from(PER_CLIENT);
        let nth = u8::try_from(n % per_client).unwrap_or(0);
        addresses::derived_address(client, &self.wide[n / per_client], nth)
    }
}
