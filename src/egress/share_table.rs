//! Number of a pool's ports that each tenant has towards each destination, and the number still reserved for tenants.
//!
//! A row per destination with busy ports counts two things: `busy`, the busy ports of the pool's available addresses,
//! of any tenant (reported by the accounts); and the ports of each tenant, live and held, on any address (reported by
//! leases). The first gives what is free, the second what is reserved.
//!
//! Its locks except `control` are leaves: the holder of an account's lock may call anything here, and nothing here
//! calls other rooms' code.

use super::ShareSpec;
use super::destination_key::DestinationKey;
use crate::family::Family;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const SHARDS: usize = 16;

/// The counts of one pool, kept over reloads under its name.
#[derive(Debug, Default)]
pub(super) struct ShareTable {
    shards: [Mutex<ShareShard>; SHARDS],
    hasher: RandomState,
    /// Index of every tenant that the pool ever had.
    indices: Mutex<HashMap<Arc<str>, u32>>,
    /// Held while the pool's capacity changes. Taken before the lock of any account.
    control: Mutex<()>,
}

#[derive(Debug, Default)]
struct ShareShard {
    terms: Arc<ShareTerms>,
    rows: HashMap<DestinationKey, DestinationShares>,
}

/// Shares in the configuration, and the capacity of its addresses.
#[derive(Debug, Default, Clone)]
pub(super) struct ShareTerms {
    generation: u64,
    /// Floor and ceiling by index. A tenant past the end has neither.
    tenants: Vec<(u32, u32)>,
    /// The sum of the floors.
    floors: u32,
    capacity: FamilyCapacity,
}

/// Ports of all available addresses of a family towards each destination.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct FamilyCapacity {
    pub(super) v4: u64,
    pub(super) v6: u64,
}

/// Reason why a tenant gets no port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ShareRefusal {
    /// It has as many as its ceiling permits.
    Ceiling,
    /// It has its floor, and the free ports are reserved for others below theirs.
    KeptForFloors,
    /// No port is free.
    NothingFree,
}

/// Counts for one destination.
#[derive(Debug, Default)]
struct DestinationShares {
    busy: u32,
    /// Ports by index, ascending; none is 0.
    tenants: Vec<(u32, u32)>,
    /// Part of the floors that is in use: the sum of min(ports, floor).
    met: u32,
}

impl FamilyCapacity {
    /// Capacity of networks whose addresses are derived per client.
    pub(super) const ENDLESS: u64 = u64::MAX;

    fn of(self, family: Family) -> u64 {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }
}

impl ShareTerms {
    fn floor(&self, tenant: u32) -> u32 {
        self.of(tenant).0
    }

    fn ceiling(&self, tenant: u32) -> u32 {
        self.of(tenant).1
    }

    fn of(&self, tenant: u32) -> (u32, u32) {
        self.tenants.get(tenant as usize).copied().unwrap_or((0, u32::MAX))
    }
}

impl DestinationShares {
    fn ports(&self, tenant: u32) -> u32 {
        self.position(tenant).map_or(0, |at| self.tenants[at].1)
    }

    fn position(&self, tenant: u32) -> Result<usize, usize> {
        self.tenants.binary_search_by_key(&tenant, |&(tenant, _)| tenant)
    }

    fn is_empty(&self) -> bool {
        self.busy == 0 && self.tenants.is_empty()
    }

    fn one_more(&mut self, tenant: u32, terms: &ShareTerms) {
        let at = self.position(tenant).unwrap_or_else(|at| {
            self.tenants.insert(at, (tenant, 0));
            at
        });
        if self.tenants[at].1 < terms.floor(tenant) {
            self.met += 1;
        }
        self.tenants[at].1 += 1;
    }

    fn one_less(&mut self, tenant: u32, terms: &ShareTerms) {
        let Ok(at) = self.position(tenant) else { return };
        self.tenants[at].1 -= 1;
        if self.tenants[at].1 < terms.floor(tenant) {
            self.met -= 1;
        }
        if self.tenants[at].1 == 0 {
            self.tenants.remove(at);
        }
    }
}

impl ShareTable {
    /// Index of a tenant.
    pub(super) fn index(&self, tenant: &Arc<str>) -> u32 {
        let mut indices = self.indices.lock().unwrap_or_else(PoisonError::into_inner);
        let next = u32::try_from(indices.len()).unwrap_or(u32::MAX);
        *indices.entry(Arc::clone(tenant)).or_insert(next)
    }

    /// A tenant's ports towards a destination.
    pub(super) fn ports(&self, to: DestinationKey, tenant: u32) -> u32 {
        self.shard(to).rows.get(&to).map_or(0, |row| row.ports(tenant))
    }

    /// Locks the pool's capacity against other changes.
    pub(super) fn control(&self) -> MutexGuard<'_, ()> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Generation of the configuration that it follows; 0 before the first.
    pub(super) fn generation(&self) -> u64 {
        lock(&self.shards[0]).terms.generation
    }

