//! Cache of names' addresses: DNS answers, shared by flows and refreshed.

mod lookup;
mod state;

pub use state::{LookupMeters, QueryServers};

use super::generation_cache::EntryOwner;
use super::known::{LookupEnd, NameEntry};
use super::lookup_limiter::{LookupLimiter, TenantLookups};
use super::shards::{NameKey, NameShards};
use super::single_flight::{AnswerNotices, SingleFlight};
use crate::family::Family;
use crate::hostname::Hostname;
use lookup::NameLookup;
use state::NameCacheState;
use std::collections::HashSet;
use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::time::timeout;

/// Time that a flow waits for a new answer while stale addresses are usable (RFC 8767 §5 has 1.8 s, for people).
const STALE_PATIENCE: Duration = Duration::from_millis(500);
/// Time that the IPv4 addresses wait for the IPv6 ones (RFC 8305 §3).
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// Cache of names' addresses. Clones share the cache.
#[derive(Clone)]
pub struct NameCache(Arc<NameCacheState>);

/// Result of comparing an address with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressMatch {
    /// It is the name's, or was until a short while ago.
    Yes,
    /// The name has other addresses.
    No,
    /// The name has no address of that family.
    Absent,
    /// Unknown.
    Unknown(LookupError),
}

/// Reason why a name's addresses are unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookupError {
    /// No server answered, or only with an error.
    NoAnswer,
    /// Too many lookups were in progress.
    Busy,
    /// The servers did not answer within the flow's time limit.
    Late,
}

impl LookupError {
    /// Text for the flow log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoAnswer => "no DNS server answered, or only with an error",
            Self::Busy => "too many DNS lookups were under way",
            Self::Late => "the DNS servers did not answer within `[inspect] deadline`",
        }
    }
}

/// Reason why there is no address to dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResolveError {
    /// The name has no address.
    Absent,
    /// Unknown.
    Unknown(LookupError),
}

/// A cached result, or a lookup to wait for.
enum CacheLookup<T> {
    Known(T),
    Wait(AnswerNotices),
}

impl NameCache {
    /// Creates a cache whose lookups run on `runtime`, as many as `places` allows; `grace` is the validity of an address beyond its TTL.
    pub(super) fn new(
        ask: QueryServers,
        grace: Duration,
        places: LookupLimiter,
        runtime: Handle,
        now: fn() -> Instant,
        meters: LookupMeters,
    ) -> Self {
        let (shards, flights) = (NameShards::default(), SingleFlight::default());
        Self(Arc::new(NameCacheState { shards, flights, places, ask, grace, runtime, now, meters }))
    }

    /// Checks that the address is the name's. Waits for a lookup if nothing is cached, or if the address is not cached
    /// and the last lookup is not recent. Callers must limit the time.
    pub async fn check(&self, name: &Hostname, ip: IpAddr, asker: &TenantLookups) -> AddressMatch {
        let key = NameKey { name: name.clone(), family: Family::of(ip) };
        loop {
            match self.look(&key, ip, asker) {
                CacheLookup::Known(found) => return found,
                // The sender is dropped when the lookup has ended.
                CacheLookup::Wait(mut progress) => {
                    let _ = progress.changed().await;
                }
            }
        }
    }

    fn look(&self, key: &NameKey, ip: IpAddr, asker: &TenantLookups) -> CacheLookup<AddressMatch> {
        let inner = &self.0;
        let now = (inner.now)();
        // No lookup starts under the lock, because one that ends at once takes it too.
        let read = || {
            let mut shard = inner.shards.of(key);
            let known = shard.known(asker.owner, key);
            (known.has(ip, inner.grace, now), known.end(now).is_some(), known.end_for_stranger(now))
        };
        let (has, counts, _) = read();
        if has {
            if !counts {
                // Later callers use the result.
                let _ = self.ask_on(key, asker);
            }
            return CacheLookup::Known(AddressMatch::Yes);
        }
        let under_way = inner.flights.join(&(asker.owner, key.clone()));
        let (has, _, end) = read();
        if has {
            return CacheLookup::Known(AddressMatch::Yes);
        }
        // The rest of an answer may contain it.
        if let Some(progress) = under_way {
            return CacheLookup::Wait(progress);
        }
        match end {
            Some(LookupEnd::Answered) => CacheLookup::Known(AddressMatch::No),
            Some(LookupEnd::Absent) => CacheLookup::Known(AddressMatch::Absent),
            Some(LookupEnd::Failed) => CacheLookup::Known(AddressMatch::Unknown(LookupError::NoAnswer)),
            None => self
                .ask_on(key, asker)
                .map_or_else(|trouble| CacheLookup::Known(AddressMatch::Unknown(trouble)), CacheLookup::Wait),
        }
    }

