//! Who has how many ports of a pool towards each destination, and what is left to whom.
//!
//! A row per destination with busy ports counts two things: `busy`, the busy ports of the pool's available addresses,
//! whoever has them (the accounts report these); and the ports of each tenant, live and held, on any address (leases
//! report these). The first says what is free, the second what is due to whom.
//!
//! Its locks, but for `control`, are leaves: whoever holds the lock of an account may call anything here, and nothing
//! here calls out.

use super::ShareSpec;
use super::account::DestinationKey;
use crate::addr::Family;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const SHARDS: usize = 16;

/// The counts of one pool, kept over reloads under its name.
#[derive(Debug, Default)]
pub(super) struct ShareTable {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    /// The number of every tenant that the pool ever had.
    seats: Mutex<HashMap<Arc<str>, u32>>,
    /// Held while what the pool offers changes. Taken before the lock of any account.
    control: Mutex<()>,
}

#[derive(Debug, Default)]
struct Shard {
    terms: Arc<Terms>,
    rows: HashMap<DestinationKey, Row>,
}

/// What a configuration says, and what its addresses offer.
#[derive(Debug, Default, Clone)]
pub(super) struct Terms {
    generation: u64,
    /// By seat: floor and ceiling. A tenant behind the end has neither.
    tenants: Vec<(u32, u32)>,
    /// The sum of the floors.
    floors: u32,
    capacity: Capacity,
}

/// Ports of all available addresses of a family towards each destination.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Capacity {
    pub(super) v4: u64,
    pub(super) v6: u64,
}

/// Why a tenant gets no port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It has as many as its ceiling allows.
    Ceiling,
    /// It has its floor, and what is free is due to others that have not.
    KeptForFloors,
    /// Nothing is free.
    NothingFree,
}

/// One destination.
#[derive(Debug, Default)]
struct Row {
    busy: u32,
    /// By seat, ascending; none of 0.
    tenants: Vec<(u32, u32)>,
    /// How much of the floors is in use: the sum of min(ports, floor).
    met: u32,
}

impl Capacity {
    /// Of networks whose addresses are derived per client.
    pub(super) const ENDLESS: u64 = u64::MAX;

    fn of(self, family: Family) -> u64 {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }
}

impl Terms {
    fn floor(&self, seat: u32) -> u32 {
        self.of(seat).0
    }

    fn ceiling(&self, seat: u32) -> u32 {
        self.of(seat).1
    }

    fn of(&self, seat: u32) -> (u32, u32) {
        self.tenants.get(seat as usize).copied().unwrap_or((0, u32::MAX))
    }
}

impl Row {
    fn ports(&self, seat: u32) -> u32 {
        self.place(seat).map_or(0, |at| self.tenants[at].1)
    }

    fn place(&self, seat: u32) -> Result<usize, usize> {
        self.tenants.binary_search_by_key(&seat, |&(seat, _)| seat)
    }

    fn is_empty(&self) -> bool {
        self.busy == 0 && self.tenants.is_empty()
    }

    fn one_more(&mut self, seat: u32, terms: &Terms) {
        let at = self.place(seat).unwrap_or_else(|at| {
            self.tenants.insert(at, (seat, 0));
            at
        });
        if self.tenants[at].1 < terms.floor(seat) {
            self.met += 1;
        }
        self.tenants[at].1 += 1;
    }

    fn one_less(&mut self, seat: u32, terms: &Terms) {
        let Ok(at) = self.place(seat) else { return };
        self.tenants[at].1 -= 1;
        if self.tenants[at].1 < terms.floor(seat) {
            self.met -= 1;
        }
        if self.tenants[at].1 == 0 {
            self.tenants.remove(at);
        }
    }
}

impl ShareTable {
    /// The number of a tenant.
    pub(super) fn seat(&self, tenant: &Arc<str>) -> u32 {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        let next = u32::try_from(seats.len()).unwrap_or(u32::MAX);
        *seats.entry(Arc::clone(tenant)).or_insert(next)
    }

    /// A tenant's ports towards a destination.
    pub(super) fn ports(&self, to: DestinationKey, seat: u32) -> u32 {
        self.shard(to).rows.get(&to).map_or(0, |row| row.ports(seat))
    }

    /// For whoever changes what the pool offers, to be held meanwhile.
    pub(super) fn control(&self) -> MutexGuard<'_, ()> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which configuration it follows; 0 before the first.
    pub(super) fn generation(&self) -> u64 {
        lock(&self.shards[0]).terms.generation
    }

