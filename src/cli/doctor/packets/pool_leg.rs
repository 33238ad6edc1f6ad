//! The way out: connections from pool addresses to a server.

use super::cure::{Cure, Leg};
use super::evidence::{ConnectionEvidence, LossCause, LostPart};
use super::exchange::{Ends, Patience, ProbeExchange, User};
use super::legs::{TracedPackets, failure, lost, success, watched};
use super::next_hop;
use super::outside::Outside;
use super::ports::listed;
use super::probe::Spot;
use super::request::{PROBE_NAME, http};
use super::shown::family_name;
use super::spot;
use super::stand_in::BODY;
use crate::cli::findings::CheckFinding;
use crate::cli::mend::Mend;
use crate::steering::{SteeredPool, SteeringParams};
use ipnet::IpNet;
use rand::RngExt as _;
use std::io;
use std::net::{IpAddr, SocketAddr};

/// Addresses of pools that are tried; the packet filter rarely tells more of them apart.
const POOL_ADDRESSES: usize = 6;

/// Connections from pool addresses to a server.
pub(super) struct PoolLeg<'a> {
    pub(super) params: &'a SteeringParams,
    pub(super) v4: bool,
    pub(super) destinations: &'a [IpAddr],
    pub(super) outside: &'a [Outside],
    /// Intercepted ports that are tried.
    pub(super) ports: &'a [u16],
    /// That of the gateway, if it runs.
    pub(super) user: Option<User>,
}

