//! Which servers proved which names: verdicts, kept, shared and bounded.

use super::certificate::{self, Certificate};
use super::flights::{Flight, Flights, Progress};
use super::memory::{Memory, Owner};
use super::places::{Asker, Pace, Place, Places};
use crate::count::Counter;
use crate::hostname::Hostname;
use rustls::{ClientConfig, RootCertStore};
use std::any::Any;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::time::timeout;

/// A probe takes at most this long, whatever the server does.
const PROBE: Duration = Duration::from_secs(5);
/// Verdicts that are kept, at most twice as many. Each takes some 200 bytes.
const HALF: usize = 16_384;
/// How long a verdict counts: a certificate that expires meanwhile is found out later by as much.
const VALID: Duration = Duration::from_hours(1);
const INVALID: Duration = Duration::from_mins(1);
const UNKNOWN: Duration = Duration::from_secs(5);
/// New probes in a second: servers are not to be flooded on behalf of a client that makes names up.
const EACH_SECOND: u32 = 200;
/// Of one tenant, so that such a client does not stand in the others' way.
const EACH_SECOND_OF_ONE: u32 = 50;

/// A connection that was begun, and what is to be dropped after it.
pub type Begun = (TcpStream, Box<dyn Any + Send>);

/// A server and the name that it is to prove.
type Key = (SocketAddr, Hostname);

/// A probe under way, of one tenant: servers may treat the addresses of tenants differently.
type Question = (Owner, Key);

/// Counts probes by what came of them.
pub struct ProbeMeters {
    /// The certificate is for the name.
    pub valid: Counter,
    /// It is not.
    pub invalid: Counter,
    /// Egret cannot ask such a server.
    pub unsupported: Counter,
    /// Nobody could say.
    pub unknown: Counter,
}

/// What servers have proved. A clone is the same memory.
#[derive(Clone)]
pub struct Certificates(Arc<Inner>);

struct Inner {
    /// With when each stops to count. That a server has proved a name counts for all; what else a tenant found, for itself.
    verdicts: Mutex<Memory<Key, (Certificate, Instant)>>,
    pace: Pace,
    flights: Flights<Question>,
    places: Places,
    client: Arc<ClientConfig>,
    runtime: Handle,
    now: fn() -> Instant,
    meters: ProbeMeters,
}

impl Certificates {
    /// Probes run on `runtime`.
    pub(super) fn new(
        roots: RootCertStore,
        runtime: Handle,
        now: fn() -> Instant,
        meters: ProbeMeters,
    ) -> Self {
        Self(Arc::new(Inner {
            verdicts: Mutex::new(Memory::new(HALF)),
            pace: Pace::default(),
            flights: Flights::default(),
            places: Places::default(),
            client: certificate::client(roots),
            runtime,
            now,
            meters,
        }))
    }

    /// Whether the server proves the name. Waits for a probe if nothing is known; `begin` begins a connection to the
    /// server if one is needed. Bound the time.
    pub async fn check(
        &self,
        name: &Hostname,
        server: SocketAddr,
        asker: &Asker,
        begin: impl Fn() -> Result<Begun, &'static str>,
    ) -> Certificate {
        let question = (asker.owner, (server, name.clone()));
        loop {
            let under_way = self.0.flights.join(&question);
            if let Some(verdict) = self.verdict(&question) {
                return verdict;
            }
            let mut progress = match under_way.map_or_else(|| self.probe(&question, asker, &begin), Ok) {
                Ok(progress) => progress,
                Err(why) => return Certificate::Unknown(why),
            };
            // The other end is gone when the probe has ended.
            let _ = progress.changed().await;
        }
    }

    /// The verdict that is kept for one who asks, if one is. Asks nobody.
    pub fn known(&self, name: &Hostname, server: SocketAddr, asker: &Asker) -> Option<Certificate> {
        self.verdict(&(asker.owner, (server, name.clone())))
    }

    /// The tenant's own verdict. That the server has proved the name to another outweighs only that it could not be asked.
    fn verdict(&self, (owner, key): &Question) -> Option<Certificate> {
        let now = (self.0.now)();
        let mut verdicts = self.0.lock();
        let mut of =
            |owner| verdicts.get(owner, key).filter(|(_, until)| now < *until).map(|(verdict, _)| *verdict);
        match of(*owner) {
            Some(known @ (Certificate::Valid | Certificate::Invalid(_))) => Some(known),
            unknown @ (Some(Certificate::Unsupported(_) | Certificate::Unknown(_)) | None) => {
                of(Owner::ALL).or(unknown)
            }
        }
    }

    fn probe(
        &self,
        question: &Question,
        asker: &Asker,
        begin: impl Fn() -> Result<Begun, &'static str>,
    ) -> Result<Progress, &'static str> {
        let place = self.0.places.take(asker).filter(|_| self.0.in_pace(asker));
        let place = place.ok_or("too many certificates were being asked for")?;
        let (flight, progress) = match self.0.flights.begin(question) {
            Ok(new) => new,
            Err(under_way) => return Ok(under_way),
        };
        let (socket, held) = begin()?;
        let probe = Probe { inner: Arc::clone(&self.0), flight, verdict: None, _place: place };
        self.0.runtime.spawn(async move {
            probe.run(socket).await;
            drop(held);
        });
        Ok(progress)
    }
}

impl Inner {
    /// The memory is whole between calls, whoever panicked.
    fn lock(&self) -> MutexGuard<'_, Memory<Key, (Certificate, Instant)>> {
        self.verdicts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one more may begin in this second.
    fn in_pace(&self, asker: &Asker) -> bool {
        self.pace.take(asker, (self.now)(), EACH_SECOND_OF_ONE, EACH_SECOND)
    }
}

/// One probe under way. Dropped, it has ended, with what was found by then.
struct Probe {
    inner: Arc<Inner>,
    flight: Flight<Question>,
    verdict: Option<Certificate>,
    _place: Place,
}

impl Probe {
    async fn run(mut self, socket: TcpStream) {
        let (_, (_, name)) = self.flight.key();
        let proof = certificate::prove(socket, name, Arc::clone(&self.inner.client));
        self.verdict = timeout(PROBE, proof).await.ok();
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let Inner { meters, now, .. } = &*self.inner;
        let verdict = self.verdict.unwrap_or(Certificate::Unknown("the server did not answer in time"));
        let (meter, counts) = match verdict {
            Certificate::Valid => (&meters.valid, VALID),
            Certificate::Invalid(_) => (&meters.invalid, INVALID),
            Certificate::Unsupported(_) => (&meters.unsupported, INVALID),
            Certificate::Unknown(_) => (&meters.unknown, UNKNOWN),
        };
        meter.increment(1);
        let until = now() + counts;
        let (owner, key) = self.flight.key();
        let mut verdicts = self.inner.lock();
        verdicts.insert(*owner, key.clone(), (verdict, until));
        if verdict == Certificate::Valid {
            verdicts.insert(Owner::ALL, key.clone(), (verdict, until));
        }
    }
}

#[cfg(test)]
mod tests;
