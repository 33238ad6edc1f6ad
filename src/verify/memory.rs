//! A map that forgets what has not been asked for lately.

use std::collections::HashMap;
use std::hash::Hash;
use std::mem;

/// Holds at most `2 * half` entries: when the younger half is full, the older one is forgotten whole. What is asked for
/// is young again.
#[derive(Debug)]
pub(super) struct Memory<K, V> {
    half: usize,
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K: Eq + Hash + Clone, V> Memory<K, V> {
    pub(super) fn new(half: usize) -> Self {
        Self { half: half.max(1), young: HashMap::new(), old: HashMap::new() }
    }

    /// The entry, if it is there.
    pub(super) fn get(&mut self, key: &K) -> Option<&mut V> {
        if let Some(value) = self.old.remove(key) {
            self.insert(key.clone(), value);
        }
        self.young.get_mut(key)
    }

    /// The entry, made if it is not there.
    pub(super) fn get_or_default(&mut self, key: &K) -> &mut V
    where
        V: Default,
    {
        if self.get(key).is_none() {
            self.insert(key.clone(), V::default());
        }
        self.young.entry(key.clone()).or_default()
    }

    /// Puts an entry in the place of what was there.
    pub(super) fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.half && !self.young.contains_key(&key) {
            self.old = mem::take(&mut self.young);
        }
        self.old.remove(&key);
        self.young.insert(key, value);
    }

    /// Takes an entry out.
    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        self.young.remove(key).or_else(|| self.old.remove(key))
    }

    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_stays_and_the_rest_is_forgotten() {
        let mut memory = Memory::new(10);
        memory.insert("asked for", 0);
        for n in 0..1000 {
            memory.insert(Box::leak(format!("{n}").into_boxed_str()), n);
            assert!(memory.len() <= 20, "{}", memory.len());
            assert!(memory.get(&"asked for").is_some());
        }
        assert!(memory.get(&"0").is_none() && memory.get(&"999").is_some());
        assert_eq!(memory.remove(&"999"), Some(999));
        assert!(memory.get(&"999").is_none());
    }
}
