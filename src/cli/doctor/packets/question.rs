//! `egret doctor --packet`: one client's packets to one destination, station by station.

use super::asked_flow::AskedFlow;
use super::caller::Caller;
use super::client_leg::not_steered;
use super::cure::{Cure, Leg};
use super::evidence::LossCause;
use super::next_hop;
use super::ports::probed;
use super::request::{http, request_to};
use super::{impossible, no_listener, routes, spot};
use crate::admin::ClientTarget;
use crate::cli::doctor::Doctor;
use crate::cli::doctor::listeners::has_listener;
use crate::cli::doctor::sources;
use crate::cli::findings::CheckFinding;
use crate::family::Family;
use crate::gateway::UnsteeredAddresses;
use crate::steering::{InterceptedPorts, SteeringParams};
use crate::sys::addresses;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};

/// A client, and the destination of its packets.
#[derive(Debug, Clone)]
pub(crate) struct ProbeQuestion {
    pub(crate) from: IpAddr,
    /// A name or an address, with a port or without, or a URL.
    pub(crate) to: String,
    /// The address that the client dials for a name; `None`: one that this machine finds.
    pub(crate) address: Option<IpAddr>,
}

/// A destination as a client would dial it.
#[derive(Debug, PartialEq, Eq)]
struct DialTarget {
    /// The name that the client asks for, or the address itself.
    name: String,
    port: Option<u16>,
}

impl DialTarget {
    fn parse(text: &str) -> Option<Self> {
        if text.contains("://") {
            let (name, port) = match text.parse().ok()? {
                ClientTarget::Name(name, port) => (name.to_string(), port),
                ClientTarget::Address(to) | ClientTarget::NotHostname(to) => (to.ip().to_string(), to.port()),
            };
            return Some(Self { name, port: Some(port) });
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Some(Self { name: address.ip().to_string(), port: Some(address.port()) });
        }
        if text.parse::<IpAddr>().is_ok() {
            return Some(Self { name: text.to_owned(), port: None });
        }
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => (name, Some(port.parse().ok()?)),
            None => (text, None),
        };
        (!name.is_empty() && !name.contains(':')).then(|| Self { name: name.to_owned(), port })
    }
}

