//! The two legs of a flow, each tried by one connection that carries many full packets.

use super::cause::{ConnectionEvidence, LossCause, LostPart};
use super::counters::Counters;
use super::cure::{Cure, Leg};
use super::exchange::{Ends, Patience, ProbeExchange, TooBig, User};
use super::probe::{ProbeHost, ProbePorts, Spot};
use super::request::{Language, PROBE_NAME, http, told};
use super::shown::{family_name, names};
use super::spot;
use super::stand_in::{BODY, StandIn};
use super::trace::Trace;
use crate::cli::doctor::TenantClients;
use crate::cli::findings::CheckFinding;
use crate::steering::{InterceptedPorts, SteeredPool, SteeringParams};
use ipnet::IpNet;
use rand::RngExt as _;
use std::io;
use std::net::{IpAddr, SocketAddr};

/// Above the ports that Linux chooses by itself, so that no real client has a connection with them.
const CLIENT_PORTS: std::ops::Range<u16> = 61_008..65_008;
/// Addresses of pools that are tried; the packet filter rarely tells more of them apart.
const POOL_ADDRESSES: usize = 6;
/// Attempts have a port each.
pub(super) const ATTEMPTS: u16 = 16;
/// Why a lost ICMP error matters.
const TOO_BIG_WHY: &str = "where a hop on the way takes smaller packets only, large answers hang";

/// Connections of a tenant's clients to the gateway.
pub(super) struct ClientLeg<'a> {
    pub(super) params: &'a SteeringParams,
    pub(super) tenant: &'a TenantClients,
    pub(super) v4: bool,
    pub(super) steered: &'a [String],
    pub(super) destinations: &'a [IpAddr],
}

/// Connections from pool addresses to a server.
pub(super) struct PoolLeg<'a> {
    pub(super) params: &'a SteeringParams,
    pub(super) v4: bool,
    pub(super) destinations: &'a [IpAddr],
    pub(super) outside: &'a [Outside],
    /// That of the gateway, if it runs.
    pub(super) user: Option<User>,
}

/// A probe that plays the client, and how often it has.
pub(super) struct Caller {
    pub(super) spot: Spot,
    probe: ProbeHost,
    base: u16,
    attempts: u16,
}

impl Caller {
    pub(super) fn new(spot: Spot) -> Result<Self, String> {
        let base = rand::rng().random_range(CLIENT_PORTS) & !(ATTEMPTS - 1);
        let probe = ProbeHost::attach(&spot, ProbePorts { base, mask: !(ATTEMPTS - 1) })?;
        Ok(Self { spot, probe, base, attempts: 0 })
    }

    pub(super) fn call(&mut self, server: SocketAddr, request: &[u8], patience: Patience) -> ProbeExchange {
        let client = SocketAddr::new(self.spot.address, self.base + self.attempts % ATTEMPTS);
        self.attempts += 1;
        // What the machine believes of a real client's path would slow the client down.
        let tell_too_big = self.spot.mac.is_none() || !self.spot.shared;
        ProbeExchange::from_client(&self.probe, Ends { client, server }, request, tell_too_big, patience)
    }

    /// Calls again, and looks where it gets lost.
    pub(super) fn watch(
        &mut self,
        server: SocketAddr,
        request: &[u8],
    ) -> (ProbeExchange, ConnectionEvidence) {
        let spot = self.spot.clone();
        let port = spot.shared.then_some((self.base, ATTEMPTS));
        let (exchange, mut evidence) =
            watched(&spot, &[spot.address], port, || self.call(server, request, Patience::LONG));
        evidence.found_gateway = self.probe.found_gateway(&spot);
        (exchange, evidence)
    }
}

