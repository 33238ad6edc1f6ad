//! Storage of names: those of rules permanently, those of flows as a cache.

use super::known::Known;
use super::memory::{Memory, Owner};
use crate::addr::Family;
use crate::hostname::Hostname;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Workers rarely contend for one, and a reload locks one for a fraction of the names only.
const SHARDS: usize = 64;
/// Names of flows per shard and generation: 65,536 in all, of all tenants together. Each takes some 300 bytes.
const HALF: usize = 512;

/// A name and an address family.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// The name.
    pub name: Hostname,
    /// The family.
    pub family: Family,
}

#[derive(Debug)]
pub(super) struct Shards {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
}

#[derive(Debug)]
pub(super) struct Shard {
    pinned: HashMap<Key, Known>,
    seen: Memory<Key, Known>,
}

impl Default for Shards {
    fn default() -> Self {
        let shard = || Mutex::new(Shard { pinned: HashMap::new(), seen: Memory::new(HALF) });
        Self { shards: (0..SHARDS).map(|_| shard()).collect(), hasher: RandomState::new() }
    }
}

impl Shards {
    /// Locks the shard of a key: for short accesses, never while waiting.
    pub(super) fn of(&self, key: &Key) -> MutexGuard<'_, Shard> {
        lock(&self.shards[self.index(key)])
    }

    fn index(&self, key: &Key) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "the lowest bits are all that counts")]
        let hash = self.hasher.hash_one(key) as usize;
        hash % SHARDS
    }

    /// Pins these names, and no others.
    pub(super) fn pin(&self, keys: &HashSet<Key>) {
        let mut of: Vec<Vec<&Key>> = vec![Vec::new(); SHARDS];
        for key in keys {
            of[self.index(key)].push(key);
        }
        for (shard, keys) in self.shards.iter().zip(of) {
            let Shard { pinned, seen } = &mut *lock(shard);
            let mut before = std::mem::take(pinned);
            for key in keys {
                let known = before.remove(key).unwrap_or_default();
                pinned.insert(key.clone(), known);
            }
            for (key, known) in seen.take(|key| pinned.contains_key(key)) {
                if let Some(place) = pinned.get_mut(&key).filter(|place| place.until() < known.until()) {
                    *place = known;
                }
            }
            for (key, known) in before {
                seen.insert(Owner::ALL, key, known);
            }
        }
    }

    pub(super) fn count(&self) -> usize {
        let count = |shard| {
            let shard = lock(shard);
            shard.pinned.len() + shard.seen.len()
        };
        self.shards.iter().map(count).sum()
    }
}

impl Shard {
    /// Returns a tenant's state of a name; an empty one, if it is new.
    pub(super) fn known(&mut self, owner: Owner, key: &Key) -> &mut Known {
        let Self { pinned, seen } = self;
        match pinned.get_mut(key) {
            Some(known) => known,
            None => seen.get_or_adopt(owner, key),
        }
    }

    /// Like [`Shard::known`], without creating it.
    pub(super) fn peek(&mut self, owner: Owner, key: &Key) -> Option<&Known> {
        self.pinned.get(key).or(self.seen.get(owner, key).map(|known| &*known))
    }

    /// Returns all tenants' states of a name.
    pub(super) fn of_all<'a>(&'a self, key: &'a Key) -> impl Iterator<Item = &'a Known> {
        self.pinned.get(key).into_iter().chain(self.seen.of_all(key))
    }
}

/// Ignores poisoning: the maps are consistent between calls.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