/// Name and address of the destination; or the finding that says why no packet can be sent there.
fn destination(
    params: &SteeringParams,
    question: &ProbeQuestion,
) -> Result<(String, SocketAddr), CheckFinding> {
    let wrong = |found, cure| Err(CheckFinding::fail("destination", found, "no packet was sent", cure));
    let Some(DialTarget { name, port }) = DialTarget::parse(&question.to) else {
        let cure = "--to NAME, ADDRESS, either with :PORT, or a URL of https, http, wss or ws";
        return wrong(format!("{} is nothing that a client could dial", question.to), cure.to_owned());
    };
    let port = port.unwrap_or_else(|| {
        if is_steered(&params.ports, 443) {
            443
        } else {
            probed(&params.ports).first().copied().unwrap_or(80)
        }
    });
    if !is_steered(&params.ports, port) {
        return wrong(
            format!("port {port} is not of [steering] ports: such packets never reach Egret"),
            format!("ask for a port of [steering] ports; or add {port} there, and run `egret reload`"),
        );
    }
    if question.address.is_some() && name.parse::<IpAddr>().is_ok() {
        return wrong(
            format!("{name} is an address already; --address goes with a name"),
            "--to NAME, or leave out --address".to_owned(),
        );
    }
    let given = question.address.map(|address| vec![SocketAddr::new(address, port)]);
    let found = || (name.as_str(), port).to_socket_addrs().map(Iterator::collect);
    let all: Vec<_> = match given.map_or_else(found, Ok) {
        Ok(all) => all,
        Err(error) => {
            let cure = format!(
                "look at the name servers of this machine (getent ahosts {name}), or give the client's: --address ADDRESS"
            );
            return wrong(format!("{name} has no address that this machine knows of: {error}"), cure);
        }
    };
    if let Some(server) = all.iter().find(|to| to.is_ipv4() == question.from.is_ipv4()) {
        return match unsteered(params, server.ip()) {
            None => Ok((name, *server)),
            Some((found, cure)) => wrong(found, cure.to_owned()),
        };
    }
    let (own, other) = if question.from.is_ipv4() { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
    let cure = format!("give --from an {other} address of a client, or --to an {own} destination");
    wrong(format!("{name} has no {own} address, and the client is an {own} one"), cure)
}

/// The destination as `egret explain` has it: an address is a Host only in a URL of HTTP.
fn client_target(asked: &str, name: &str, server: SocketAddr) -> Option<ClientTarget> {
    if name.parse::<IpAddr>().is_err() {
        return Some(ClientTarget::Name(name.parse().ok()?, server.port()));
    }
    let is_host = matches!(asked.parse(), Ok(ClientTarget::NotHostname(_)));
    Some(if is_host { ClientTarget::NotHostname(server) } else { ClientTarget::Address(server) })
}

/// The reason why packets to a server never become a flow, with the remedy; `None` if they may.
fn unsteered(params: &SteeringParams, server: IpAddr) -> Option<(String, &'static str)> {
    let pools = params.pools.iter().map(|pool| pool.network).collect();
    match addresses::local() {
        Ok(local) => {
            let never = UnsteeredAddresses::new(pools, local).never_to(server)?;
            Some((format!("{server}: {}", never.text()), "ask for a server behind this machine"))
        }
        Err(error) => {
            Some((format!("the kernel does not list this machine's addresses: {error}"), "ask again"))
        }
    }
}

/// The stations of one connection, each with its result.
pub(crate) fn ask(doctor: &Doctor, question: &ProbeQuestion) -> Vec<CheckFinding> {
    let params = &doctor.steering;
    if let Some(finding) = impossible() {
        return vec![finding];
    }
    if !has_listener(params.listen_port) {
        return vec![no_listener(params)];
    }
    let (name, server) = match destination(params, question) {
        Ok(found) => found,
        Err(finding) => return vec![finding],
    };
    let Some(target) = client_target(&question.to, &name, server) else {
        return vec![CheckFinding::fail(
            "destination",
            format!("{name} is no hostname"),
            "no packet was sent",
            "--to NAME or ADDRESS",
        )];
    };
    let mut found = vec![CheckFinding::ok("destination", format!("{name} is {server}"))];
    let tenant =
        doctor.tenants.iter().find(|tenant| tenant.sources.iter().any(|net| net.contains(&question.from)));
    let steered = spot::steered(params);
    let socket = doctor.socket.as_deref();
    let tenant_name = tenant.map_or("no tenant", |tenant| &tenant.name);
    let spot = spot::client(question.from, &steered, false);
    if let Some(device) = spot.as_ref().ok().and_then(|spot| spot::unsteered(spot, &steered)) {
        found.push(not_steered(&format!("{} of {tenant_name}", question.from), device));
        return found;
    }
    let caller = spot.and_then(|spot| Caller::new(spot, socket));
    let caller = match caller {
        Ok(caller) => caller,
        Err(error) => {
            let sources = tenant.map_or(&[][..], |tenant| &tenant.sources);
            let cure = Cure { params, leg: Leg::Client, v4: question.from.is_ipv4(), device: "", sources };
            let filtered = || next_hop::filtered(question.from, None, &cure);
            let unusable = || {
                LossCause {
                found: error,
                cure: format!(
                    "--from the address of a client, which `ip route get {}` finds by an interface that is up",
                    question.from
                )
                .into(),
            }
            };
            let LossCause { found: why, cure } =
                routes::refused(question.from).or_else(filtered).unwrap_or_else(unusable);
            found.push(CheckFinding::fail("way in", why, "no packet was sent", cure));
            return found;
        }
    };
    found.push(way_in(&caller, tenant_name));
    let request = request_to(&target).unwrap_or_else(|_| http(&name, 0));
    let sources = tenant.map(|tenant| tenant.sources.as_slice()).unwrap_or_default();
    let drained = || sources::unusable_of(socket?, &tenant?.pool, Family::of(question.from));
    found.extend(drained());
    found.extend(AskedFlow { params, socket, sources, caller, target, server, request }.stations());
    found
}

fn way_in(caller: &Caller, tenant: &str) -> CheckFinding {
    let spot = &caller.spot;
    let kind = match (&spot.mac, spot.shared) {
        (None, _) => "nobody has the address".to_owned(),
        (Some(mac), true) => {
            format!("answers go to {mac}; a probe takes the client's place for this connection")
        }
        (Some(mac), false) => format!("answers go by the router {mac}"),
    };
    let found = format!("{} of {tenant}, by {}; {kind}", spot.address, spot.enters.name);
    if spot.enters.name == spot.leaves.name {
        return CheckFinding::ok("way in", found);
    }
    let why = "answers that leave elsewhere are dropped by strict reverse-path filters on the way";
    let cure = format!("a route to the client by {}", spot.enters.name);
    CheckFinding::warn("way in", format!("{found}; answers leave by {}", spot.leaves.name), why, cure)
}

fn is_steered(ports: &InterceptedPorts, port: u16) -> bool {
    match ports {
        InterceptedPorts::All => true,
        InterceptedPorts::List(ranges) => ranges.iter().any(|range| range.contains(port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PortRange;
    use crate::steering::{SteeredPool, UdpTreatment, default_ephemeral};
    use crate::transport::Transport;

    #[test]
    fn refused_destinations_have_their_own_cure() {
        let params = SteeringParams {
            transport: Transport::Tcp,
            interfaces: Vec::new(),
            sources: Vec::new(),
            ports: InterceptedPorts::List(vec![PortRange::new(443, 443).unwrap()]),
            udp: UdpTreatment::Reject,
            listen_port: 15001,
            mark: 0x4000,
            table: 4321,
            pools: vec![SteeredPool {
                network: "203.0.113.16/30".parse().unwrap(),
                ports: PortRange::new(1024, 65535).unwrap(),
            }],
            resolvers: Vec::new(),
            ephemeral: default_ephemeral(),
        };
        let asked_at = |to: &str, address: Option<&str>| {
            let (from, address) =
                ("10.0.1.7".parse().unwrap(), address.map(|address| address.parse().unwrap()));
            let question = ProbeQuestion { from, to: to.to_owned(), address };
            let told =
                |finding: CheckFinding| format!("{}; {}", finding.found, finding.mend.unwrap_or_default());
            destination(&params, &question).map_err(told)
        };
        let asked = |to: &str| asked_at(to, None);
        assert_eq!(
            asked("https://192.0.2.1/"),
            Ok(("192.0.2.1".to_owned(), "192.0.2.1:443".parse().unwrap()))
        );
        for (to, cure) in [
            ("192.0.2.1:22", "a port of [steering] ports"),
            ("[2001:db8::1]:443", "--from an IPv6 address"),
            ("udp://192.0.2.1:443", "a URL of https"),
            ("127.0.0.1", "the gateway's own"),
            ("203.0.113.17", "the gateway's own or a pool's"),
            ("255.255.255.255", "a broadcast address"),
            ("0.1.2.3", "a broadcast address"),
            ("224.0.0.251", "a multicast address"),
            ("0.0.0.0", "the gateway's own"),
        ] {
            assert!(asked(to).is_err_and(|told| told.contains(cure)), "{to}: {:?}", asked(to));
        }
        let named = ("no-such-name.invalid".to_owned(), "192.0.2.1:443".parse().unwrap());
        assert_eq!(asked_at("no-such-name.invalid", Some("192.0.2.1")), Ok(named));
        assert!(
            asked_at("192.0.2.9", Some("192.0.2.1")).is_err_and(|told| told.contains("an address already"))
        );
    }

    #[test]
    fn destinations_come_in_every_form() {
        let target = |name: &str, port| Some(DialTarget { name: name.to_owned(), port });
        assert_eq!(DialTarget::parse("example.org"), target("example.org", None));
        assert_eq!(DialTarget::parse("example.org:8443"), target("example.org", Some(8443)));
        assert_eq!(DialTarget::parse("192.0.2.1:80"), target("192.0.2.1", Some(80)));
        assert_eq!(DialTarget::parse("[2001:db8::1]:80"), target("2001:db8::1", Some(80)));
        assert_eq!(DialTarget::parse("2001:db8::1"), target("2001:db8::1", None));
        assert_eq!(DialTarget::parse("https://example.org/x"), target("example.org", Some(443)));
        assert_eq!(DialTarget::parse("http://[2001:db8::1]/"), target("2001:db8::1", Some(80)));
        for wrong in ["", "udp://example.org:443", ":80", "example.org:http", "example.org:0x50"] {
            assert_eq!(DialTarget::parse(wrong), None, "{wrong}");
        }
    }
}
