//! Cache of certificate verdicts by server and name, with single-flight probes and rate limits.

use super::certificate::{self, CertificateVerdict};
use super::generation_cache::{EntryOwner, GenerationCache};
use super::lookup_limiter::{LookupLimiter, LookupSlot, StartRate, TenantLookups};
use super::single_flight::{AnswerNotices, LookupFlight, SingleFlight};
use crate::hostname::Hostname;
use arc_swap::ArcSwapOption;
use metrics::Counter;
use rustls::{ClientConfig, RootCertStore};
use std::any::Any;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::time::timeout;

/// Maximum duration of a probe.
const PROBE: Duration = Duration::from_secs(5);
/// Verdicts in one generation of the cache, which keeps at most twice as many. Each takes some 200 bytes.
const HALF: usize = 16_384;
/// Time for which a verdict is valid: the expiry of a certificate may go unnoticed that long.
const VALID: Duration = Duration::from_secs(3600);
const INVALID: Duration = Duration::from_secs(60);
const UNKNOWN: Duration = Duration::from_secs(5);
/// New probes per second: servers are not to be flooded on behalf of a client that invents names.
const EACH_SECOND: u32 = 200;
/// New probes per second of one tenant, so that such a client does not block the others.
const EACH_SECOND_OF_ONE: u32 = 50;

/// A connection in progress, and a guard to drop after it.
pub type StartedConnection = (TcpStream, Box<dyn Any + Send>);

/// A server and a name to prove.
type ProofKey = (SocketAddr, Hostname);

/// Key of a probe, by tenant: servers may treat the addresses of tenants differently.
type ProbeKey = (EntryOwner, ProofKey);

/// Counters of probes by result.
pub struct ProbeMeters {
    /// Probes whose certificate was valid for the name.
    pub valid: Counter,
    /// Probes whose certificate was invalid.
    pub invalid: Counter,
    /// Probes of servers that Egret cannot check.
    pub unsupported: Counter,
    /// Probes without a result.
    pub unknown: Counter,
}

/// Cached certificate verdicts. Clones share the cache.
#[derive(Clone)]
pub struct CertificateCache(Arc<CertificateCacheInner>);

struct CertificateCacheInner {
    /// Verdicts with their expiry. A proof counts for all tenants; other verdicts for the tenant that got them.
    verdicts: Mutex<GenerationCache<ProofKey, (CertificateVerdict, Instant)>>,
    pace: StartRate,
    flights: SingleFlight<ProbeKey>,
    places: LookupLimiter,
    /// `None` without roots.
    client: ArcSwapOption<ClientConfig>,
    runtime: Handle,
    now: fn() -> Instant,
    meters: ProbeMeters,
}

impl CertificateCache {
    /// Creates a cache whose probes run on `runtime`, as many as `places` allows, and which trusts nobody yet.
    pub(super) fn new(
        places: LookupLimiter,
        runtime: Handle,
        now: fn() -> Instant,
        meters: ProbeMeters,
    ) -> Self {
        Self(Arc::new(CertificateCacheInner {
            verdicts: Mutex::new(GenerationCache::new(HALF)),
            pace: StartRate::default(),
            flights: SingleFlight::default(),
            places,
            client: ArcSwapOption::empty(),
            runtime,
            now,
            meters,
        }))
    }

    /// Trusts these authorities from now on.
    pub(super) fn trust(&self, roots: RootCertStore) {
        self.0.client.store(Some(certificate::client(roots)));
    }

    /// False without roots: then nothing is probed, and every verdict is unknown.
    pub(super) fn trusts_somebody(&self) -> bool {
        self.0.client.load().is_some()
    }

    /// Checks that the server proves the name. Waits for a probe if there is no verdict; `begin` starts the connection
    /// to the server if one is needed. Callers must limit the time.
    pub async fn check(
        &self,
        name: &Hostname,
        server: SocketAddr,
        asker: &TenantLookups,
        begin: impl Fn() -> Result<StartedConnection, &'static str>,
    ) -> CertificateVerdict {
        let question = (asker.owner, (server, name.clone()));
        loop {
            let under_way = self.0.flights.join(&question);
            if let Some(verdict) = self.verdict(&question) {
                return verdict;
            }
            let mut progress = match under_way.map_or_else(|| self.probe(&question, asker, &begin), Ok) {
                Ok(progress) => progress,
                Err(why) => return CertificateVerdict::Unknown(why),
            };
            // The sender is dropped when the probe has ended.
            let _ = progress.changed().await;
        }
    }

