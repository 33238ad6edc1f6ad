//! The verifier's thread, on which names are looked up and servers probed, separate from the workers.

use super::anchors::DnssecAnchors;
use super::certificate::TrustedRoots;
use super::certificates::{CertificateCache, ProbeMeters};
use super::dns::DnsServers;
use super::names::{LookupMeters, NameCache};
use super::refresh;
use super::shards::NameKey;
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
pub struct VerifierSettings {
    /// DNS servers; none if no rule needs addresses.
    pub servers: Vec<SocketAddr>,
    /// DNSSEC trust anchors, from which answers must be signed or provably unsigned; `None`: not required.
    pub dnssec: Option<DnssecAnchors>,
    /// Validity of an address beyond its TTL.
    pub grace: Duration,
    /// Trusted certificate authorities.
    pub roots: TrustedRoots,
}

/// Looks up names and probes servers for certificates, until dropped.
pub struct Verifier {
    names: NameCache,
    certificates: CertificateCache,
    settings: VerifierSettings,
    trusts_somebody: bool,
    pins: mpsc::UnboundedSender<HashSet<NameKey>>,
    /// Ends the thread when dropped.
    _stop: oneshot::Sender<()>,
}

impl Verifier {
    /// Starts the thread.
    pub fn start(settings: VerifierSettings, lookups: LookupMeters, probes: ProbeMeters) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let dns = DnsServers::new(&settings.servers, settings.dnssec.clone()).map_err(io::Error::other)?;
        let ask = Box::new(move |name: &_, family| dns.ask(name, family));
        let names = NameCache::new(ask, settings.grace, runtime.handle().clone(), clock::now, lookups);
        let roots = settings.roots.store();
        let trusts_somebody = roots.is_ok();
        let roots = roots.unwrap_or_else(|_| RootCertStore::empty());
        let certificates = CertificateCache::new(roots, runtime.handle().clone(), clock::now, probes);
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
    pub fn settings(&self) -> &VerifierSettings {
        &self.settings
    }

    /// False if there was no root certificate when it was started: then no server can prove a name.
    pub fn trusts_somebody(&self) -> bool {
        self.trusts_somebody
    }

    /// The cache of addresses of names.
    pub fn names(&self) -> &NameCache {
        &self.names
    }

    /// The cache of certificate verdicts.
    pub fn certificates(&self) -> &CertificateCache {
        &self.certificates
    }

    /// Refreshes these names from now on, and no others: before flows request them, and when their TTL ends.
    pub fn pin(&self, keys: HashSet<NameKey>) {
        self.names.pin(&keys);
        let _ = self.pins.send(keys); // the thread outlives this
    }
}
