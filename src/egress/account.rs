//! Account of one source address: which ports are busy towards which destination, and when they become free.

mod reconcile;

use super::busiest::BusiestHistogram;
use super::destination_key::DestinationKey;
use super::held_queue::{HeldPort, HeldQueue};
use super::hot::HotDestinations;
use super::lingering::LingeringPorts;
use super::pair_use::PairUse;
use super::port_set::PortSet;
use super::port_space::PortSpace;
use super::share::Share;
use super::share_table::ShareTable;
use super::state::{OutOfUseReasons, SourceState};
use crate::addr::SourceAddr;
use rand::Rng;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Number of due ports that a take or return frees on its way. More than the one that it may itself hold, so that the
/// queue drains; few, so that no flow pays for many.
const PER_OPERATION: usize = 4;

/// Port accounting of one source address. Time and randomness are parameters; nothing here locks or reads a clock.
///
/// For every destination, free + live + held = capacity: busy ports are in `ports`, `held` counts those of them that
/// are in `resting` or `lingering`, the others are live.
#[derive(Debug)]
pub(super) struct PortAccount {
    space: Arc<PortSpace>,
    /// Destinations with busy ports; entries are never empty.
    pairs: HashMap<DestinationKey, PairPorts>,
    /// Live or held ports that the current configuration no longer hands out.
    strays: HashSet<(DestinationKey, u16)>,
    /// Ports held for a fixed time.
    resting: HeldQueue,
    /// Ports held until the kernel has released them.
    lingering: LingeringPorts,
    busiest: BusiestHistogram,
    hot: HotDestinations,
    live: usize,
    standing: OutOfUseReasons,
    /// The table that counts every busy port of `pairs` for the tenants that share the pool. `None` while the address
    /// is not available: its ports are then not part of the pool's capacity.
    counted_in: Option<Arc<ShareTable>>,
}

/// Ports towards one destination.
#[derive(Debug, Default)]
struct PairPorts {
    ports: PortSet,
    /// `<= ports.len()`
    held: u16,
    /// Class in [`HotDestinations`].
    class: u8,
}

impl PortAccount {
    /// Creates the account of `source`.
    pub(super) fn new(space: Arc<PortSpace>, source: SourceAddr) -> Self {
        let drained_by_config = space.drain.contains(&source);
        let mut account = Self {
            hot: HotDestinations::new(space.capacity()),
            space,
            pairs: HashMap::new(),
            strays: HashSet::new(),
            resting: HeldQueue::default(),
            lingering: LingeringPorts::default(),
            busiest: BusiestHistogram::default(),
            live: 0,
            standing: OutOfUseReasons::new(drained_by_config),
            counted_in: None,
        };
        account.recount();
        account
    }

    /// Takes a port that is free towards the destination, uniformly at random; it is live from then on. `None` if there
    /// is none, or if the address gives out none. The caller must call [`PortAccount::count`].
    pub(super) fn take(&mut self, to: DestinationKey, now: Instant, rng: &mut impl Rng) -> Option<u16> {
        self.release_due(now, PER_OPERATION);
        if self.space.capacity() == 0 || self.state() != SourceState::Available {
            return None;
        }
        self.take_free(to, rng).or_else(|| {
            // a due port may be further down the queue
            self.release_due(now, usize::MAX);
            self.take_free(to, rng)
        })
    }

    /// Counts a port just taken on a claim of `share`. The claim is the count, unless it was made in another table.
    pub(super) fn count(&self, to: DestinationKey, share: &Share) {
        match (&self.counted_in, share.table()) {
            (Some(here), Some(there)) if Arc::ptr_eq(here, there) => {}
            (here, there) => {
                if let Some(here) = here {
                    here.rose(to, 1);
                }
                if let Some(there) = there {
                    there.fell(to, 1);
                }
            }
        }
    }

    /// Ends a lease: the port becomes free after `rest`, and counts for its tenant until then.
    pub(super) fn give_back(
        &mut self,
        to: DestinationKey,
        port: u16,
        rest: Duration,
        share: Share,
        now: Instant,
    ) {
        self.live -= 1;
        if rest.is_zero() {
            share.release(to);
            self.free(to, port);
        } else {
            if let Some(pair) = self.space.slot(port).and_then(|_| self.pairs.get_mut(&to)) {
                pair.held += 1;
            }
            self.resting.push(HeldPort { until: now + rest, to, port, share });
        }
        self.release_due(now, PER_OPERATION);
    }

    /// Frees at most `most` held ports that are due. True if there may be more.
    pub(super) fn release_due(&mut self, now: Instant, most: usize) -> bool {
        for _ in 0..most {
            let Some(HeldPort { to, port, share, .. }) = self.resting.pop_due(now) else {
                return false;
            };
            self.release_held(to, port, &share);
        }
        true
    }

    fn release_held(&mut self, to: DestinationKey, port: u16, share: &Share) {
        if let Some(pair) = self.space.slot(port).and_then(|_| self.pairs.get_mut(&to)) {
            pair.held -= 1;
        }
        // In this order: a port that is free before its tenant's count falls could go to another tenant.
        share.release(to);
        self.free(to, port);
    }

