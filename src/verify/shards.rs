//! Storage of names: those of rules permanently, those of flows as a cache.

use super::generation_cache::{EntryOwner, GenerationCache};
use super::known::NameEntry;
use crate::family::Family;
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
pub struct NameKey {
    /// The name.
    pub name: Hostname,
    /// The family.
    pub family: Family,
}

#[derive(Debug)]
pub(super) struct NameShards {
    shards: Box<[Mutex<NameShard>]>,
    hasher: RandomState,
}

#[derive(Debug)]
pub(super) struct NameShard {
    pinned: HashMap<NameKey, NameEntry>,
    seen: GenerationCache<NameKey, NameEntry>,
}

impl Default for NameShards {
    fn default() -> Self {
        let shard = || Mutex::new(NameShard { pinned: HashMap::new(), seen: GenerationCache::new(HALF) });
        Self { shards: (0..SHARDS).map(|_| shard()).collect(), hasher: RandomState::new() }
    }
}

impl NameShards {
    /// Locks the shard of a key: for short accesses, never while waiting.
    pub(super) fn of(&self, key: &NameKey) -> MutexGuard<'_, NameShard> {
        lock(&self.shards[self.index(key)])
    }

    fn index(&self, key: &NameKey) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "the lowest bits are all that counts")]
        let hash = self.hasher.hash_one(key) as usize;
        hash % SHARDS
    }

    /// Pins these names, and no others.
    pub(super) fn pin(&self, keys: &HashSet<NameKey>) {
        let mut of: Vec<Vec<&NameKey>> = vec![Vec::new(); SHARDS];
        for key in keys {
            of[self.index(key)].push(key);
        }
        for (shard, keys) in self.shards.iter().zip(of) {
            let NameShard { pinned, seen } = &mut *lock(shard);
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
                seen.insert(EntryOwner::ALL, key, known);
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

impl NameShard {
    /// Returns a tenant's state of a name; an empty one, if it is new.
    pub(super) fn known(&mut self, owner: EntryOwner, key: &NameKey) -> &mut NameEntry {
        let Self { pinned, seen } = self;
        match pinned.get_mut(key) {
            Some(known) => known,
            None => seen.get_or_adopt(owner, key),
        }
    }

    /// Like [`NameShard::known`], without creating it.
    pub(super) fn peek(&mut self, owner: EntryOwner, key: &NameKey) -> Option<&NameEntry> {
        self.pinned.get(key).or(self.seen.get(owner, key).map(|known| &*known))
    }

    /// Returns all tenants' states of a name.
    pub(super) fn of_all<'a>(&'a self, key: &'a NameKey) -> impl Iterator<Item = &'a NameEntry> {
        self.pinned.get(key).into_iter().chain(self.seen.of_all(key))
    }
}

/// Ignores poisoning: the maps are consistent between calls.
fn lock(shard: &Mutex<NameShard>) -> MutexGuard<'_, NameShard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