/// An attempt, and everything that was seen meanwhile of packets from and to the probe, with all these addresses.
fn watched(
    spot: &Spot,
    addresses: &[IpAddr],
    port: Option<(u16, u16)>,
    attempt: impl FnOnce() -> ProbeExchange,
) -> (ProbeExchange, ConnectionEvidence) {
    let address = spot.address;
    let ip = if address.is_ipv4() { "ip" } else { "ip6" };
    let ports = |side: &str| {
        port.map(|(base, count)| format!(" tcp {side} {base}-{}", base + count - 1)).unwrap_or_default()
    };
    let (from, to) = (
        format!("{ip} saddr {address}{}", ports("sport")),
        format!("{ip} daddr {address}{}", ports("dport")),
    );
    let trace = Trace::start(&from, &to, &spot.enters.name);
    let before = Counters::read(address.is_ipv4());
    let exchange = attempt();
    let after = Counters::read(address.is_ipv4());
    let events = trace.map(|trace| trace.finish(addresses));
    (exchange, ConnectionEvidence { events, before, after, found_gateway: true })
}

/// The part that got lost, if any.
pub(super) fn lost(exchange: &ProbeExchange) -> Option<LostPart> {
    let silent =
        |error: &io::Error| matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
    if exchange.handshake.is_err() {
        Some(LostPart::Handshake)
    } else if exchange.answer.as_ref().is_err_and(silent) {
        Some(LostPart::Data)
    } else {
        (exchange.too_big == TooBig::Lost).then_some(LostPart::TooBig)
    }
}

/// A connection that went well, in words.
pub(super) fn success(exchange: &ProbeExchange) -> String {
    let answer = match &exchange.answer {
        Ok(answer) => told(answer),
        Err(error) => format!("then ended: {error}"),
    };
    let too_big = match exchange.too_big {
        TooBig::Heeded(mtu) => format!(", path MTU {mtu} heeded"),
        TooBig::NotTried | TooBig::Lost => String::new(),
    };
    format!("handshake, {} bytes sent, {answer}{too_big}", exchange.sent)
}

/// The finding for a connection that lost something.
pub(super) fn failure(leg: Leg, lost: LostPart, who: &str, cause: LossCause) -> CheckFinding {
    let LossCause { found, cure } = cause;
    match lost {
        LostPart::Handshake | LostPart::Data => {
            CheckFinding::fail(leg.check(), format!("{who}: {found}"), leg.why(), cure)
        }
        LostPart::TooBig => CheckFinding::warn(leg.check(), format!("{who}: {found}"), TOO_BIG_WHY, cure),
    }
}

/// A server on the way out: that of the pools' connections, and of clients' where policy lets a probe's request pass.
pub(super) struct Outside {
    spot: Spot,
    probe: ProbeHost,
    _server: StandIn,
}

impl Outside {
    pub(super) fn new(spot: Spot, port: u16) -> Result<Self, String> {
        let probe = ProbeHost::attach(&spot, ProbePorts { base: port, mask: u16::MAX })?;
        let server = SocketAddr::new(spot.address, port);
        let server = StandIn::start(&probe, server).map_err(|error| error.to_string())?;
        Ok(Self { spot, probe, _server: server })
    }

    /// One at each destination that can be had.
    pub(super) fn all(destinations: &[IpAddr], params: &SteeringParams) -> Vec<Self> {
        let port = steered_port(&params.ports);
        let spots = destinations.iter().filter_map(|destination| spot::server(*destination, None).ok());
        spots.filter_map(|spot| Self::new(spot, port).ok()).collect()
    }

    fn is_at(&self, spot: &Spot) -> bool {
        (self.spot.address, &self.spot.enters.name, &self.spot.mac)
            == (spot.address, &spot.enters.name, &spot.mac)
    }
}

/// The port that answers most readably.
pub(super) fn steered_port(ports: &InterceptedPorts) -> u16 {
    match ports {
        InterceptedPorts::All => 80,
        InterceptedPorts::List(ranges) => {
            let usual =
                [80, 8080, 443].into_iter().find(|port| ranges.iter().any(|range| range.contains(*port)));
            usual.or_else(|| ranges.first().map(|range| range.first())).unwrap_or(80)
        }
    }
}

/// A first attempt.
pub(super) enum Tried {
    Done(CheckFinding),
    /// Has to be tried again and watched.
    Lost(Box<Caller>),
}