    /// Follows a newer configuration; what is counted stays.
    pub(super) fn adopt(&self, specs: &[ShareSpec], capacity: Capacity, generation: u64) {
        let mut terms = Terms { generation, capacity, ..Terms::default() };
        for spec in specs {
            let seat = self.seat(&spec.tenant) as usize;
            if terms.tenants.len() <= seat {
                terms.tenants.resize(seat + 1, (0, u32::MAX));
            }
            terms.tenants[seat] = (spec.floor, spec.ceiling.unwrap_or(u32::MAX));
            terms.floors = terms.floors.saturating_add(spec.floor);
        }
        self.follow(&Arc::new(terms), |old| old.generation < generation);
    }

    /// The addresses offer more or less than before, in the configuration of that generation.
    pub(super) fn set_capacity(&self, capacity: Capacity, generation: u64) {
        let terms = Arc::clone(&lock(&self.shards[0]).terms);
        if terms.generation == generation && terms.capacity != capacity {
            let terms = Terms { capacity, ..Terms::clone(&terms) };
            self.follow(&Arc::new(terms), |old| old.generation == generation);
        }
    }

    fn follow(&self, terms: &Arc<Terms>, is_older: impl Fn(&Terms) -> bool) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            if !is_older(&shard.terms) {
                continue;
            }
            shard.terms = Arc::clone(terms);
            for row in shard.rows.values_mut() {
                row.met = row.tenants.iter().map(|&(seat, ports)| ports.min(terms.floor(seat))).sum();
            }
        }
    }

    /// One port more for a tenant and one busy port more, if its ceiling and the others' floors allow it.
    pub(super) fn claim(&self, to: DestinationKey, seat: u32, family: Family) -> Result<(), Refusal> {
        let mut shard = self.shard(to);
        let Shard { terms, rows } = &mut *shard;
        let (busy, met, ports) = rows.get(&to).map_or((0, 0, 0), |row| (row.busy, row.met, row.ports(seat)));
        if ports >= terms.ceiling(seat) {
            return Err(Refusal::Ceiling);
        }
        // Its own floor is met, so that what is not met is due to others. Where nothing is free it must not even look:
        // a port that comes back meanwhile may be due to another.
        let due = terms.floors - met;
        if ports >= terms.floor(seat) {
            match terms.capacity.of(family).saturating_sub(busy.into()) {
                0 => return Err(Refusal::NothingFree),
                free if free <= due.into() => return Err(Refusal::KeptForFloors),
                _ => {}
            }
        }
        let row = rows.entry(to).or_default();
        row.busy += 1;
        row.one_more(seat, terms);
        Ok(())
    }

    /// Whether all that is busy and claimed fits the listed addresses.
    pub(super) fn has_room(&self, to: DestinationKey, family: Family) -> bool {
        let shard = self.shard(to);
        let busy = shard.rows.get(&to).map_or(0, |row| row.busy);
        let capacity = shard.terms.capacity.of(family);
        capacity != Capacity::ENDLESS && u64::from(busy) <= capacity
    }

    /// One port less for a tenant.
    pub(super) fn release(&self, to: DestinationKey, seat: u32) {
        let mut shard = self.shard(to);
        let Shard { terms, rows } = &mut *shard;
        if let Some(row) = rows.get_mut(&to) {
            row.one_less(seat, terms);
            shard.tidy(to);
        }
    }

    /// An account has so many busy ports more.
    pub(super) fn rose(&self, to: DestinationKey, ports: u16) {
        if ports > 0 {
            self.shard(to).rows.entry(to).or_default().busy += u32::from(ports);
        }
    }

    /// An account has so many busy ports less.
    pub(super) fn fell(&self, to: DestinationKey, ports: u16) {
        let mut shard = self.shard(to);
        if let Some(row) = shard.rows.get_mut(&to) {
            row.busy = row.busy.saturating_sub(ports.into());
            shard.tidy(to);
        }
    }

    /// Whether nothing is counted for anybody.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.shards.iter().all(|shard| lock(shard).rows.is_empty())
    }

    fn shard(&self, to: DestinationKey) -> MutexGuard<'_, Shard> {
        let hash = self.hasher.hash_one(to);
        lock(&self.shards[usize::try_from(hash % SHARDS as u64).unwrap_or(0)])
    }
}

impl Shard {
    /// Forgets a destination with nothing on it, and gives memory back once far less is in use than was.
    fn tidy(&mut self, to: DestinationKey) {
        if self.rows.get(&to).is_some_and(Row::is_empty) {
            self.rows.remove(&to);
            if self.rows.len() < self.rows.capacity() / 8 {
                let room = self.rows.len() * 2;
                self.rows.shrink_to(room);
            }
        }
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
