//! One question at a time for each key: who asks while it is under way waits for the same answer.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// The questions under way.
#[derive(Debug)]
pub(super) struct Flights<K: Eq + Hash>(Arc<Mutex<UnderWay<K>>>);

type UnderWay<K> = HashMap<K, watch::Receiver<()>>;

/// Changes with every part of the answer, and ends with the question.
pub(super) type Progress = watch::Receiver<()>;

/// A question under way. It has ended when this is dropped, however that comes about: store the answer before.
#[derive(Debug)]
pub(super) struct Flight<K: Eq + Hash> {
    flights: Arc<Mutex<UnderWay<K>>>,
    key: K,
    progress: watch::Sender<()>,
}

impl<K: Eq + Hash> Default for Flights<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Eq + Hash + Clone> Flights<K> {
    /// Joins the question if it is under way: look at what is stored after this, and wait for more.
    pub(super) fn join(&self, key: &K) -> Option<Progress> {
        let mut progress = lock(&self.0).get(key).cloned()?;
        progress.mark_unchanged();
        Some(progress)
    }

    /// Begins the question, unless it is under way.
    pub(super) fn begin(&self, key: &K) -> Result<(Flight<K>, Progress), Progress> {
        match lock(&self.0).entry(key.clone()) {
            // Perhaps a part of the answer is stored: it counts as news.
            Entry::Occupied(under_way) => Err(under_way.get().clone()),
            Entry::Vacant(place) => {
                let (progress, watched) = watch::channel(());
                place.insert(watched.clone());
                Ok((Flight { flights: Arc::clone(&self.0), key: key.clone(), progress }, watched))
            }
        }
    }
}

impl<K: Eq + Hash> Flight<K> {
    pub(super) fn key(&self) -> &K {
        &self.key
    }

    /// A part of the answer is stored.
    pub(super) fn advance(&self) {
        self.progress.send_replace(());
    }
}

impl<K: Eq + Hash> Drop for Flight<K> {
    fn drop(&mut self) {
        lock(&self.flights).remove(&self.key);
    }
}

/// The map is whole between calls, whoever panicked.
fn lock<K: Eq + Hash>(under_way: &Mutex<UnderWay<K>>) -> MutexGuard<'_, UnderWay<K>> {
    under_way.lock().unwrap_or_else(PoisonError::into_inner)
}