impl ClientLeg<'_> {
    pub(super) fn try_it(&self) -> Tried {
        let (name, family) = (&self.tenant.name, family_name(self.v4));
        let spot = match spot::tenant_client(&self.tenant.sources, self.v4, self.steered) {
            Ok(spot) => spot,
            Err(error) => {
                let found = format!("{name}, {family}: no test client could be set up: {error}");
                return Tried::Done(self.no_way(&found));
            }
        };
        let mut caller = match Caller::new(spot) {
            Ok(caller) => caller,
            Err(error) => {
                let found = format!("{name}, {family}: no probe could be set up: {error}");
                return Tried::Done(self.no_way(&found));
            }
        };
        for destination in self.destinations() {
            let (server, request) = self.request(destination);
            let exchange = caller.call(server, &request, Patience::SHORT);
            match lost(&exchange) {
                None => {
                    let found = format!("{}: {}", self.who(&caller, server), success(&exchange));
                    return Tried::Done(CheckFinding::ok(Leg::Client.check(), found));
                }
                Some(LostPart::TooBig) => break,
                Some(LostPart::Handshake | LostPart::Data) => {}
            }
        }
        Tried::Lost(Box::new(caller))
    }

    /// The attempt that decides, and names what takes the packets.
    pub(super) fn watch(&self, caller: &mut Caller) -> CheckFinding {
        let destination = self.destinations().next().unwrap_or(spot::nowhere(self.v4));
        let (server, request) = self.request(destination);
        let who = self.who(caller, server);
        let (exchange, evidence) = caller.watch(server, &request);
        let Some(lost) = lost(&exchange) else {
            let found = format!("{who}: {}, at the second attempt", success(&exchange));
            return CheckFinding::ok(Leg::Client.check(), found);
        };
        let cure = Cure {
            params: self.params,
            leg: Leg::Client,
            v4: self.v4,
            device: &caller.spot.enters.name,
            sources: &self.tenant.sources,
        };
        failure(Leg::Client, lost, &who, evidence.cause(lost, &caller.spot, &cure))
    }

    /// For one whose first attempt got lost, as another tenant's did that was watched.
    pub(super) fn not_watched(&self) -> CheckFinding {
        let family = family_name(self.v4);
        CheckFinding::warn(
            Leg::Client.check(),
            format!("{}, {family}: packets get lost, and were not traced", self.tenant.name),
            "what loses one tenant's packets mostly loses those of the others",
            format!("cure what fails for {family}, then egret doctor"),
        )
    }

    fn destinations(&self) -> impl Iterator<Item = IpAddr> {
        let none = self.destinations.is_empty().then(|| spot::nowhere(self.v4));
        self.destinations.iter().copied().chain(none)
    }

    fn request(&self, destination: IpAddr) -> (SocketAddr, Vec<u8>) {
        let port = steered_port(&self.params.ports);
        let request = Language::of_port(port).request(PROBE_NAME).unwrap_or_else(|_| http(PROBE_NAME, 0));
        (SocketAddr::new(destination, port), request)
    }

    fn who(&self, caller: &Caller, server: SocketAddr) -> String {
        let Spot { address, enters, .. } = &caller.spot;
        format!("{}, {address} to {server} by {}", self.tenant.name, enters.name)
    }

    fn no_way(&self, found: &str) -> CheckFinding {
        let why = "whether such clients' packets pass is not known";
        let cure = format!(
            "a route to the tenant's network by {}; or name a client: egret doctor --packet --from CLIENT --to DEST",
            names(&self.params.interfaces)
        );
        CheckFinding::warn(Leg::Client.check(), found, why, cure)
    }
}