/// One connection: from an address of a pool to a port.
struct PoolAttempt {
    pool: SteeredPool,
    source: IpAddr,
    port: u16,
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
        for (place, attempt) in self.attempts(&sources).into_iter().enumerate() {
            let (mut error, mut first_lost) = (None, None);
            // The kernel remembers a smaller MTU: the first packets are as large as the device allows.
            let tell_too_big = place > 0 || self.ports.len() * sources.len() == 1;
            let mut passed = None;
            for destination in self.destinations {
                match self.attempt(&attempt, *destination, tell_too_big, false) {
                    Ok((exchange, ..)) => {
                        let lost = lost_to_stand_in(&exchange);
                        passed = lost.is_none().then(|| success(&exchange));
                        first_lost = first_lost.or(lost);
                        // A filter may drop the handshake to documentation addresses alone.
                        if lost != Some(LostPart::Handshake) {
                            break;
                        }
                    }
                    Err(failed) => error = Some(failed),
                }
            }
            match passed {
                Some(success) => words = success,
                None => {
                    if let Some(finding) = self.diagnose(&attempt, *first, first_lost, error) {
                        return finding;
                    }
                }
            }
        }
        let tried: Vec<_> = sources.iter().take(3).map(|(_, source)| source.to_string()).collect();
        let more = if sources.len() > 3 { format!(" and {} more", sources.len() - 3) } else { String::new() };
        let found =
            format!("{family}, {}{more} to {first}, {}: {words}", tried.join(", "), listed(self.ports));
        CheckFinding::ok(Leg::Pool.check(), found)
    }

    /// The first address to every port, and the other addresses to the first port.
    fn attempts(&self, sources: &[(SteeredPool, IpAddr)]) -> Vec<PoolAttempt> {
        let to = |port: u16| {
            move |(pool, source): &(SteeredPool, IpAddr)| PoolAttempt { pool: *pool, source: *source, port }
        };
        let (first, more) = self.ports.split_first().map_or((80, &[][..]), |(first, more)| (*first, more));
        let other_ports = more.iter().filter_map(|port| sources.first().map(to(*port)));
        sources
            .iter()
            .take(1)
            .map(to(first))
            .chain(other_ports)
            .chain(sources.iter().skip(1).map(to(first)))
            .collect()
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

    fn attempt(
        &self,
        PoolAttempt { pool, source, port }: &PoolAttempt,
        destination: IpAddr,
        tell_too_big: bool,
        watch: bool,
    ) -> Result<(ProbeExchange, Spot, Option<ConnectionEvidence>), String> {
        let spot = spot::server(destination, Some(*source)).or_else(|_| spot::server(destination, None))?;
        let server = SocketAddr::new(destination, *port);
        let own;
        let outside = if let Some(outside) = self.outside.iter().find(|outside| outside.is_at(&spot)) {
            outside
        } else {
            own = Outside::new(spot.clone(), self.ports)?;
            &own
        };
        let request = http(PROBE_NAME, BODY);
        let call = |patience| {
            let port = rand::rng().random_range(pool.ports.first()..=pool.ports.last());
            let client = SocketAddr::new(*source, port);
            let ends = Ends { client, server };
            ProbeExchange::from_machine(&outside.probe, ends, &request, self.user, tell_too_big, patience)
        };
        if watch {
            let (exchange, evidence) =
                watched(&spot, &[destination, *source], (None, TracedPackets::OfProbe), || {
                    call(Patience::LONG)
                });
            return Ok((exchange, spot, Some(evidence)));
        }
        Ok((call(Patience::SHORT), spot, None))
    }

    /// `None` if it passes after all.
    fn diagnose(
        &self,
        attempt: &PoolAttempt,
        destination: IpAddr,
        first_lost: Option<LostPart>,
        error: Option<String>,
    ) -> Option<CheckFinding> {
        let server = SocketAddr::new(destination, attempt.port);
        let who = format!("{} to {server}", attempt.source);
        if let Some(error) = error {
            let unknown = || LossCause {
                found: error,
                cure: "ip route get, with the addresses above; ip neigh; docs/install.md".into(),
            };
            let cause = next_hop::filtered(destination, Some(attempt.source), &self.cure(""));
            let LossCause { found, cure } = cause.unwrap_or_else(unknown);
            return Some(CheckFinding::fail(
                Leg::Pool.check(),
                format!("{who}: {found}"),
                Leg::Pool.why(),
                cure,
            ));
        }
        let (exchange, spot, evidence) =
            self.attempt(attempt, destination, first_lost == Some(LostPart::TooBig), true).ok()?;
        let (lost, evidence) = (lost_to_stand_in(&exchange)?, evidence?);
        let unusable = |error: &io::Error| {
            use io::ErrorKind::{AddrNotAvailable, InvalidInput, NetworkUnreachable};
            matches!(error.kind(), AddrNotAvailable | InvalidInput | NetworkUnreachable)
        };
        if exchange.handshake.as_ref().is_err_and(unusable) {
            let found = format!("{who}: the address is not local to this machine, or has no route");
            return Some(CheckFinding::fail(Leg::Pool.check(), found, Leg::Pool.why(), Mend::renew()));
        }
        let cure = self.cure(&spot.enters.name);
        Some(failure(Leg::Pool, lost, &who, evidence.cause(lost, attempt.source, &spot, &cure)))
    }

    fn cure<'a>(&'a self, device: &'a str) -> Cure<'a> {
        Cure { params: self.params, leg: Leg::Pool, v4: self.v4, device, sources: &[] }
    }
}

/// The part that got lost, if any. The server is doctor's own and always answers: a reset is not its.
fn lost_to_stand_in(exchange: &ProbeExchange) -> Option<LostPart> {
    lost(exchange).or_else(|| exchange.answer.bytes.is_empty().then_some(LostPart::Data))
}

/// The first eight addresses of a network, or all if it has fewer.
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
    use crate::steering::{InterceptedPorts, UdpTreatment, default_ephemeral};
    use crate::transport::Transport;

    #[test]
    fn untried_pool_networks_are_told() {
        let ports = PortRange::new(1024, 65535).unwrap();
        let networks = (1..=8).map(|host| IpNet::from(IpAddr::from([203, 0, 113, host])));
        let v6 = "2001:db8:100::/64".parse().unwrap();
        let params = SteeringParams {
            transport: Transport::Tcp,
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
        let leg =
            |v4| PoolLeg { params: &params, v4, destinations: &[], outside: &[], ports: &[80], user: None };
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
}
