//! Looks again for DNS servers and roots that the machine did not have when a verifier started.

use super::anchors::DnssecAnchors;
use super::certificate::TrustedRoots;
use super::certificates::CertificateCache;
use super::dns::DnsServers;
use super::lookup_limiter::LookupLimiter;
use super::resolv_conf::system_servers;
use arc_swap::ArcSwap;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::sleep;

/// Time between two looks for DNS servers.
const SERVERS: Duration = Duration::from_secs(1);
/// Time between two looks for root certificates, which are some hundred files.
const ROOTS: Duration = Duration::from_secs(10);

/// DNS servers and root certificates, if they are missing.
pub(super) struct MissingSupplies {
    /// True if DNS servers are missing.
    pub(super) lacks_servers: bool,
    pub(super) dnssec: Option<DnssecAnchors>,
    pub(super) roots: TrustedRoots,
    pub(super) dns: Arc<ArcSwap<DnsServers>>,
    pub(super) lookups: LookupLimiter,
    pub(super) sockets: Arc<Semaphore>,
    pub(super) certificates: CertificateCache,
}

impl MissingSupplies {
    /// Looks for what is missing. Never ends.
    pub(super) async fn watch(self) {
        tokio::join!(self.servers(), self.roots());
        pending::<()>().await;
    }

    async fn servers(&self) {
        if !self.lacks_servers {
            return;
        }
        let found = found(SERVERS, || {
            let servers = system_servers().ok()?;
            DnsServers::new(&servers, self.dnssec.clone(), &self.sockets).ok()
        });
        let found = found.await;
        let servers: Vec<_> = found.addresses().iter().map(SocketAddr::to_string).collect();
        tracing::info!(servers = servers.join(", "), "/etc/resolv.conf names DNS servers now");
        self.lookups.set_each(found.sockets());
        self.dns.store(Arc::new(found));
    }

    async fn roots(&self) {
        if self.certificates.trusts_somebody() {
            return;
        }
        self.certificates.trust(found(ROOTS, || self.roots.store().ok()).await);
        tracing::info!("there are root certificates now");
    }
}

async fn found<T>(every: Duration, look: impl Fn() -> Option<T>) -> T {
    loop {
        sleep(every).await;
        if let Some(found) = look() {
            return found;
        }
    }
}
