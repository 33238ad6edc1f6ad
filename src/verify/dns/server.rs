//! One DNS server, queried with and without EDNS: old servers and middleboxes refuse or drop queries with it.

use super::super::anchors::DnssecAnchors;
use super::super::known::NameAnswer;
use super::sockets::ConnectedSockets;
use crate::clock;
use hickory_resolver::Resolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Timeout of one query; it is sent twice.
const QUERY: Duration = Duration::from_secs(2);
/// Time without an answer after which the other mode is tried in parallel.
const HEDGE: Duration = Duration::from_secs(1);
/// Time for which a server that answered only without EDNS is queried that way first.
const PLAIN: Duration = Duration::from_secs(600);

/// Sockets of one query: three, as it is sent again meanwhile, and the TCP connection that a truncated answer opens. That stays
/// open after the query, for later ones, until the server closes it.
const OF_A_QUERY: usize = 3 + 1;
/// Sockets of one lookup at one server, which is queried in two modes.
pub const SOCKETS: usize = 2 * OF_A_QUERY;
/// The same with DNSSEC: the keys of up to nine signatures of a record set are queried at once, in one mode.
/// An estimate: what is queried for each of those keys in turn depends on the zones. The bound is that of all sockets.
pub(super) const SIGNED_SOCKETS: usize = 9 * OF_A_QUERY;

/// A resolver that queries one server.
pub(super) type ServerResolver = Resolver<ConnectedSockets>;

/// A server with its two query modes.
pub(super) struct ResolverServer {
    address: SocketAddr,
    with_edns: ServerResolver,
    /// `None` under DNSSEC, which needs EDNS.
    without_edns: Option<ServerResolver>,
    /// Time until which queries without EDNS go first.
    plain_until: Mutex<Option<Instant>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Edns {
    On,
    Off,
}

impl ResolverServer {
    pub(super) fn new(
        address: SocketAddr,
        anchors: Option<&DnssecAnchors>,
        places: &Arc<Semaphore>,
    ) -> Result<Self, NetError> {
        let plain = anchors.is_none().then(|| resolver(address, None, Edns::Off, places));
        Ok(Self {
            address,
            with_edns: resolver(address, anchors, Edns::On, places)?,
            without_edns: plain.transpose()?,
            plain_until: Mutex::default(),
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Queries in the mode that this server answered last, and in the other if that fails or is slow (RFC 6891 §6.2.2,
    /// §7). The first answer wins.
    pub(super) async fn ask<'a, F>(&'a self, ask: impl Fn(&'a ServerResolver) -> F) -> Option<NameAnswer>
    where
        F: Future<Output = Option<NameAnswer>>,
    {
        let with_edns = &self.with_edns;
        let Some(without_edns) = &self.without_edns else { return ask(with_edns).await };
        let prefers_plain = self.prefers_plain();
        let (first, second) =
            if prefers_plain { (without_edns, with_edns) } else { (with_edns, without_edns) };
        let (answer, is_second) = hedged(ask(first), ask(second)).await;
        if answer.is_some() && is_second {
            self.prefer_plain(!prefers_plain);
        }
        answer
    }

    fn prefers_plain(&self) -> bool {
        self.lock().is_some_and(|until| clock::now() < until)
    }

    fn prefer_plain(&self, plain: bool) {
        let until = plain.then(|| clock::now() + PLAIN);
        let before = std::mem::replace(&mut *self.lock(), until);
        if plain && before.is_none() {
            tracing::info!(server = %self.address, "a DNS server answers without EDNS and not with it: asked without");
        }
    }

    /// Ignores poisoning: the lock guards a single value.
    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.plain_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the first answer, and true if it is the second's. The second starts when the first has failed or is slow.
async fn hedged<T>(
    first: impl Future<Output = Option<T>>,
    second: impl Future<Output = Option<T>>,
) -> (Option<T>, bool) {
    let (mut first, mut second) = (pin!(first), pin!(second));
    match timeout(HEDGE, &mut first).await {
        Ok(None) => (second.await, true),
        Ok(answer) => (answer, false),
        Err(_) => {
            tokio::select! {
                answer = &mut first => match answer {
                    None => (second.await, true),
                    answer => (answer, false),
                },
                answer = &mut second => match answer {
                    None => (first.await, false),
                    answer => (answer, true),
                },
            }
        }
    }
}

fn resolver(
    server: SocketAddr,
    anchors: Option<&DnssecAnchors>,
    edns: Edns,
    places: &Arc<Semaphore>,
) -> Result<ServerResolver, NetError> {
    let mut name_server = NameServerConfig::udp_and_tcp(server.ip());
    for connection in &mut name_server.connections {
        connection.port = server.port();
    }
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![name_server]);
    let mut options = ResolverOpts::default();
    options.timeout = QUERY;
    options.edns0 = edns == Edns::On;
    // retries after the first try
    options.attempts = 1;
    // CNAME chains are followed here.
    options.preserve_intermediates = true;
    // Answers are cached here only, with their age.
    options.cache_size = 0;
    // Clients get DNS answers too, so the hosts file must not count.
    options.use_hosts_file = ResolveHosts::Never;
    options.max_active_requests = 1024;
    let mut builder =
        Resolver::builder_with_config(config, ConnectedSockets::to(server, places)).with_options(options);
    if let Some(anchors) = anchors {
        builder = builder.with_trust_anchor(Arc::new(anchors.store()));
    }
    builder.build()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};
    use tokio::time::{Instant, sleep};

    async fn after(millis: u64, answer: Option<u8>) -> Option<u8> {
        sleep(Duration::from_millis(millis)).await;
        answer
    }

    #[tokio::test(start_paused = true)]
    async fn hedged_query_starts_after_failure_or_second() {
        let start = Instant::now();
        assert_eq!(hedged(ready(Some(1)), ready(Some(2))).await, (Some(1), false));
        assert_eq!(hedged(ready(None), ready(Some(2))).await, (Some(2), true));
        assert_eq!(hedged(ready(None), ready(None::<u8>)).await, (None, true));
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert_eq!(hedged(pending(), ready(Some(2))).await, (Some(2), true));
        assert_eq!(start.elapsed(), HEDGE);
        assert_eq!(hedged(after(1500, Some(1)), after(900, Some(2))).await, (Some(1), false));
        assert_eq!(hedged(after(1500, None), after(900, Some(2))).await, (Some(2), true));
        assert_eq!(hedged(after(1500, Some(1)), ready(None)).await, (Some(1), false));
    }
}