impl PoolLeg<'_> {
    pub(super) fn try_it(&self) -> CheckFinding {
        let family = family_name(self.v4);
        let Some(first) = self.destinations.first() else {
            let found = format!("{family}: there is no default route by a router, and so no way out");
            let cure = if self.v4 {
                "ip route add default via ROUTER"
            } else {
                "ip -6 route add default via ROUTER; or take IPv6 out of the pools"
            };
            return CheckFinding::warn(Leg::Pool.check(), found, Leg::Pool.why(), cure);
        };
        let sources = self.sources();
        let mut words = String::new();
        for (pool, source) in &sources {
            let mut error = None;
            let passed = self.destinations.iter().find_map(|destination| {
                let attempt = self.attempt(*source, pool, *destination, false);
                let (exchange, ..) = attempt.map_err(|failed| error = Some(failed)).ok()?;
                lost(&exchange).is_none().then(|| success(&exchange))
            });
            match passed {
                Some(success) => words = success,
                None => {
                    if let Some(finding) = self.diagnose(*source, pool, *first, error) {
                        return finding;
                    }
                }
            }
        }
        let tried: Vec<_> = sources.iter().take(3).map(|(_, source)| source.to_string()).collect();
        let more = if sources.len() > 3 { format!(" and {} more", sources.len() - 3) } else { String::new() };
        let server = SocketAddr::new(*first, self.port());
        let found = format!("{family}, {}{more} to {server}: {words}", tried.join(", "));
        CheckFinding::ok(Leg::Pool.check(), found)
    }

    /// Tells of the networks of which no address is tried.
    pub(super) fn not_tried(&self) -> Option<CheckFinding> {
        let rest = self.pools().count().checked_sub(POOL_ADDRESSES).filter(|rest| *rest > 0)?;
        let found = format!("{}: {rest} more pool networks not tried", family_name(self.v4));
        Some(CheckFinding::ok(Leg::Pool.check(), found))
    }

    fn pools(&self) -> impl Iterator<Item = &SteeredPool> {
        self.params.pools.iter().filter(|pool| pool.network.addr().is_ipv4() == self.v4)
    }

    /// The first addresses of each network, and of all networks before the second ones.
    fn sources(&self) -> Vec<(SteeredPool, IpAddr)> {
        let mut all: Vec<_> = self
            .pools()
            .flat_map(|pool| {
                addresses(pool.network).take(3).enumerate().map(|(place, address)| (place, *pool, address))
            })
            .collect();
        all.sort_by_key(|(place, _, _)| *place);
        all.into_iter().take(POOL_ADDRESSES).map(|(_, pool, address)| (pool, address)).collect()
    }

    fn port(&self) -> u16 {
        steered_port(&self.params.ports)
    }

    fn attempt(
        &self,
        source: IpAddr,
        pool: &SteeredPool,
        destination: IpAddr,
        watch: bool,
    ) -> Result<(ProbeExchange, Spot, Option<ConnectionEvidence>), String> {
        let spot = spot::server(destination, Some(source)).or_else(|_| spot::server(destination, None))?;
        let server = SocketAddr::new(destination, self.port());
        let own;
        let outside = if let Some(outside) = self.outside.iter().find(|outside| outside.is_at(&spot)) {
            outside
        } else {
            own = Outside::new(spot.clone(), server.port())?;
            &own
        };
        let request = http(PROBE_NAME, BODY);
        let call = |patience| {
            let port = rand::rng().random_range(pool.ports.first()..=pool.ports.last());
            let client = SocketAddr::new(source, port);
            ProbeExchange::from_machine(
                &outside.probe,
                Ends { client, server },
                &request,
                self.user,
                patience,
            )
        };
        if watch {
            let (exchange, evidence) = watched(&spot, &[destination, source], None, || call(Patience::LONG));
            return Ok((exchange, spot, Some(evidence)));
        }
        Ok((call(Patience::SHORT), spot, None))
    }

    /// `None` if it passes after all.
    fn diagnose(
        &self,
        source: IpAddr,
        pool: &SteeredPool,
        destination: IpAddr,
        error: Option<String>,
    ) -> Option<CheckFinding> {
        let who = format!("{source} to {destination}:{}", self.port());
        if let Some(error) = error {
            let cure = "ip route get, with the addresses above; ip neigh; docs/install.md";
            return Some(CheckFinding::fail(
                Leg::Pool.check(),
                format!("{who}: {error}"),
                Leg::Pool.why(),
                cure,
            ));
        }
        let (exchange, spot, evidence) = self.attempt(source, pool, destination, true).ok()?;
        let (lost, evidence) = (lost(&exchange)?, evidence?);
        let unusable = |error: &io::Error| {
            use io::ErrorKind::{AddrNotAvailable, InvalidInput, NetworkUnreachable};
            matches!(error.kind(), AddrNotAvailable | InvalidInput | NetworkUnreachable)
        };
        if exchange.handshake.as_ref().is_err_and(unusable) {
            let found = format!("{who}: the address is not local to this machine, or has no route");
            return Some(CheckFinding::fail(
                Leg::Pool.check(),
                found,
                Leg::Pool.why(),
                crate::steering::REMEDY,
            ));
        }
        let cure = Cure {
            params: self.params,
            leg: Leg::Pool,
            v4: self.v4,
            device: &spot.enters.name,
            sources: &[],
        };
        Some(failure(Leg::Pool, lost, &who, evidence.cause(lost, &spot, &cure)))
    }
}