    /// Returns the verdict in the cache for a tenant, if any. Starts no probe.
    pub fn known(
        &self,
        name: &Hostname,
        server: SocketAddr,
        asker: &TenantLookups,
    ) -> Option<CertificateVerdict> {
        self.verdict(&(asker.owner, (server, name.clone())))
    }

    /// Returns the tenant's own verdict, or, unless that is valid or invalid, another tenant's proof if there is one.
    fn verdict(&self, (owner, key): &ProbeKey) -> Option<CertificateVerdict> {
        let now = (self.0.now)();
        let mut verdicts = self.0.lock();
        let mut of =
            |owner| verdicts.get(owner, key).filter(|(_, until)| now < *until).map(|(verdict, _)| *verdict);
        match of(*owner) {
            Some(known @ (CertificateVerdict::Valid | CertificateVerdict::Invalid(_))) => Some(known),
            unknown @ (Some(CertificateVerdict::Unsupported(_) | CertificateVerdict::Unknown(_)) | None) => {
                of(EntryOwner::ALL).or(unknown)
            }
        }
    }

    fn probe(
        &self,
        question: &ProbeKey,
        asker: &TenantLookups,
        begin: impl Fn() -> Result<StartedConnection, &'static str>,
    ) -> Result<AnswerNotices, &'static str> {
        let client = self.0.client.load_full().ok_or("no root certificate is on this machine")?;
        let place = self.0.places.take(&asker.probes).filter(|_| self.0.in_pace(asker));
        let place = place.ok_or("too many certificates were being asked for")?;
        let (flight, progress) = match self.0.flights.begin(question) {
            Ok(new) => new,
            Err(under_way) => return Ok(under_way),
        };
        let (socket, held) = begin()?;
        let probe = CertificateProbe { inner: Arc::clone(&self.0), flight, verdict: None, _place: place };
        self.0.runtime.spawn(async move {
            probe.run(socket, client).await;
            drop(held);
        });
        Ok(progress)
    }
}

impl CertificateCacheInner {
    /// Ignores poisoning: the cache is consistent between calls.
    fn lock(&self) -> MutexGuard<'_, GenerationCache<ProofKey, (CertificateVerdict, Instant)>> {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if the rate limits permit one more probe now.
    fn in_pace(&self, asker: &TenantLookups) -> bool {
        self.pace.take(asker, (self.now)(), EACH_SECOND_OF_ONE, EACH_SECOND)
    }
}

/// A probe in progress. Drop stores the verdict found by then.
struct CertificateProbe {
    inner: Arc<CertificateCacheInner>,
    flight: LookupFlight<ProbeKey>,
    verdict: Option<CertificateVerdict>,
    _place: LookupSlot,
}

impl CertificateProbe {
    async fn run(mut self, socket: TcpStream, client: Arc<ClientConfig>) {
        let (_, (_, name)) = self.flight.key();
        let proof = certificate::prove(socket, name, client);
        self.verdict = timeout(PROBE, proof).await.ok();
    }
}

impl Drop for CertificateProbe {
    fn drop(&mut self) {
        let CertificateCacheInner { meters, now, .. } = &*self.inner;
        let verdict =
            self.verdict.unwrap_or(CertificateVerdict::Unknown("the server did not answer in time"));
        let (meter, counts) = match verdict {
            CertificateVerdict::Valid => (&meters.valid, VALID),
            CertificateVerdict::Invalid(_) => (&meters.invalid, INVALID),
            CertificateVerdict::Unsupported(_) => (&meters.unsupported, INVALID),
            CertificateVerdict::Unknown(_) => (&meters.unknown, UNKNOWN),
        };
        meter.increment(1);
        let until = now() + counts;
        let (owner, key) = self.flight.key();
        let mut verdicts = self.inner.lock();
        verdicts.insert(*owner, key.clone(), (verdict, until));
        if verdict == CertificateVerdict::Valid {
            verdicts.insert(EntryOwner::ALL, key.clone(), (verdict, until));
        }
    }
}

#[cfg(test)]
mod tests;
