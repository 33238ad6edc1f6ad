//! The DNS servers, each asked by itself: their answers add up.

use super::known::Answer;
use crate::addr::Family;
use crate::hostname::Hostname;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::dnssec::Proof;
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::{Resolver, TokioResolver};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// For the answer to one query; it is sent twice.
const QUERY: Duration = Duration::from_secs(2);
/// What a negative answer counts for if it does not say itself.
const NEGATIVE_TTL: Duration = Duration::from_secs(10);

/// Servers to ask.
#[derive(Clone)]
pub(super) struct Dns {
    servers: Arc<[TokioResolver]>,
    dnssec: bool,
}

impl Dns {
    /// With `dnssec`, answers count only if they are signed from the root on, or provably not.
    pub(super) fn new(servers: &[SocketAddr], dnssec: bool) -> Result<Self, NetError> {
        let servers: Result<_, _> = servers.iter().map(|server| resolver(*server, dnssec)).collect();
        Ok(Self { servers: servers?, dnssec })
    }

    /// Asks all of them at once.
    pub(super) fn ask(&self, name: &Hostname, family: Family) -> mpsc::Receiver<Answer> {
        let (said, answers) = mpsc::channel(self.servers.len().max(1));
        // With the dot it is whole: no search domain is tried.
        let name = format!("{name}.");
        for server in 0..self.servers.len() {
            let (dns, name, said) = (self.clone(), name.clone(), said.clone());
            tokio::spawn(async move {
                if let Some(answer) = dns.query(server, &name, family).await {
                    let _ = said.send(answer).await; // the lookup's time may be over
                }
            });
        }
        answers
    }

    async fn query(&self, server: usize, name: &str, family: Family) -> Option<Answer> {
        let kind = if family == Family::V4 { RecordType::A } else { RecordType::AAAA };
        let lookup = match self.servers[server].lookup(name, kind).await {
            Ok(lookup) => lookup,
            Err(error) => return absence(error),
        };
        let mut addresses = Vec::new();
        let mut ttl = u32::MAX;
        for record in lookup.answers() {
            let proven = !self.dnssec || matches!(record.proof, Proof::Secure | Proof::Insecure);
            // Names on the way (CNAME) bound the time too.
            ttl = ttl.min(record.ttl);
            match (&record.data, family) {
                (RData::A(address), Family::V4) if proven => addresses.push(IpAddr::V4(address.0)),
                (RData::AAAA(address), Family::V6) if proven => addresses.push(IpAddr::V6(address.0)),
                _ => {}
            }
        }
        let ttl = Duration::from_secs(ttl.into());
        Some(if addresses.is_empty() { Answer::Absent(ttl) } else { Answer::Addresses(addresses, ttl) })
    }
}

/// What an error says of the name; `None` if it says nothing, because the server or the way to it failed.
fn absence(error: NetError) -> Option<Answer> {
    let NetError::Dns(error) = error else { return None };
    match error {
        DnsError::NoRecordsFound(none)
            if matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError) =>
        {
            let ttl = none.negative_ttl.map_or(NEGATIVE_TTL, |ttl| Duration::from_secs(ttl.into()));
            Some(Answer::Absent(ttl))
        }
        DnsError::Nsec { proof: Proof::Secure | Proof::Insecure, .. } => Some(Answer::Absent(NEGATIVE_TTL)),
        DnsError::NoRecordsFound(_)
        | DnsError::Nsec { .. }
        | DnsError::ResponseCode(_)
        | DnsError::DnssecBogus
        | _ => None,
    }
}

fn resolver(server: SocketAddr, dnssec: bool) -> Result<TokioResolver, NetError> {
    let mut name_server = NameServerConfig::udp_and_tcp(server.ip());
    for connection in &mut name_server.connections {
        connection.port = server.port();
    }
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![name_server]);
    let mut options = ResolverOpts::default();
    options.timeout = QUERY;
    // tries after the first
    options.attempts = 1;
    options.validate = dnssec;
    // Answers are kept here alone, where their age shows.
    options.cache_size = 0;
    // What counts is what DNS says, to clients too.
    options.use_hosts_file = ResolveHosts::Never;
    options.max_active_requests = 1024;
    Resolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options).build()
}

/// The servers that the machine itself asks: those of `/etc/resolv.conf`.
pub fn system_servers() -> Result<Vec<SocketAddr>, String> {
    let wrong = |why: &dyn std::fmt::Display| {
        format!("/etc/resolv.conf names no DNS server ({why}); write some in `[resolver] servers`")
    };
    let (config, _) = hickory_resolver::system_conf::read_system_conf().map_err(|error| wrong(&error))?;
    let servers = config.name_servers.iter().map(|server| {
        let port = server.connections.first().map_or(53, |connection| connection.port);
        SocketAddr::new(server.ip, port)
    });
    let servers: Vec<_> = servers.collect();
    if servers.is_empty() { Err(wrong(&"it has no `nameserver` line")) } else { Ok(servers) }
}
