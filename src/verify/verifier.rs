//! The verifier's thread, on which names are looked up and servers probed, separate from the workers.

use super::anchors::DnssecAnchors;
use super::certificate::TrustedRoots;
use super::certificates::{CertificateCache, ProbeMeters};
use super::dns::DnsServers;
use super::lookup_limiter::VerifierCapacity;
use super::missing::MissingSupplies;
use super::names::{LookupMeters, NameCache};
use super::refresh;
use super::shards::NameKey;
use crate::clock;
use crate::threads;
use arc_swap::ArcSwap;
use rustls::RootCertStore;
use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// Settings of verification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifierSettings {
    /// DNS servers; none if no rule needs addresses, or if the machine has none yet.
    pub servers: Vec<SocketAddr>,
    /// True if they are those of the machine itself.
    pub follows_system: bool,
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
    /// Its servers are those at the start.
    settings: VerifierSettings,
    dns: Arc<ArcSwap<DnsServers>>,
    pins: mpsc::UnboundedSender<HashSet<NameKey>>,
    /// Ends the thread when dropped.
    _stop: oneshot::Sender<()>,
}

impl Verifier {
    /// Starts the thread. `roots`: those of the settings, if there are any.
    pub fn start(
        settings: VerifierSettings,
        roots: Option<RootCertStore>,
        capacity: &VerifierCapacity,
        lookups: LookupMeters,
        probes: ProbeMeters,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let dns = DnsServers::new(&settings.servers, settings.dnssec.clone(), &capacity.sockets)
            .map_err(io::Error::other)?;
        let places = capacity.lookups.with_each(dns.sockets());
        let dns = Arc::new(ArcSwap::from_pointee(dns));
        let asked = Arc::clone(&dns);
        let ask = Box::new(move |name: &_, family| asked.load().ask(name, family));
        let names = NameCache::new(
            ask,
            settings.grace,
            places.clone(),
            runtime.handle().clone(),
            clock::now,
            lookups,
        );
        let certificates =
            CertificateCache::new(capacity.probes.clone(), runtime.handle().clone(), clock::now, probes);
        if let Some(roots) = roots {
            certificates.trust(roots);
        }
        let (pins, pinned) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let refreshing = refresh::run(names.clone(), pinned);
        let supplies = MissingSupplies {
            lacks_servers: settings.follows_system && settings.servers.is_empty(),
            dnssec: settings.dnssec.clone(),
            roots: settings.roots.clone(),
            dns: Arc::clone(&dns),
            lookups: places,
            sockets: Arc::clone(&capacity.sockets),
            certificates: certificates.clone(),
        };
        threads::spawn("verify", move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = stopped => {}
                    () = refreshing => {}
                    () = supplies.watch() => {}
                }
            });
        })?;
        Ok(Self { names, certificates, settings, dns, pins, _stop: stop })
    }

    /// True if one with these settings would be the same.
    pub fn is_of(&self, settings: &VerifierSettings) -> bool {
        *settings == VerifierSettings { servers: self.servers(), ..self.settings.clone() }
    }

    /// The DNS servers that are asked.
    pub fn servers(&self) -> Vec<SocketAddr> {
        self.dns.load().addresses()
    }

    /// True if it asks the DNS servers of the machine itself.
    pub fn follows_system(&self) -> bool {
        self.settings.follows_system
    }

    /// True while the machine itself has no DNS server that it could ask.
    pub fn lacks_servers(&self) -> bool {
        self.follows_system() && self.dns.load().addresses().is_empty()
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