    /// Returns the addresses to dial in the order of RFC 8305 §4: alternating, IPv6 first. Callers must limit the time.
    pub async fn resolve(
        &self,
        name: &Hostname,
        families: &[Family],
        asker: &TenantLookups,
    ) -> Result<Vec<IpAddr>, ResolveError> {
        let mut resolving = pin!(async {
            match families {
                [] => Err(ResolveError::Absent),
                [one] => self.addresses(name, *one, asker).await,
                _ => self.resolve_both(name, asker).await,
            }
        });
        // The caller may not be on the runtime, which drives the timers.
        poll_fn(|cx| {
            let _timers = self.0.runtime.enter();
            resolving.as_mut().poll(cx)
        })
        .await
    }

    async fn resolve_both(
        &self,
        name: &Hostname,
        asker: &TenantLookups,
    ) -> Result<Vec<IpAddr>, ResolveError> {
        let v4 = self.addresses(name, Family::V4, asker);
        let v6 = self.addresses(name, Family::V6, asker);
        tokio::pin!(v4, v6);
        let (v6, v4) = tokio::select! {
            biased;
            first = &mut v6 => match first {
                // Cached addresses of the other family are used; it is not waited for.
                Ok(v6) => (Ok(v6), at_once(v4).await.unwrap_or(Ok(Vec::new()))),
                Err(why) => (Err(why), v4.await),
            },
            first = &mut v4 => match first {
                Ok(v4) => (timeout(RESOLUTION_DELAY, v6).await.unwrap_or(Ok(Vec::new())), Ok(v4)),
                Err(why) => (v6.await, Err(why)),
            },
        };
        match (v6, v4) {
            // Unless both families were answered, the name may still have an address.
            (Err(ResolveError::Absent), Err(why)) | (Err(why), Err(_)) => Err(why),
            (v6, v4) => Ok(in_turns(v6.unwrap_or_default(), v4.unwrap_or_default())),
        }
    }

    async fn addresses(
        &self,
        name: &Hostname,
        family: Family,
        asker: &TenantLookups,
    ) -> Result<Vec<IpAddr>, ResolveError> {
        let key = NameKey { name: name.clone(), family };
        loop {
            let (mut progress, stale) = match self.look_up(&key, asker) {
                (CacheLookup::Known(found), _) => return found,
                (CacheLookup::Wait(progress), stale) => (progress, stale),
            };
            if stale.is_empty() {
                let _ = progress.changed().await;
            } else if timeout(STALE_PATIENCE, progress.changed()).await.is_err() {
                return Ok(stale);
            }
        }
    }

    /// Returns the addresses, or a lookup to wait for with usable stale addresses.
    fn look_up(
        &self,
        key: &NameKey,
        asker: &TenantLookups,
    ) -> (CacheLookup<Result<Vec<IpAddr>, ResolveError>>, Vec<IpAddr>) {
        let inner = &self.0;
        let now = (inner.now)();
        let under_way = inner.flights.join(&(asker.owner, key.clone()));
        let (addresses, end, fresh) = {
            let mut shard = inner.shards.of(key);
            let known = shard.known(asker.owner, key);
            (known.addresses(inner.grace, now), known.end(now), known.is_fresh(now))
        };
        let last_known = |trouble, addresses: Vec<IpAddr>| {
            let nothing = addresses.is_empty();
            CacheLookup::Known(if nothing { Err(ResolveError::Unknown(trouble)) } else { Ok(addresses) })
        };
        let look = match end {
            Some(LookupEnd::Answered) => CacheLookup::Known(Ok(addresses)),
            Some(LookupEnd::Absent) => CacheLookup::Known(Err(ResolveError::Absent)),
            Some(LookupEnd::Failed) => last_known(LookupError::NoAnswer, addresses),
            None => match under_way.map_or_else(|| self.ask_on(key, asker), Ok) {
                _ if fresh => CacheLookup::Known(Ok(addresses)),
                Ok(progress) => return (CacheLookup::Wait(progress), addresses),
                Err(trouble) => last_known(trouble, addresses),
            },
        };
        (look, Vec::new())
    }

