//! Port usage, as answered by `GET /v1/ports`.

use crate::addr::{DialAddr, SourceAddr};
use crate::flow::FlowTable;
use crate::hostname::Hostname;
use serde::{Deserialize, Deserializer, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

/// Most destinations in one answer.
const ROWS: usize = 100;
/// Most tenants and clients listed for one destination.
const HOLDERS: usize = 10;

/// Filter of the ports to report. Absent or empty fields restrict nothing.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PortsQuery {
    /// Name of a pool.
    #[serde(deserialize_with = "unless_empty")]
    pub pool: Option<String>,
    /// Name of a tenant: selects its pool, and the destinations where it has ports.
    #[serde(deserialize_with = "unless_empty")]
    pub tenant: Option<String>,
    /// Destination of the flows.
    #[serde(deserialize_with = "unless_empty")]
    pub destination: Option<DestinationFilter>,
}

/// Filter of destinations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DestinationFilter {
    /// One port of an address.
    Socket(SocketAddr),
    /// All ports of an address.
    Address(IpAddr),
    /// Destinations where most flows request this name.
    Name(Hostname),
}

/// Report of the ports in use.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PortsReport {
    /// Source addresses, in the order of the configuration.
    pub sources: Vec<SourcePorts>,
    /// Hottest destinations, the fullest first; 100 at most.
    pub hot: Vec<DestinationPorts>,
}

/// One source address, or one network whose addresses are derived per client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SourcePorts {
    /// Pool of the address.
    pub pool: Arc<str>,
    /// The address, or the network.
    pub source: String,
    /// Public address, where the configuration states a different one.
    pub public: Option<IpAddr>,
    /// `available`, `draining` or `withdrawn`.
    pub state: String,
    /// Ports towards each destination.
    pub capacity: u16,
    /// Ports leased, towards all destinations.
    pub live: u64,
    /// Ports held, towards all destinations.
    pub held: u64,
    /// Ports live and held towards the hottest destination.
    pub busiest: u16,
}

/// One destination of one source address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DestinationPorts {
    /// The pool of the source address.
    pub pool: Arc<str>,
    /// Source address of the flows.
    pub source: IpAddr,
    /// Public address, where the configuration states a different one.
    pub public: Option<IpAddr>,
    /// Destination of the flows.
    pub destination: SocketAddr,
    /// Name that most of the flows requested.
    pub hostname: Option<String>,
    /// Ports leased.
    pub live: u16,
    /// Ports held.
    pub held: u16,
    /// Total ports.
    pub capacity: u16,
    /// Growth of the ports in use per second; `null` if it is not hot enough to be tracked.
    pub growth_per_second: Option<f64>,
    /// Time to exhaustion at this growth; `null` if there is no growth.
    pub exhausted_in_seconds: Option<u64>,
    /// Tenants with the most live ports, the largest first; 10 at most.
    pub tenants: Vec<TenantPorts>,
    /// Clients with the most live ports, the largest first; 10 at most.
    pub clients: Vec<ClientPorts>,
}

/// A tenant and its live ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantPorts {
    /// Its name.
    pub tenant: Arc<str>,
    /// Number of live ports.
    pub ports: u32,
}

/// A client and its live ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientPorts {
    /// Its address.
    pub client: IpAddr,
    /// Tenant of the client.
    pub tenant: Arc<str>,
    /// Number of live ports.
    pub ports: u32,
}

/// The body of `POST /v1/ports/drain`: starts or stops draining a source address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainOrder {
    /// A source address of a pool.
    pub source: IpAddr,
    /// True: no new leases from it; false: leases again.
    pub on: bool,
}

/// Result of a [`DrainOrder`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainAnswer {
    /// The source address.
    pub source: IpAddr,
    /// New state: `available`, `draining` or `withdrawn`.
    pub state: String,
    /// Pools with this address that have no available address of its family.
    #[serde(default)]
    pub without_address: Vec<Arc<str>>,
}

impl DestinationPorts {
    /// Ports live and held.
    pub fn in_use(&self) -> u16 {
        self.live.saturating_add(self.held)
    }
}

impl FromStr for DestinationFilter {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(socket) = text.parse() {
            return Ok(Self::Socket(socket));
        }
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        // A single label is a slip of the pen: whatever clients ask for has a domain.
        let name = text.parse().ok().filter(|_| text.contains('.'));
        name.map(Self::Name).ok_or("neither ADDRESS[:PORT] nor a name with its domain")
    }
}

impl DestinationFilter {
    fn fits(&self, row: &DestinationPorts) -> bool {
        match self {
            Self::Socket(socket) => row.destination == *socket,
            Self::Address(address) => row.destination.ip() == *address,
            Self::Name(name) => row.hostname.as_deref() == Some(&name.to_string()),
        }
    }
}