    /// Applies a newer configuration; the counts stay.
    pub(super) fn adopt(&self, specs: &[ShareSpec], capacity: FamilyCapacity, generation: u64) {
        let mut terms = ShareTerms { generation, capacity, ..ShareTerms::default() };
        for spec in specs {
            let index = self.index(&spec.tenant) as usize;
            if terms.tenants.len() <= index {
                terms.tenants.resize(index + 1, (0, u32::MAX));
            }
            terms.tenants[index] = (spec.floor, spec.ceiling.unwrap_or(u32::MAX));
            terms.floors = terms.floors.saturating_add(spec.floor);
        }
        self.follow(&Arc::new(terms), |old| old.generation < generation);
    }

    /// Changes the capacity in the configuration of that generation.
    pub(super) fn set_capacity(&self, capacity: FamilyCapacity, generation: u64) {
        let terms = Arc::clone(&lock(&self.shards[0]).terms);
        if terms.generation == generation && terms.capacity != capacity {
            let terms = ShareTerms { capacity, ..ShareTerms::clone(&terms) };
            self.follow(&Arc::new(terms), |old| old.generation == generation);
        }
    }

    fn follow(&self, terms: &Arc<ShareTerms>, is_older: impl Fn(&ShareTerms) -> bool) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            if !is_older(&shard.terms) {
                continue;
            }
            shard.terms = Arc::clone(terms);
            for row in shard.rows.values_mut() {
                row.met = row.tenants.iter().map(|&(tenant, ports)| ports.min(terms.floor(tenant))).sum();
            }
        }
    }

    /// The reason why a claim would be refused now.
    pub(super) fn refusal(&self, to: DestinationKey, tenant: u32, family: Family) -> Option<ShareRefusal> {
        self.shard(to).permits(to, tenant, family).err()
    }

    /// Counts one more port for a tenant and one more busy port, if its ceiling and the others' floors permit it.
    pub(super) fn claim(&self, to: DestinationKey, tenant: u32, family: Family) -> Result<(), ShareRefusal> {
        let mut shard = self.shard(to);
        shard.permits(to, tenant, family)?;
        let ShareShard { terms, rows } = &mut *shard;
        let row = rows.entry(to).or_default();
        row.busy += 1;
        row.one_more(tenant, terms);
        Ok(())
    }

    /// True if all busy and claimed ports fit the listed addresses.
    pub(super) fn has_room(&self, to: DestinationKey, family: Family) -> bool {
        let shard = self.shard(to);
        let busy = shard.rows.get(&to).map_or(0, |row| row.busy);
        let capacity = shard.terms.capacity.of(family);
        capacity != FamilyCapacity::ENDLESS && u64::from(busy) <= capacity
    }

    /// Counts one port less for a tenant.
    pub(super) fn release(&self, to: DestinationKey, tenant: u32) {
        let mut shard = self.shard(to);
        let ShareShard { terms, rows } = &mut *shard;
        if let Some(row) = rows.get_mut(&to) {
            row.one_less(tenant, terms);
            shard.tidy(to);
        }
    }

    /// Adds busy ports of an account.
    pub(super) fn rose(&self, to: DestinationKey, ports: u16) {
        if ports > 0 {
            self.shard(to).rows.entry(to).or_default().busy += u32::from(ports);
        }
    }

    /// Subtracts busy ports of an account.
    pub(super) fn fell(&self, to: DestinationKey, ports: u16) {
        let mut shard = self.shard(to);
        if let Some(row) = shard.rows.get_mut(&to) {
            row.busy = row.busy.saturating_sub(ports.into());
            shard.tidy(to);
        }
    }

    /// True if nothing is counted.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.shards.iter().all(|shard| lock(shard).rows.is_empty())
    }

    fn shard(&self, to: DestinationKey) -> MutexGuard<'_, ShareShard> {
        let hash = self.hasher.hash_one(to);
        lock(&self.shards[usize::try_from(hash % SHARDS as u64).unwrap_or(0)])
    }
}

impl ShareShard {
    /// An error if the tenant's ceiling or the others' floors do not permit it one more port.
    fn permits(&self, to: DestinationKey, tenant: u32, family: Family) -> Result<(), ShareRefusal> {
        let Self { terms, rows } = self;
        let (busy, met, ports) =
            rows.get(&to).map_or((0, 0, 0), |row| (row.busy, row.met, row.ports(tenant)));
        if ports >= terms.ceiling(tenant) {
            return Err(ShareRefusal::Ceiling);
        }
        // Its own floor is met, so the unmet floors are those of others. If nothing is free it must not even search: a
        // port that is freed meanwhile may be reserved for another.
        let due = terms.floors - met;
        if ports >= terms.floor(tenant) {
            match terms.capacity.of(family).saturating_sub(busy.into()) {
                0 => return Err(ShareRefusal::NothingFree),
                free if free <= due.into() => return Err(ShareRefusal::KeptForFloors),
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes a destination without counts, and releases memory once far less is in use than allocated.
    fn tidy(&mut self, to: DestinationKey) {
        if self.rows.get(&to).is_some_and(DestinationShares::is_empty) {
            self.rows.remove(&to);
            if self.rows.len() < self.rows.capacity() / 8 {
                let room = self.rows.len() * 2;
                self.rows.shrink_to(room);
            }
        }
    }
}

fn lock(shard: &Mutex<ShareShard>) -> MutexGuard<'_, ShareShard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