    /// Applies a newer configuration. Ports that it does not hand out stay busy until they are released, outside its
    /// capacity; those that it hands out again are counted again. `source` is the address of this account.
    pub(super) fn adopt(&mut self, space: &Arc<PortSpace>, source: SourceAddr) {
        if space.generation <= self.space.generation {
            return;
        }
        let old = std::mem::replace(&mut self.space, Arc::clone(space));
        self.standing.drained_by_config = space.drain.contains(&source);
        if old.same_ports(space) {
            self.count_elsewhere();
            return;
        }
        self.uncount();
        let mut busy: Vec<_> = self.strays.drain().collect();
        for (to, pair) in self.pairs.drain() {
            busy.extend(pair.ports.slots(old.capacity()).into_iter().map(|slot| (to, old.port(slot))));
        }
        self.busiest = BusiestHistogram::default();
        self.hot = HotDestinations::new(space.capacity());
        for (to, port) in busy {
            self.mark_busy(to, port);
        }
        let resting = self.resting.iter().map(|rested| (rested.to, rested.port));
        for (to, port) in resting.chain(self.lingering.iter()) {
            if let Some(pair) = self.space.slot(port).and_then(|_| self.pairs.get_mut(&to)) {
                pair.held += 1;
            }
        }
        self.recount();
    }

    /// Removes the ports from the counts of that pool.
    pub(super) fn leave(&mut self, table: &Arc<ShareTable>) {
        if self.counted_in.as_ref().is_some_and(|here| Arc::ptr_eq(here, table)) {
            self.uncount();
        }
    }

    /// State of the address.
    pub(super) fn state(&self) -> SourceState {
        self.standing.state()
    }

    /// See [`super::Pools::set_state`].
    pub(super) fn set_state(&mut self, state: SourceState) {
        self.standing.set(state);
        self.count_elsewhere();
    }

    /// Port usage towards one destination.
    pub(super) fn pair(&self, to: DestinationKey) -> PairUse {
        let (busy, held) = self.pairs.get(&to).map_or((0, 0), |pair| (pair.ports.len(), pair.held));
        PairUse { capacity: self.space.capacity(), live: busy - held, held }
    }

    /// Leases that have not ended, over all destinations.
    pub(super) fn live(&self) -> usize {
        self.live
    }

    /// Resting and lingering ports, over all destinations.
    pub(super) fn held(&self) -> usize {
        self.resting.len() + self.lingering.len()
    }

    /// Live and held ports towards the destination that has the most.
    pub(super) fn busiest(&self) -> u16 {
        self.busiest.ports()
    }

    /// The destinations with many ports in use, the hottest first to within one hundredth of the capacity.
    pub(super) fn hottest(&self) -> impl Iterator<Item = (DestinationKey, PairUse)> {
        self.hot.iter().map(|to| (to, self.pair(to)))
    }

    /// Releases memory once far less is in use than allocated.
    pub(super) fn shrink(&mut self) {
        if self.pairs.len() < self.pairs.capacity() / 4 {
            self.pairs.shrink_to(self.pairs.len() * 2);
        }
        self.resting.shrink();
        self.lingering.shrink();
        self.busiest.shrink();
    }

    /// The table in which the busy ports should be counted now.
    fn table(&self) -> Option<&Arc<ShareTable>> {
        self.space.shares.as_ref().filter(|_| self.state() == SourceState::Available)
    }

    /// Moves the counts of the busy ports to the right table if they are in another. Then iterates over every
    /// destination; for the control plane.
    fn count_elsewhere(&mut self) {
        if self.counted_in.as_ref().map(Arc::as_ptr) != self.table().map(Arc::as_ptr) {
            self.uncount();
            self.recount();
        }
    }

    fn uncount(&mut self) {
        if let Some(table) = self.counted_in.take() {
            self.pairs.iter().for_each(|(&to, pair)| table.fell(to, pair.ports.len()));
        }
    }

    fn recount(&mut self) {
        self.counted_in = self.table().cloned();
        if let Some(table) = &self.counted_in {
            self.pairs.iter().for_each(|(&to, pair)| table.rose(to, pair.ports.len()));
        }
    }

    fn take_free(&mut self, to: DestinationKey, rng: &mut impl Rng) -> Option<u16> {
        // the capacity is not 0, so a new entry never stays empty
        let pair = self.pairs.entry(to).or_default();
        let slot = pair.ports.take(self.space.capacity(), rng)?;
        self.busiest.rose(pair.ports.len());
        self.hot.changed(to, &mut pair.class, pair.ports.len());
        self.live += 1;
        Some(self.space.port(slot))
    }

    fn mark_busy(&mut self, to: DestinationKey, port: u16) {
        let Some(slot) = self.space.slot(port) else {
            self.strays.insert((to, port));
            return;
        };
        let pair = self.pairs.entry(to).or_default();
        if pair.ports.insert(slot, self.space.capacity()) {
            self.busiest.rose(pair.ports.len());
            if let Some(table) = &self.counted_in {
                table.rose(to, 1);
            }
            self.hot.changed(to, &mut pair.class, pair.ports.len());
        }
    }

    fn free(&mut self, to: DestinationKey, port: u16) {
        let Some(slot) = self.space.slot(port) else {
            self.strays.remove(&(to, port));
            return;
        };
        if let Some(pair) = self.pairs.get_mut(&to)
            && pair.ports.remove(slot, self.space.capacity())
        {
            let left = pair.ports.len();
            self.busiest.fell(left);
            if let Some(table) = &self.counted_in {
                table.fell(to, 1);
            }
            self.hot.changed(to, &mut pair.class, left);
            if left == 0 {
                self.pairs.remove(&to);
            }
        }
    }
}

#[cfg(test)]
mod tests;
