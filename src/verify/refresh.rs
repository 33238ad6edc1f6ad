//! Refreshes rules' names: before flows request them, and again when their TTL ends.

use super::names::NameCache;
use super::shards::NameKey;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

/// At most 200 lookups a second: 100,000 names take eight minutes per family; meanwhile flows look them up.
const BETWEEN: Duration = Duration::from_millis(5);
/// Concurrent background lookups.
const AT_ONCE: usize = 64;
/// Part of all lookups that background ones may be, as a divisor.
const PART: usize = 8;
/// Minimum time between lookups of a name, whatever its TTL.
const LEAST: Duration = Duration::from_secs(10);
/// Maximum time between lookups of a name: content networks rotate, whatever the TTL.
const MOST: Duration = Duration::from_secs(3600);

/// Refreshes the names received last, until the sender is dropped.
pub(super) async fn run(names: NameCache, mut pins: mpsc::UnboundedReceiver<HashSet<NameKey>>) {
    let mut due: BinaryHeap<Reverse<DueName>> = BinaryHeap::new();
    let mut lookups = JoinSet::new();
    let mut generation = 0_u64;
    loop {
        let is_place_free = lookups.len() < AT_ONCE.min(names.places() / PART).max(1);
        let next = due.peek().map(|Reverse(next)| next.at);
        tokio::select! {
            keys = pins.recv() => match keys {
                None => return,
                Some(keys) => {
                    let soonest = names.now();
                    due = keys
                        .into_iter()
                        .map(|key| Reverse(DueName { at: names.until(&key).unwrap_or(soonest), key }))
                        .collect();
                    generation += 1;
                }
            },
            () = until(next), if is_place_free => {
                let Some(Reverse(DueName { key, .. })) = due.pop() else { continue };
                let names = names.clone();
                lookups.spawn(async move {
                    let until = names.refresh(&key).await;
                    (key, until, generation)
                });
                sleep(BETWEEN).await;
            }
            Some(done) = lookups.join_next() => {
                // A lookup that panicked is not retried; flows look the name up themselves.
                let Ok((key, until, of)) = done else { continue };
                if of == generation {
                    let now = names.now();
                    due.push(Reverse(DueName { at: until.clamp(now + LEAST, now + MOST), key }));
                }
            }
        }
    }
}

async fn until(next: Option<Instant>) {
    match next {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// A name, and the time of its next lookup.
struct DueName {
    at: Instant,
    key: NameKey,
}

impl PartialEq for DueName {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for DueName {}

impl PartialOrd for DueName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for DueName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}
