//! Single-flight lookups: only one per key at a time, and all callers wait for its answer.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// The lookups in progress.
#[derive(Debug)]
pub(super) struct SingleFlight<K: Eq + Hash>(Arc<Mutex<UnderWay<K>>>);

type UnderWay<K> = HashMap<K, watch::Receiver<()>>;

/// Notifies of each partial answer, and closes when the lookup ends.
pub(super) type AnswerNotices = watch::Receiver<()>;

/// A lookup in progress, until dropped: the answer must be stored before.
#[derive(Debug)]
pub(super) struct LookupFlight<K: Eq + Hash> {
    flights: Arc<Mutex<UnderWay<K>>>,
    key: K,
    progress: watch::Sender<()>,
}

impl<K: Eq + Hash> Default for SingleFlight<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Eq + Hash + Clone> SingleFlight<K> {
    /// Joins the lookup if one is in progress: first read the stored answer, then wait for more.
    pub(super) fn join(&self, key: &K) -> Option<AnswerNotices> {
        let mut progress = lock(&self.0).get(key).cloned()?;
        progress.mark_unchanged();
        Some(progress)
    }

    /// Starts a lookup, unless one is in progress.
    pub(super) fn begin(&self, key: &K) -> Result<(LookupFlight<K>, AnswerNotices), AnswerNotices> {
        match lock(&self.0).entry(key.clone()) {
            // A partial answer may be stored already: it counts as unseen.
            Entry::Occupied(under_way) => Err(under_way.get().clone()),
            Entry::Vacant(place) => {
                let (progress, watched) = watch::channel(());
                place.insert(watched.clone());
                Ok((LookupFlight { flights: Arc::clone(&self.0), key: key.clone(), progress }, watched))
            }
        }
    }
}

impl<K: Eq + Hash> LookupFlight<K> {
    pub(super) fn key(&self) -> &K {
        &self.key
    }

    /// Notifies callers that a partial answer was stored.
    pub(super) fn advance(&self) {
        self.progress.send_replace(());
    }
}

impl<K: Eq + Hash> Drop for LookupFlight<K> {
    fn drop(&mut self) {
        lock(&self.flights).remove(&self.key);
    }
}

/// Ignores poisoning: the map is consistent between calls.
fn lock<K: Eq + Hash>(under_way: &Mutex<UnderWay<K>>) -> MutexGuard<'_, UnderWay<K>> {
    under_way.lock().unwrap_or_else(PoisonError::into_inner)
}