/// Every address of a network.
fn addresses(network: IpNet) -> impl Iterator<Item = IpAddr> {
    let first = network.network();
    (0..8u8).map_while(move |offset| {
        let address = match first {
            IpAddr::V4(first) => {
                IpAddr::from(std::net::Ipv4Addr::from(u32::from(first).checked_add(offset.into())?))
            }
            IpAddr::V6(first) => {
                IpAddr::from(std::net::Ipv6Addr::from(u128::from(first).checked_add(offset.into())?))
            }
        };
        network.contains(&address).then_some(address)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PortRange;
    use crate::steering::{UdpTreatment, default_ephemeral};

    #[test]
    fn untried_pool_networks_are_told() {
        let ports = PortRange::new(1024, 65535).unwrap();
        let networks = (1..=8).map(|host| IpNet::from(IpAddr::from([203, 0, 113, host])));
        let v6 = "2001:db8:100::/64".parse().unwrap();
        let params = SteeringParams {
            interfaces: Vec::new(),
            sources: Vec::new(),
            ports: InterceptedPorts::All,
            udp: UdpTreatment::Reject,
            listen_port: 15001,
            mark: 1,
            table: 100,
            pools: networks.chain([v6]).map(|network| SteeredPool { network, ports }).collect(),
            resolvers: Vec::new(),
            ephemeral: default_ephemeral(),
        };
        let leg = |v4| PoolLeg { params: &params, v4, destinations: &[], outside: &[], user: None };
        assert_eq!(leg(true).sources().len(), POOL_ADDRESSES);
        assert_eq!(leg(true).not_tried().unwrap().found, "IPv4: 2 more pool networks not tried");
        assert_eq!(leg(false).not_tried(), None);
    }

    #[test]
    fn pool_addresses_are_those_of_the_network() {
        let shown = |net: &str| addresses(net.parse().unwrap()).map(|a| a.to_string()).collect::<Vec<_>>();
        assert_eq!(shown("203.0.113.17/32"), ["203.0.113.17"]);
        assert_eq!(shown("203.0.113.16/31"), ["203.0.113.16", "203.0.113.17"]);
        assert_eq!(shown("2001:db8::/64").len(), 8);
        assert_eq!(shown("255.255.255.255/32"), ["255.255.255.255"]);
    }

    #[test]
    fn steered_port_is_chosen() {
        let list = |ports: &[(u16, u16)]| {
            InterceptedPorts::List(ports.iter().map(|(a, b)| PortRange::new(*a, *b).unwrap()).collect())
        };
        assert_eq!(steered_port(&InterceptedPorts::All), 80);
        assert_eq!(steered_port(&list(&[(443, 443), (80, 80)])), 80);
        assert_eq!(steered_port(&list(&[(400, 500)])), 443);
        assert_eq!(steered_port(&list(&[(7000, 7010)])), 7000);
    }
}
