//! Queries every DNS server separately and merges their answers.

mod server;
mod sockets;

pub use server::SOCKETS;

use super::anchors::DnssecAnchors;
use super::known::NameAnswer;
use super::resolv_conf;
use crate::family::Family;
use crate::hostname::Hostname;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::ProtoError;
use hickory_resolver::proto::dnssec::Proof;
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use server::{ResolverServer, SIGNED_SOCKETS, ServerResolver};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};

/// TTL of a negative answer that specifies none.
const NEGATIVE_TTL: Duration = Duration::from_secs(10);
/// Maximum names in a CNAME chain, including the first.
const MOST_ALIASES: usize = 16;

/// DNS servers and the trust anchors for their answers.
#[derive(Clone)]
pub(super) struct DnsServers {
    servers: Arc<[ResolverServer]>,
    /// `None`: no DNSSEC validation.
    anchors: Option<Arc<DnssecAnchors>>,
}

impl DnsServers {
    /// Creates the servers. With anchors, answers count only if they are signed from one of them, or provably unsigned.
    /// `places`: those of all sockets; a query that finds none has no answer.
    pub(super) fn new(
        servers: &[SocketAddr],
        anchors: Option<DnssecAnchors>,
        places: &Arc<Semaphore>,
    ) -> Result<Self, NetError> {
        let anchors = anchors.map(Arc::new);
        let servers: Result<_, _> =
            servers.iter().map(|server| ResolverServer::new(*server, anchors.as_deref(), places)).collect();
        Ok(Self { servers: servers?, anchors })
    }

    /// Addresses of the servers.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(ResolverServer::address).collect()
    }

    /// Most sockets that one lookup has open, with DNSSEC an estimate. Servers that are not known yet may be as many as there can be.
    pub(super) fn sockets(&self) -> usize {
        let known = self.servers.len();
        let each = if self.anchors.is_some() { SIGNED_SOCKETS } else { SOCKETS };
        each * if known == 0 { resolv_conf::MOST } else { known }
    }

    /// Queries all servers concurrently.
    pub(super) fn ask(&self, name: &Hostname, family: Family) -> mpsc::Receiver<NameAnswer> {
        let (said, answers) = mpsc::channel(self.servers.len().max(1));
        // Nobody answers for a name that cannot be asked for.
        let Ok(name) = question(name) else { return answers };
        for server in 0..self.servers.len() {
            let (dns, name, said) = (self.clone(), name.clone(), said.clone());
            tokio::spawn(async move {
                // The lookup's time may be over before the query's.
                tokio::select! {
                    answer = dns.query(server, &name, family) => if let Some(answer) = answer {
                        let _ = said.send(answer).await;
                    },
                    () = said.closed() => {}
                }
            });
        }
        answers
    }

    async fn query(&self, server: usize, name: &Name, family: Family) -> Option<NameAnswer> {
        let kind = if family == Family::V4 { RecordType::A } else { RecordType::AAAA };
        let server = &self.servers[server];
        server.ask(|resolver| self.query_by(resolver, name, family, kind)).await
    }

    async fn query_by(
        &self,
        resolver: &ServerResolver,
        name: &Name,
        family: Family,
        kind: RecordType,
    ) -> Option<NameAnswer> {
        match resolver.lookup(name.clone(), kind).await {
            Ok(found) => said(found.query().name(), family, found.answers(), self.anchors.as_deref()),
            Err(error) => absence(error),
        }
    }
}

/// The name as a question has it: its labels byte for byte, and absolute, so that no search domain is tried. From text the
/// library would take fewer names: no underscore after a label's first byte, no hyphen at its edges, valid Punycode alone.
fn question(name: &Hostname) -> Result<Name, ProtoError> {
    Name::from_labels(name.as_str().split('.').map(str::as_bytes))
}

/// Interprets an answer's records about the name; `None` if there are none, or if one that would count is not proven.
/// Records of other names are ignored, however well they are signed: anybody can have those of a zone of his own.
fn said(
    name: &Name,
    family: Family,
    records: &[Record],
    anchors: Option<&DnssecAnchors>,
) -> Option<NameAnswer> {
    let proven = |record: &&Record| anchors.is_none_or(|anchors| anchors.prove(record));
    let mut owner = name;
    let mut ttl = u32::MAX;
    for _ in 0..MOST_ALIASES {
        let mut addresses = Vec::new();
        for record in records.iter().filter(|record| record.name == *owner) {
            let address = match (&record.data, family) {
                (RData::A(address), Family::V4) => IpAddr::V4(address.0),
                (RData::AAAA(address), Family::V6) => IpAddr::V6(address.0),
                _ => continue,
            };
            addresses.push(Some(record).filter(proven).map(|_| address)?);
            // TTLs of aliases limit the time too.
            ttl = ttl.min(record.ttl);
        }
        if !addresses.is_empty() {
            return Some(NameAnswer::Addresses(addresses, Duration::from_secs(ttl.into())));
        }
        let alias = records.iter().filter(|record| record.name == *owner).find_map(|record| {
            let RData::CNAME(target) = &record.data else { return None };
            Some((record, &target.0))
        });
        let (record, target) = alias.filter(|(record, _)| proven(record))?;
        ttl = ttl.min(record.ttl);
        owner = target;
    }
    None
}

