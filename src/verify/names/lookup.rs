//! One lookup of a name at all servers.

use super::super::known::LookupEnd;
use super::super::single_flight::LookupFlight;
use super::state::{LookupKey, NameCacheState};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// Maximum duration of a lookup.
const LOOKUP: Duration = Duration::from_secs(5);

/// A lookup in progress. Drop ends it with the answers received by then.
pub(super) struct NameLookup {
    cache: Arc<NameCacheState>,
    flight: LookupFlight<LookupKey>,
    said: Vec<(LookupEnd, Instant)>,
    begun: Instant,
}

impl NameLookup {
    pub(super) fn new(cache: Arc<NameCacheState>, flight: LookupFlight<LookupKey>, begun: Instant) -> Self {
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

impl Drop for NameLookup {
    fn drop(&mut self) {
        let NameCacheState { shards, meters, now, .. } = &*self.cache;
        let now = now();
        let (owner, key) = self.flight.key();
        let mut shard = shards.of(key);
        let known = shard.known(*owner, key);
        known.conclude(&self.said, now);
        match known.end(now) {
            Some(LookupEnd::Answered) => meters.answered.increment(1),
            Some(LookupEnd::Absent) => meters.absent.increment(1),
            Some(LookupEnd::Failed) | None => meters.failed.increment(1),
        }
        meters.duration.record(now.saturating_duration_since(self.begun));
    }
}
