//! The verifier's thread, on which names are looked up and servers probed, separate from the workers.

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

/// Settings of verification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// DNS servers; none if no rule needs addresses.
    pub servers: Vec<SocketAddr>,
    /// DNSSEC trust anchors, from which answers must be signed or provably unsigned; `None`: not required.
    pub dnssec: Option<Anchors>,
    /// Validity of an address beyond its TTL.
    pub grace: Duration,
    /// Trusted certificate authorities.
    pub roots: Roots,
}

/// Looks up names and probes servers for certificates, until dropped.
pub struct Verifier {
    names: Names,
    certificates: Certificates,
    settings: Settings,
    trusts_somebody: bool,
    pins: mpsc::UnboundedSender<HashSet<Key>>,
    /// Ends the thread when dropped.
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

    /// Settings that it was started with.
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

    /// The cache of certificate verdicts.
    pub fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// Refreshes these names from now on, and no others: before flows request them, and when their TTL ends.
    pub fn pin(&self, keys: HashSet<Key>) {
        self.names.pin(&keys);
        let _ = self.pins.send(keys); // the thread outlives this
    }
}