/// Interprets an error as a negative answer; `None` if the server or the network failed.
fn absence(error: NetError) -> Option<NameAnswer> {
    let NetError::Dns(error) = error else { return None };
    match error {
        DnsError::NoRecordsFound(none)
            if matches!(none.response_code, ResponseCode::NXDomain | ResponseCode::NoError) =>
        {
            let ttl = none.negative_ttl.map_or(NEGATIVE_TTL, |ttl| Duration::from_secs(ttl.into()));
            Some(NameAnswer::Absent(ttl))
        }
        DnsError::Nsec { proof: Proof::Secure | Proof::Insecure, .. } => {
            Some(NameAnswer::Absent(NEGATIVE_TTL))
        }
        DnsError::NoRecordsFound(_)
        | DnsError::Nsec { .. }
        | DnsError::ResponseCode(_)
        | DnsError::DnssecBogus
        | _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::proto::rr::rdata::{A, CNAME};
    use std::io::ErrorKind::WouldBlock;
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::thread;

    const HERE: [u8; 4] = [192, 0, 2, 1];
    const THERE: [u8; 4] = [203, 0, 113, 66];

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn address(owner: &str, ip: [u8; 4], proof: Proof) -> Record {
        let mut record = Record::from_rdata(name(owner), 60, RData::A(A(ip.into())));
        record.proof = proof;
        record
    }

    fn alias(owner: &str, target: &str, proof: Proof) -> Record {
        let mut record = Record::from_rdata(name(owner), 30, RData::CNAME(CNAME(name(target))));
        record.proof = proof;
        record
    }

    fn heard(records: &[Record], anchors: Option<&DnssecAnchors>) -> Option<NameAnswer> {
        said(&name("api.example.org."), Family::V4, records, anchors)
    }

    fn here(ttl: u64) -> NameAnswer {
        NameAnswer::Addresses(vec![IpAddr::from(HERE)], Duration::from_secs(ttl))
    }

    fn dns(servers: &[SocketAddr], anchors: Option<DnssecAnchors>, places: usize) -> DnsServers {
        DnsServers::new(servers, anchors, &Arc::new(Semaphore::new(places))).unwrap()
    }

    #[tokio::test]
    async fn query_without_place_has_no_answer() {
        let (address, _connections) = truncating(1);
        let name: Hostname = "a.example.org".parse().unwrap();
        for (anchors, places, answers) in [(None, 0, false), (Some(ROOT), 0, false), (None, 8, true)] {
            let dns = dns(&[address], anchors, places);
            let answer = dns.ask(&name, Family::V4).recv().await;
            assert_eq!(answer.is_some(), answers, "{places}: {answer:?}");
        }
    }

    #[test]
    fn signed_lookups_count_more_sockets() {
        let server = SocketAddr::from((HERE, 53));
        let sockets = |servers: &[_], anchors| dns(servers, anchors, 1).sockets();
        assert_eq!((sockets(&[server], None), sockets(&[server; 3], None)), (8, 24));
        assert_eq!((sockets(&[server], Some(ROOT)), sockets(&[server; 3], Some(ROOT))), (36, 108));
        assert_eq!((sockets(&[], None), sockets(&[], Some(ROOT))), (64, 288));
    }

    /// Answers by UDP that the answer is truncated, once all lookups are under way, and by TCP that there is no such name. Yields
    /// the connections.
    fn truncating(lookups: usize) -> (SocketAddr, mpsc::UnboundedReceiver<TcpStream>) {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        let udp = std::net::UdpSocket::bind(address).unwrap();
        thread::spawn(move || {
            let mut queries = Vec::new();
            loop {
                let mut query = [0; 1024];
                let (length, from) = udp.recv_from(&mut query).unwrap();
                query[2] |= 0x82; // response, truncated
                queries.push((query, length, from));
                if queries.len() >= lookups {
                    for (query, length, from) in &queries {
                        let _ = udp.send_to(&query[..*length], from);
                    }
                }
            }
        });
        let (accepted, connections) = mpsc::unbounded_channel();
        thread::spawn(move || {
            for mut connection in tcp.incoming().map(Result::unwrap) {
                accepted.send(connection.try_clone().unwrap()).unwrap();
                thread::spawn(move || {
                    let mut length = [0; 2];
                    while connection.read_exact(&mut length).is_ok() {
                        let mut query = vec![0; u16::from_be_bytes(length).into()];
                        connection.read_exact(&mut query).unwrap();
                        query[2] |= 0x80; // response
                        query[3] |= 3; // NXDOMAIN
                        connection.write_all(&[&length[..], &query].concat()).unwrap();
                    }
                });
            }
        });
        (address, connections)
    }

    #[tokio::test]
    async fn connections_left_by_lookups_are_counted() {
        const LOOKUPS: usize = 4;
        let (address, mut connections) = truncating(LOOKUPS);
        let dns = dns(&[address], None, 64);
        let lookups: Vec<_> = (0..LOOKUPS)
            .map(|n| dns.ask(&format!("n{n}.example.com").parse().unwrap(), Family::V4))
            .collect();
        for mut answers in lookups {
            assert!(matches!(answers.recv().await, Some(NameAnswer::Absent(_))));
        }
        let mut left = 0;
        while let Ok(connection) = connections.try_recv() {
            connection.set_nonblocking(true).unwrap();
            left += usize::from(connection.peek(&mut [0]).is_err_and(|error| error.kind() == WouldBlock));
        }
        assert!(left > 0, "the first opened one");
        // Three sockets of each query are closed with it.
        assert!(left <= LOOKUPS * (dns.sockets() - 6), "{left}");
    }

    #[tokio::test]
    async fn every_hostname_is_asked_for() {
        let odd =
            ["my_bucket.s3.example.org", "b_.a", "_a", "-foo.example.org", "foo-.a", "-", "xn--0.a", "a"];
        let longest = format!("{}com", "a23456789.".repeat(25));
        let (address, _connections) = truncating(1);
        let dns = dns(&[address], None, 64);
        for name in odd.into_iter().chain([&*longest]) {
            let name: Hostname = name.parse().unwrap();
            let labels: Vec<_> = question(&name).unwrap().iter().map(<[u8]>::to_vec).collect();
            assert_eq!(labels.join(&b'.'), name.as_str().as_bytes());
            let answer = dns.ask(&name, Family::V4).recv().await;
            assert!(matches!(answer, Some(NameAnswer::Absent(_))), "{name}: {answer:?}");
        }
    }

    const ROOT: DnssecAnchors = DnssecAnchors { root: true, given: Vec::new() };

    #[test]
    fn records_of_other_names_are_ignored() {
        let real = address("api.example.org.", HERE, Proof::Secure);
        let smuggled = address("www.forger.example.", THERE, Proof::Secure);
        for anchors in [None, Some(&ROOT)] {
            assert_eq!(heard(&[smuggled.clone(), real.clone()], anchors), Some(here(60)));
            assert_eq!(heard(std::slice::from_ref(&smuggled), anchors), None);
        }
    }

    #[test]
    fn aliases_follow_in_any_order() {
        let records = [
            address("c.example.net.", HERE, Proof::Secure),
            alias("b.example.net.", "C.example.net.", Proof::Insecure),
            alias("API.example.org.", "b.example.net.", Proof::Secure),
            address("b.example.org.", THERE, Proof::Secure),
        ];
        assert_eq!(heard(&records, Some(&ROOT)), Some(here(30)));
        let turning = [
            alias("api.example.org.", "b.example.net.", Proof::Secure),
            alias("b.example.net.", "api.example.org.", Proof::Secure),
        ];
        assert_eq!(heard(&turning, None), None);
    }

    #[test]
    fn one_unproven_record_invalidates_the_answer() {
        for unproven in [Proof::Bogus, Proof::Indeterminate] {
            let pair = [
                address("api.example.org.", HERE, Proof::Secure),
                address("api.example.org.", THERE, unproven),
            ];
            let aliased = [
                alias("api.example.org.", "b.example.net.", unproven),
                address("b.example.net.", THERE, Proof::Secure),
            ];
            assert_eq!(heard(&pair, Some(&ROOT)), None);
            assert_eq!(heard(&aliased, Some(&ROOT)), None);
            assert!(heard(&pair, None).is_some() && heard(&aliased, None).is_some(), "nobody asked");
        }
    }

    #[test]
    fn insecure_records_below_anchor_are_ignored() {
        let file = b"; a key\nexample.ORG.\t3600 IN DNSKEY 257 3 13 \
            1PhVryJMqlVKkOMbRvkmpOteUEDtIzJkjNw5s+1u4BjUhZKqjbHPGoVBLpdam3XMTGC9hpTwlT1YUTmrW41A8A==\n";
        let given = super::super::anchors::ZoneKey::parse(file).unwrap();
        assert_eq!(given.len(), 1);
        let own = DnssecAnchors { root: true, given };
        let unsigned = [address("api.example.org.", HERE, Proof::Insecure)];
        let signed = [address("api.example.org.", HERE, Proof::Secure)];
        let outside = [
            alias("api.example.org.", "b.example.net.", Proof::Secure),
            address("b.example.net.", HERE, Proof::Insecure),
        ];
        assert_eq!((heard(&unsigned, Some(&ROOT)), heard(&unsigned, Some(&own))), (Some(here(60)), None));
        assert_eq!(
            (heard(&signed, Some(&own)), heard(&outside, Some(&own))),
            (Some(here(60)), Some(here(30)))
        );
    }
}
