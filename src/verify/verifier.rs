//! The thread on which names are looked up: never a worker's.

use super::anchors::Anchors;
use super::certificate::Roots;
use super::certificates::{Certificates, ProbeMeters};
use super::dns::Dns;
use super::names::{LookupMeters, Names};
use super::refresh;
use super::shards::Key;
use crate::clock;
use rustls::RootCertStore;
use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// How names are looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The DNS servers; none if no rule asks for addresses.
    pub servers: Vec<SocketAddr>,
    /// From which keys on answers must be signed, or provably not; `None`: they need not.
    pub dnssec: Option<Anchors>,
    /// How long an address counts after its TTL.
    pub grace: Duration,
    /// Who is trusted to say whose a certificate is.
    pub roots: Roots,
}

/// Looks names up, and asks servers for certificates, until it is dropped.
pub struct Verifier {
    names: Names,
    certificates: Certificates,
    settings: Settings,
    trusts_somebody: bool,
    pins: mpsc::UnboundedSender<HashSet<Key>>,
    /// The thread ends when this is gone.
    _stop: oneshot::Sender<()>,
}

impl Verifier {
    /// Starts the thread.
    pub fn start(settings: Settings, lookups: LookupMeters, probes: ProbeMeters) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let dns = Dns::new(&settings.servers, settings.dnssec.clone()).map_err(io::Error::other)?;
        let ask = Box::new(move |name: &_, family| dns.ask(name, family));
        let names = Names::new(ask, settings.grace, runtime.handle().clone(), clock::now, lookups);
        let roots = settings.roots.store();
        let trusts_somebody = roots.is_ok();
        let roots = roots.unwrap_or_else(|_| RootCertStore::empty());
        let certificates = Certificates::new(roots, runtime.handle().clone(), clock::now, probes);
        let (pins, pinned) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let refreshing = refresh::run(names.clone(), pinned);
        thread::Builder::new().name("verify".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = refreshing => {}
                }
            });
        })?;
        Ok(Self { names, certificates, settings, trusts_somebody, pins, _stop: stop })
    }

    /// What it was started with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// False if there was no root certificate when it was started: then no server can prove a name.
    pub fn trusts_somebody(&self) -> bool {
        self.trusts_somebody
    }

    /// What names are known by.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// What servers have proved.
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// From now on these names are looked up before anybody asks, and again when their TTL ends; no others.
    pub fn pin(&self, keys: HashSet<Key>) {
        self.names.pin(&keys);
        let _ = self.pins.send(keys); // the thread outlives this
    }
}
