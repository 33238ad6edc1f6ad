//! One lookup of a name at all servers.

use super::super::flights::Flight;
use super::super::known::End;
use super::state::{CacheState, Question};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// Maximum duration of a lookup.
const LOOKUP: Duration = Duration::from_secs(5);

/// A lookup in progress. Drop ends it with the answers received by then.
pub(super) struct Lookup {
    cache: Arc<CacheState>,
    flight: Flight<Question>,
    said: Vec<(End, Instant)>,
    begun: Instant,
}

impl Lookup {
    pub(super) fn new(cache: Arc<CacheState>, flight: Flight<Question>, begun: Instant) -> Self {
        Self { cache, flight, said: Vec::new(), begun }
    }

    pub(super) async fn run(mut self) {
        let (_, key) = self.flight.key();
        let mut answers = (self.cache.ask)(&key.name, key.family);
        let take_in = async {
            while let Some(answer) = answers.recv().await {
                let now = (self.cache.now)();
                let (owner, key) = self.flight.key();
                let said = self.cache.shards.of(key).known(*owner, key).merge(&answer, now);
                self.said.push(said);
                self.flight.advance();
            }
        };
        let _ = timeout(LOOKUP, take_in).await;
    }
}

impl Drop for Lookup {
    fn drop(&mut self) {
        let CacheState { shards, meters, now, .. } = &*self.cache;
        let now = now();
        let (owner, key) = self.flight.key();
        let mut shard = shards.of(key);
        let known = shard.known(*owner, key);
        known.conclude(&self.said, now);
        match known.end(now) {
            Some(End::Answered) => meters.answered.increment(1),
            Some(End::Absent) => meters.absent.increment(1),
            Some(End::Failed) | None => meters.failed.increment(1),
        }
        meters.duration.record(now.saturating_duration_since(self.begun));
    }
}
