//! Looks up the names of rules before flows ask for them, and again when their TTL ends.

use super::names::Names;
use super::shards::Key;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

/// At most 200 lookups a second: 100,000 names take eight minutes for each family, and meanwhile flows ask themselves.
const BETWEEN: Duration = Duration::from_millis(5);
/// At once, beside those that flows wait for.
const AT_ONCE: usize = 64;
/// A name is left alone for so long, whatever its TTL says.
const LEAST: Duration = Duration::from_secs(10);
/// The longest time between two looks at a name: content networks rotate, whatever their TTL says.
const MOST: Duration = Duration::from_hours(1);

/// Refreshes the names that were last received, until the sender is gone.
pub(super) async fn run(names: Names, mut pins: mpsc::UnboundedReceiver<HashSet<Key>>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut due: BinaryHeap<Reverse<Due>> = BinaryHeap::new();
    let mut lookups = JoinSet::new();
    let mut generation = 0_u64;
    loop {
        let next = due.peek().map(|Reverse(next)| next.at);
        tokio::select! {
            keys = pins.recv() => match keys {
                None => return,
                Some(keys) => {
                    let soonest = names.now();
                    due = keys
                        .into_iter()
                        .map(|key| Reverse(Due { at: names.until(&key).unwrap_or(soonest), key }))
                        .collect();
                    generation += 1;
                }
            },
            () = until(next) => {
                let Some(Reverse(Due { key, .. })) = due.pop() else { continue };
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                let names = names.clone();
                lookups.spawn(async move {
                    let until = names.refresh(&key).await;
                    drop(place);
                    (key, until, generation)
                });
                sleep(BETWEEN).await;
            }
            Some(done) = lookups.join_next() => {
                // A lookup that panicked is not tried again; flows ask for the name themselves.
                let Ok((key, until, of)) = done else { continue };
                if of == generation {
                    let now = names.now();
                    due.push(Reverse(Due { at: until.clamp(now + LEAST, now + MOST), key }));
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

/// A name, and when to look at it.
struct Due {
    at: Instant,
    key: Key,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}