/// Selects the requested rows, adds the holders of their ports, and sorts them. `sources` and `hot` are complete, the
/// latter without names and holders.
pub fn report(
    query: &PortsQuery,
    sources: Vec<SourcePorts>,
    hot: Vec<DestinationPorts>,
    table: &FlowTable,
) -> PortsReport {
    let of_pool = |pool: &Arc<str>| query.pool.as_ref().is_none_or(|wanted| **wanted == **pool);
    let sources = sources.into_iter().filter(|row| of_pool(&row.pool)).collect();
    let mut hot: Vec<_> = hot.into_iter().filter(|row| of_pool(&row.pool)).collect();
    let pairs: Vec<_> =
        hot.iter().map(|row| (SourceAddr::new(row.source), DialAddr::tcp(row.destination))).collect();
    let flows = table.towards(&pairs, query.tenant.as_deref(), HOLDERS);
    for (row, flows) in hot.iter_mut().zip(flows) {
        row.hostname = flows.hostname.map(|hostname| hostname.to_string());
        row.tenants =
            flows.tenants.into_iter().map(|(tenant, ports)| TenantPorts { tenant, ports }).collect();
        row.clients = (flows.holders.into_iter())
            .map(|holder| ClientPorts { client: holder.client, tenant: holder.tenant, ports: holder.ports })
            .collect();
    }
    hot.retain(|row| query.destination.as_ref().is_none_or(|wanted| wanted.fits(row)));
    hot.retain(|row| query.tenant.is_none() || !row.tenants.is_empty());
    // a / b > c / d as a × d > c × b
    hot.sort_by(|a, b| {
        let weight = |row: &DestinationPorts, other: &DestinationPorts| {
            u32::from(row.in_use()) * u32::from(other.capacity)
        };
        weight(b, a)
            .cmp(&weight(a, b))
            .then_with(|| (a.source, a.destination).cmp(&(b.source, b.destination)))
    });
    hot.truncate(ROWS);
    PortsReport { sources, hot }
}

/// Parses an empty form field as absent.
fn unless_empty<'de, D: Deserializer<'de>, T: FromStr<Err: std::fmt::Display>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::FlowOpener;
    use crate::flow::fixtures::leased;

    fn hot(pool: &str, source: &str, destination: &str, live: u16, capacity: u16) -> DestinationPorts {
        DestinationPorts {
            pool: pool.into(),
            source: source.parse().unwrap(),
            public: None,
            destination: destination.parse().unwrap(),
            hostname: None,
            live,
            held: 0,
            capacity,
            growth_per_second: Some(0.0),
            exhausted_in_seconds: None,
            tenants: Vec::new(),
            clients: Vec::new(),
        }
    }

    fn source(pool: &str, source: &str) -> SourcePorts {
        SourcePorts {
            pool: pool.into(),
            source: source.into(),
            public: None,
            state: "available".into(),
            capacity: 16,
            live: 3,
            held: 0,
            busiest: 2,
        }
    }

    /// Destinations that a query returns, in order.
    fn asked(query: &PortsQuery) -> Vec<String> {
        let table = Arc::new(FlowTable::default());
        let opener = FlowOpener::new(Arc::clone(&table));
        let flow = |number, tenant, to, hostname| {
            let pair = ("203.0.113.16:5000", to);
            leased(&table, &opener, (number, tenant, "10.0.1.7:40000"), pair, Some(hostname))
        };
        let _flows = [
            flow(0, "acme", "198.51.100.1:443", "api.example.com"),
            flow(1, "beta", "198.51.100.2:443", "b.example.com"),
        ];
        let rows = vec![
            hot("p", "203.0.113.16", "198.51.100.1:443", 1, 16),
            hot("p", "203.0.113.16", "198.51.100.2:443", 4, 32),
            hot("q", "203.0.113.32", "198.51.100.1:80", 16, 16),
        ];
        let sources = vec![source("p", "203.0.113.16"), source("q", "203.0.113.32")];
        let report = report(query, sources, rows, &table);
        let pools: Vec<_> = report.sources.iter().map(|row| &*row.pool).collect();
        assert_eq!(pools, query.pool.as_deref().map_or(vec!["p", "q"], |pool| vec![pool]));
        report.hot.iter().map(|row| row.destination.to_string()).collect()
    }

    #[test]
    fn fullest_sources_come_first_after_filters() {
        assert_eq!(
            asked(&PortsQuery::default()),
            ["198.51.100.1:80", "198.51.100.2:443", "198.51.100.1:443"]
        );
        let pool = PortsQuery { pool: Some("p".into()), ..PortsQuery::default() };
        assert_eq!(asked(&pool), ["198.51.100.2:443", "198.51.100.1:443"]);
        let tenant = PortsQuery { tenant: Some("acme".into()), ..PortsQuery::default() };
        assert_eq!(asked(&tenant), ["198.51.100.1:443"]);
        for (wanted, found) in [
            ("198.51.100.1", &["198.51.100.1:80", "198.51.100.1:443"][..]),
            ("198.51.100.1:443", &["198.51.100.1:443"]),
            ("b.example.com", &["198.51.100.2:443"]),
            ("192.0.2.1", &[]),
        ] {
            let destination = Some(wanted.parse().unwrap());
            assert_eq!(asked(&PortsQuery { destination, ..PortsQuery::default() }), found, "{wanted}");
        }
        for wrong in ["a b", "nonsense", "b.example.com:443", "198.51.100.0/24", "198.51.100"] {
            assert!(wrong.parse::<DestinationFilter>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn ports_answer_is_bounded() {
        let rows = (0..500).map(|n| hot("p", "203.0.113.16", &format!("198.51.100.1:{}", n + 1), n, 1000));
        let report = report(&PortsQuery::default(), Vec::new(), rows.collect(), &FlowTable::default());
        assert_eq!((report.hot.len(), report.hot[0].live), (ROWS, 499));
    }
}
