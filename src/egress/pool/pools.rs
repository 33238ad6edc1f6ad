//! All pools of one configuration.

use super::{Pool, PoolUsage};
use crate::addr::{DialAddr, SourceAddr};
use crate::egress::PoolSpec;
use crate::egress::addresses;
use crate::egress::book::SourceBook;
use crate::egress::hot_pair::HotPair;
use crate::egress::ledger::Ledger;
use crate::egress::pair_use::PairUse;
use crate::egress::port_space::PortSpace;
use crate::egress::state::SourceState;
use crate::family::Family;
use ipnet::IpNet;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

/// The pools of one configuration, on the process's one ledger.
#[derive(Debug)]
pub struct Pools {
    /// In the order of the configuration.
    in_order: Vec<Arc<Pool>>,
    by_name: HashMap<Arc<str>, Arc<Pool>>,
    ledger: Arc<Ledger>,
}

impl Pools {
    /// Creates the pools of a configuration. `reserved` ports are not handed out: those of listeners on this host,
    /// because a port that a wildcard listener uses cannot be bound on any address. The ledger outlives the pools; an
    /// address follows the new configuration from its first lease or usage query on.
    pub fn new(specs: &[PoolSpec], reserved: &[u16], ledger: &Arc<Ledger>) -> Self {
        let generation = ledger.next_generation();
        let in_order: Vec<_> =
            specs.iter().map(|spec| Arc::new(Pool::new(spec, reserved, generation, ledger))).collect();
        let by_name = in_order.iter().map(|pool| (Arc::clone(&pool.name), Arc::clone(pool))).collect();
        Self { in_order, by_name, ledger: Arc::clone(ledger) }
    }

    /// Returns a pool by its name.
    pub fn pool(&self, name: &str) -> Option<&Arc<Pool>> {
        self.by_name.get(name)
    }

    /// Changes whether an address gives out ports, for as long as a configuration lists it. Two reasons for giving out
    /// none are independent: `Draining` sets one, `Withdrawn` the other; `Available` clears `Withdrawn` if that is set,
    /// else `Draining`. So an address that is lost and found again still drains. A drain in the configuration stays
    /// until the configuration changes.
    ///
    /// Returns the resulting state; `None` if no pool lists the address, as for those derived per client.
    pub fn set_state(&self, source: SourceAddr, state: SourceState) -> Option<SourceState> {
        self.in_order.iter().find_map(|pool| pool.set_state(source, state))
    }

    /// Names of the pools with an address that have none of its family that gives out ports.
    pub fn without_address(&self, source: SourceAddr) -> Vec<Arc<str>> {
        let family = Family::of(source.ip());
        let with = self.in_order.iter().filter(|pool| pool.has(source.ip()));
        with.filter(|pool| pool.available(family).next().is_none())
            .map(|pool| Arc::clone(pool.name()))
            .collect()
    }

    /// True if a listening socket takes a port away from a pool: it makes a bind fail on all addresses if it listens on
    /// the unspecified one, else on its own.
    pub fn is_hindered_by(&self, listener: SocketAddr) -> bool {
        let everywhere = listener.ip().is_unspecified();
        self.in_order
            .iter()
            .any(|pool| pool.space.slot(listener.port()).is_some() && (everywhere || pool.has(listener.ip())))
    }

    /// Addresses that the pools list, without those derived per client.
    pub fn listed(&self) -> impl Iterator<Item = SourceAddr> {
        let books = self.in_order.iter().flat_map(|pool| pool.v4.listed().chain(pool.v6.listed()));
        books.map(|book| book.source())
    }

    /// Networks whose addresses are derived per client.
    pub(in crate::egress) fn wide(&self) -> impl Iterator<Item = &IpNet> {
        self.in_order.iter().flat_map(|pool| pool.v4.wide().chain(pool.v6.wide()))
    }

    /// Returns the account of a pool's address, created if necessary, and the ports that the pool hands out.
    pub(in crate::egress) fn open(&self, source: SourceAddr) -> Option<(Arc<SourceBook>, &Arc<PortSpace>)> {
        let pool = self.in_order.iter().find(|pool| pool.has(source.ip()))?;
        Some((self.ledger.open(source, &pool.space), &pool.space))
    }

    pub(in crate::egress) fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Port usage: a row per address, and one per network whose addresses are derived per client. Reads every account
    /// in use, one lock at a time; for the control plane.
    pub fn usage(&self, now: Instant) -> Vec<PoolUsage> {
        let mut usage: Vec<_> = self.in_order.iter().map(|pool| pool.usage(now)).collect();
        let wide: Vec<_> = (usage.iter().enumerate())
            .flat_map(|(pool, usage)| {
                usage.sources.iter().enumerate().map(move |(row, source)| (pool, row, source.source))
            })
            .filter(|(_, _, net)| addresses::is_derived(net))
            .collect();
        if wide.is_empty() {
            return usage;
        }
        self.ledger.for_each(|book| {
            if let Some(&(n, row, _)) = wide.iter().find(|(_, _, net)| net.contains(&book.source().ip())) {
                let totals = book.totals(&self.in_order[n].space, now);
                let row = &mut usage[n].sources[row];
                row.live += totals.live;
                row.held += totals.held;
                row.busiest = row.busiest.max(totals.busiest);
            }
        });
        usage
    }
}

impl Pools {
    /// Returns at most `most` destinations with many ports in use for each source address. Of the addresses derived per
    /// client it visits some 16,000, and continues at `cursor` the next time.
    pub(in crate::egress) fn hottest(&self, most: usize, cursor: &mut usize) -> Vec<HotPair> {
        let mut found = Vec::new();
        let mut look = |pool: &Arc<Pool>, network, book: &SourceBook| {
            let pairs = book.hottest(&pool.space, most).into_iter();
            found.extend(pairs.map(|(to, used)| HotPair {
                pool: Arc::clone(&pool.name),
                network,
                source: book.source(),
                to: to.into(),
                used,
            }));
        };
        for pool in &self.in_order {
            for book in pool.v4.listed().chain(pool.v6.listed()) {
                look(pool, book.source().ip().into(), book);
            }
        }
        let is_wide = |pool: &&Arc<Pool>| pool.v4.wide().chain(pool.v6.wide()).next().is_some();
        let wide: Vec<_> = self.in_order.iter().filter(is_wide).collect();
        if !wide.is_empty() {
            self.ledger.for_some(cursor, |book| {
                let owner =
                    |pool: &&Arc<Pool>| pool.network_of(book.source()).map(|net| (Arc::clone(pool), net));
                if let Some((pool, network)) = wide.iter().find_map(owner) {
                    look(&pool, network, book);
                }
            });
        }
        found
    }

    /// Port usage of a source address of that pool towards a destination; `None` if the pool has no such address, or if
    /// it was never used.
    pub(in crate::egress) fn pair(
        &self,
        pool: &str,
        source: SourceAddr,
        to: DialAddr,
        now: Instant,
    ) -> Option<PairUse> {
        self.by_name.get(pool)?.network_of(source)?;
        self.ledger.pair(source, to, now)
    }
}