    /// Starts a lookup for a flow.
    fn ask_on(&self, key: &NameKey, asker: &TenantLookups) -> Result<AnswerNotices, LookupError> {
        let Some(place) = self.0.places.take(&asker.lookups) else {
            self.0.meters.refused.increment(1);
            return Err(LookupError::Busy);
        };
        let (flight, progress) = match self.0.flights.begin(&(asker.owner, key.clone())) {
            Ok(begun) => begun,
            Err(under_way) => return Ok(under_way),
        };
        let lookup = NameLookup::new(Arc::clone(&self.0), flight, self.now());
        self.0.runtime.spawn(async move {
            lookup.run().await;
            drop(place);
        });
        Ok(progress)
    }

    /// Looks up a name in the background, unless its entry is still valid. Returns when the next lookup is due.
    pub(super) async fn refresh(&self, key: &NameKey) -> Instant {
        let now = (self.0.now)();
        let until = self.0.shards.of(key).known(EntryOwner::ALL, key).until();
        if let Some(until) = until.filter(|until| now < *until) {
            return until;
        }
        if let Ok((flight, _)) = self.0.flights.begin(&(EntryOwner::ALL, key.clone())) {
            let _place = self.0.places.wait().await;
            // The wait for a place is not part of the lookup's duration.
            NameLookup::new(Arc::clone(&self.0), flight, self.now()).run().await;
        }
        self.0.shards.of(key).known(EntryOwner::ALL, key).until().unwrap_or(now)
    }

    /// Number of lookups that there is room for.
    pub(super) fn places(&self) -> usize {
        self.0.places.places()
    }

    /// Expiry of a name's entry.
    pub(super) fn until(&self, key: &NameKey) -> Option<Instant> {
        self.0.shards.of(key).peek(EntryOwner::ALL, key).and_then(NameEntry::until)
    }

    /// Keeps entries of these names until the next call; all others only while flows request them.
    pub(super) fn pin(&self, keys: &HashSet<NameKey>) {
        self.0.shards.pin(keys);
    }

    pub(super) fn now(&self) -> Instant {
        (self.0.now)()
    }

    /// Number of cached names, over both families.
    pub fn count(&self) -> usize {
        self.0.shards.count()
    }

    /// Compares the address with a tenant's last result, for display; `None` without one. Starts no lookup.
    pub fn judge(&self, name: &Hostname, ip: IpAddr, asker: &TenantLookups) -> Option<AddressMatch> {
        let key = NameKey { name: name.clone(), family: Family::of(ip) };
        let mut shard = self.0.shards.of(&key);
        let known = shard.peek(asker.owner, &key)?;
        if known.has(ip, self.0.grace, self.now()) {
            return Some(AddressMatch::Yes);
        }
        known.last().map(|end| match end {
            LookupEnd::Answered => AddressMatch::No,
            LookupEnd::Absent => AddressMatch::Absent,
            LookupEnd::Failed => AddressMatch::Unknown(LookupError::NoAnswer),
        })
    }

    /// Valid addresses of a name in these families, in their order, for display: those of one tenant, or of any.
    pub fn known(&self, name: &Hostname, families: &[Family], asker: Option<&TenantLookups>) -> Vec<IpAddr> {
        let (now, grace) = ((self.0.now)(), self.0.grace);
        let mut found: Vec<IpAddr> = Vec::new();
        for &family in families {
            let key = NameKey { name: name.clone(), family };
            let mut shard = self.0.shards.of(&key);
            match asker {
                Some(asker) => found.extend(
                    shard.peek(asker.owner, &key).into_iter().flat_map(|known| known.addresses(grace, now)),
                ),
                None => found.extend(shard.of_all(&key).flat_map(|known| known.addresses(grace, now))),
            }
        }
        let mut seen = HashSet::new();
        found.retain(|ip| seen.insert(*ip));
        found
    }
}

/// Polls a future once without waiting.
async fn at_once<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Interleaves the elements of both lists.
fn in_turns(first: Vec<IpAddr>, second: Vec<IpAddr>) -> Vec<IpAddr> {
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut all = Vec::with_capacity(first.len() + second.len());
    loop {
        let before = all.len();
        all.extend(first.next());
        all.extend(second.next());
        if all.len() == before {
            return all;
        }
    }
}
