//! Cache shared fairly among tenants, with two generations (an approximate LRU).

use std::collections::HashMap;
use std::hash::Hash;
use std::mem;

/// Owner of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct EntryOwner(pub(super) u64);

impl EntryOwner {
    /// Owner of the entries shared by all tenants.
    pub(super) const ALL: Self = Self(0);
}

/// Holds at most `2 * half` entries of all owners. When it is full, the owner with the most loses its older generation:
/// an owner with less than an equal share loses nothing to others. Access makes an entry young again.
#[derive(Debug)]
pub(super) struct GenerationCache<K, V> {
    half: usize,
    owners: HashMap<EntryOwner, Generations<K, V>>,
}

/// Entries of one owner.
#[derive(Debug)]
struct Generations<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K, V> Default for Generations<K, V> {
    fn default() -> Self {
        Self { young: HashMap::new(), old: HashMap::new() }
    }
}

impl<K: Eq + Hash + Clone, V> GenerationCache<K, V> {
    pub(super) fn new(half: usize) -> Self {
        Self { half: half.max(1), owners: HashMap::new() }
    }

    /// Returns the owner's entry, if there is one.
    pub(super) fn get(&mut self, owner: EntryOwner, key: &K) -> Option<&mut V> {
        if let Some(value) = self.owners.get_mut(&owner)?.old.remove(key) {
            self.insert(owner, key.clone(), value);
        }
        self.owners.get_mut(&owner)?.young.get_mut(key)
    }

    /// Returns the owner's entry; if there is none, moves the shared one to it, or creates one.
    pub(super) fn get_or_adopt(&mut self, owner: EntryOwner, key: &K) -> &mut V
    where
        V: Default,
    {
        if self.get(owner, key).is_none() {
            let adopted = self.owners.get_mut(&EntryOwner::ALL).and_then(|all| all.remove(key));
            self.insert(owner, key.clone(), adopted.unwrap_or_default());
        }
        self.owners.entry(owner).or_default().young.entry(key.clone()).or_default()
    }

    /// Inserts or replaces an entry.
    pub(super) fn insert(&mut self, owner: EntryOwner, key: K, value: V) {
        let half = self.half;
        let own = self.owners.entry(owner).or_default();
        own.remove(&key);
        if own.young.len() >= half {
            own.old = mem::take(&mut own.young);
        }
        if self.len() >= 2 * half {
            self.make_room();
        }
        self.owners.entry(owner).or_default().young.insert(key, value);
    }

    /// Removes and returns all entries whose keys are `wanted`.
    pub(super) fn take(&mut self, wanted: impl Fn(&K) -> bool) -> Vec<(K, V)> {
        let owners = self.owners.values_mut();
        let generations = owners.flat_map(|own| [&mut own.young, &mut own.old]);
        generations.flat_map(|entries| entries.extract_if(|key, _| wanted(key)).collect::<Vec<_>>()).collect()
    }

    /// Returns the entries of all owners for a key.
    pub(super) fn of_all<'a>(&'a self, key: &'a K) -> impl Iterator<Item = &'a V> {
        self.owners.values().filter_map(|own| own.young.get(key).or_else(|| own.old.get(key)))
    }

    pub(super) fn len(&self) -> usize {
        self.owners.values().map(Generations::len).sum()
    }

    fn make_room(&mut self) {
        if let Some(largest) = self.owners.values_mut().max_by_key(|own| own.len()) {
            if largest.old.is_empty() {
                // Their ages are equal, so every second one goes.
                let mut keeps = false;
                largest.young.retain(|_, _| {
                    keeps = !keeps;
                    keeps
                });
            }
            largest.old = HashMap::new();
        }
        self.owners.retain(|_, own| own.len() > 0);
    }
}

impl<K: Eq + Hash, V> Generations<K, V> {
    fn remove(&mut self, key: &K) -> Option<V> {
        self.young.remove(key).or_else(|| self.old.remove(key))
    }

    fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: EntryOwner = EntryOwner(1);

    #[test]
    fn requested_entries_outlive_others() {
        let mut memory = GenerationCache::new(10);
        memory.insert(ONE, u32::MAX, 0);
        for n in 0..1000 {
            memory.insert(ONE, n, n);
            assert!(memory.len() <= 20, "{}", memory.len());
            assert!(memory.get(ONE, &u32::MAX).is_some());
        }
        assert!(memory.get(ONE, &0).is_none() && memory.get(ONE, &999).is_some());
        assert_eq!(memory.take(|key| *key == 999), [(999, 999)]);
        assert!(memory.get(ONE, &999).is_none());
    }

    #[test]
    fn flooding_owner_evicts_own_entries() {
        for good_ones in [1_usize, 9] {
            let mut memory = GenerationCache::new(10);
            for key in 0..good_ones {
                memory.insert(ONE, key, "good");
            }
            for flood in 2..4 {
                for key in 0..1000 {
                    memory.insert(EntryOwner(flood), key, "flood");
                    assert!(memory.len() <= 20, "{}", memory.len());
                }
                let kept = (0..good_ones).filter(|key| memory.of_all(key).any(|value| *value == "good"));
                let share = if flood == 2 { good_ones } else { good_ones.min(4) };
                assert!(kept.count() >= share);
            }
        }
    }

    #[test]
    fn shared_entry_is_adopted_by_asker() {
        let mut memory = GenerationCache::new(10);
        memory.insert(EntryOwner::ALL, "name", 7);
        assert_eq!(*memory.get_or_adopt(ONE, &"name"), 7);
        assert_eq!(memory.len(), 1);
        assert_eq!(*memory.get_or_adopt(ONE, &"other"), 0);
        assert_eq!(*memory.get_or_adopt(EntryOwner(2), &"name"), 0, "owners do not see each other's");
    }
}
