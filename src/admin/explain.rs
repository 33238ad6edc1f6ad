//! What `egret explain` asks, of files or of a running gateway, and what it is told.

use crate::hostname::{Hostname, NotAHostname};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// The port of a target that states none.
const DEFAULT_PORT: u16 = 443;

/// Which flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainQuery {
    /// The client's address.
    pub from: IpAddr,
    /// What it wants.
    pub to: Target,
    /// The address that it dials for a name.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// It offers an encrypted ClientHello.
    #[serde(default)]
    pub ech: bool,
    /// It speaks neither TLS nor HTTP, so that no name is read.
    #[serde(default)]
    pub other_protocol: bool,
}

/// What a client wants: a name on a port, or an address without a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// It sends the name.
    Name(Hostname, u16),
    /// It sends none.
    Address(SocketAddr),
}

/// Why a string is no target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotATarget {
    /// It is not a name.
    #[error("neither NAME[:PORT] nor ADDRESS[:PORT] nor a URL: {0}")]
    Name(#[from] NotAHostname),
    /// It has a colon, and no port behind it.
    #[error("the port is not a number from 1 to 65535")]
    Port,
    /// It says more than where.
    #[error("write NAME[:PORT], ADDRESS[:PORT] or a URL, without a prefix length")]
    More,
    /// It is a URL whose scheme has no port here.
    #[error("the port of this URL's scheme is not known here: write NAME:PORT")]
    Scheme,
    /// It stands for many names.
    #[error("a flow asks for one name: write one that the wildcard covers")]
    Wildcard,
}

/// Why a string is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAnAddress {
    /// It is a network.
    #[error("a network, not an address: write one address of it")]
    Network,
    /// It is something else.
    #[error("not an IP address")]
    Other,
}

/// An address, as people write it who ask about a flow.
pub fn parse_address(text: &str) -> Result<IpAddr, NotAnAddress> {
    let network = || text.parse::<ipnet::IpNet>().is_ok();
    text.parse().map_err(|_| if network() { NotAnAddress::Network } else { NotAnAddress::Other })
}

impl FromStr for Target {
    type Err = NotATarget;
    /// Reads a name or an address with or without a port, or a URL (RFC 3986 §3), of which scheme, host and port count.
    fn from_str(s: &str) -> Result<Self, NotATarget> {
        let Some((scheme, rest)) = s.split_once("://") else { return host_and_port(s, DEFAULT_PORT) };
        let default = match &*scheme.to_ascii_lowercase() {
            "https" | "wss" => 443,
            "http" | "ws" => 80,
            _ => 0, // none: the URL has to name it
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        let host = authority.rsplit_once('@').map_or(authority, |(_user, host)| host);
        match host_and_port(host.strip_suffix(':').unwrap_or(host), default)? {
            Target::Name(_, 0) => Err(NotATarget::Scheme),
            Target::Address(socket) if socket.port() == 0 => Err(NotATarget::Scheme),
            target @ (Target::Name(..) | Target::Address(_)) => Ok(target),
        }
    }
}

fn host_and_port(s: &str, default: u16) -> Result<Target, NotATarget> {
    let bare = s.strip_prefix('[').and_then(|s| s.strip_suffix(']')).unwrap_or(s);
    if let Ok(address) = bare.parse() {
        return Ok(Target::Address(SocketAddr::new(address, default)));
    }
    if let Ok(socket) = s.parse::<SocketAddr>() {
        return if socket.port() == 0 { Err(NotATarget::Port) } else { Ok(Target::Address(socket)) };
    }
    if s.contains('/') {
        return Err(NotATarget::More);
    }
    if s.contains('*') {
        return Err(NotATarget::Wildcard);
    }
    let Some((name, port)) = s.rsplit_once(':') else {
        return Ok(Target::Name(s.parse()?, default));
    };
    match port.parse() {
        Ok(port) if port != 0 => Ok(Target::Name(name.parse()?, port)),
        _ => Err(NotATarget::Port),
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name, port) => write!(f, "{name}:{port}"),
            Self::Address(socket) => socket.fmt(f),
        }
    }
}

impl Serialize for Target {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The answer. Field names are the JSON's keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of an answer, each with its own key")]
pub struct ExplainReport {
    /// The gateway that runs was asked, not files.
    pub live: bool,
    /// The client.
    pub from: IpAddr,
    /// Whose it is; `null` if nobody's.
    pub tenant: Option<String>,
    /// There if a candidate is enforced for the client, and the answer is the candidate's; `null` from files.
    pub canary: Option<ExplainedCanary>,
    /// What is made of denials now, by the rules below: `enforce` or `monitor`; `null` where there are none.
    pub mode: Option<String>,
    /// The name it sends; `null` if it sends none.
    pub hostname: Option<String>,
    /// What it dials.
    pub address: IpAddr,
    /// Nobody gave the address.
    pub address_assumed: bool,
    /// What it dials.
    pub port: u16,
    /// It offers an encrypted ClientHello.
    pub ech: bool,
    /// The packet rules bring the port to Egret; if not, the flow never reaches it, and nobody judges it.
    pub steered: bool,
    /// It speaks neither TLS nor HTTP.
    pub other_protocol: bool,
    /// Whether the client is listened to before the decision.
    pub inspected: bool,
    /// Every rule of the tenant, in the order of the file.
    pub rules: Vec<ExplainedRule>,
    /// Whose a public address is that rules by name do not lead to; `null` if it is private for everybody, or no such
    /// rule is concerned.
    pub private: Option<String>,
    /// Whether the flow would leave.
    pub allowed: bool,
    /// The rule that decides.
    pub rule: Option<String>,
    /// Which address it goes to, by the rule that lets it out: `original`, `observe`, `verify` or `resolve`.
    pub destination: Option<String>,
    /// What its server has to prove, by the same rule: `off`, `observe` or `require`.
    pub certificate: Option<String>,
    /// What is known of the name's addresses now; `null` unless live, and where `destination` asks about them.
    pub known_addresses: Option<Vec<IpAddr>>,
    /// Whether the address is the name's, by what is known now, as in the flow log; `null` unless live, and where that is
    /// asked and something is known.
    pub address_check: Option<String>,
    /// Whether the server has proved the name, likewise.
    pub certificate_check: Option<String>,
    /// The denial that monitor mode spares it; `null` where policy allows it, or the tenant enforces.
    pub would_deny: Option<ExplainedOutcome>,
    /// Why it would not leave; `null` if it would.
    pub outcome: Option<ExplainedOutcome>,
    /// Where to find help, as `[policy] help` says; `null` if it would leave.
    pub help: Option<String>,
    /// What it would leave from; `null` if policy denies it.
    pub pool: Option<ExplainedPool>,
    /// Flows that the tenant may have at once; `null`: no bound.
    pub max_flows: Option<u32>,
    /// Flows that it has; `null` unless live.
    pub flows: Option<u32>,
}

/// The client is one of those for whom a candidate is enforced: rules and verdict are the candidate's, pool and limits those
/// of the tenant in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExplainedCanary {
    /// Its share of the clients.
    pub percent: u8,
    /// Whose the client is by the candidate; `null` if nobody's.
    pub tenant: Option<String>,
    /// The same question, answered by the policy in force.
    pub in_force: Box<ExplainReport>,
}

/// One rule considered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExplainedRule {
    /// Its label.
    pub rule: String,
    /// `allow` or `deny`.
    pub effect: String,
    /// What it comes to, for programs.
    pub finding: String,
    /// What it comes to, for people.
    pub text: String,
}

/// Why a flow would not leave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExplainedOutcome {
    /// As in docs/outcomes.md.
    pub name: String,
    /// What it means.
    pub meaning: String,
    /// What to do about it.
    pub remedy: String,
}

/// Where a flow would leave from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExplainedPool {
    /// Its name.
    pub name: String,
    /// Its addresses; those of the destination's family, if that is known.
    pub addresses: Vec<String>,
    /// Its source ports.
    pub ports: String,
    /// The address that the flow would leave from: for `paired` as long as it has free ports; for `least-used` only
    /// live, as things are now.
    pub source: Option<IpAddr>,
    /// The public address that `source` is mapped to, as the pool notes it.
    pub public: Option<IpAddr>,
    /// Ports of `source` towards the destination, now; `null` unless live.
    pub in_use: Option<PortsInUse>,
    /// Addresses that give out no new ports.
    pub drain: Vec<IpAddr>,
    /// Ports of the tenant towards the destination, live and held, over all addresses; `null` unless live and the pool
    /// has floors or ceilings.
    pub tenant_ports: Option<u32>,
    /// Ports towards each destination that the pool's other tenants leave to this one.
    pub ports_floor: Option<u32>,
    /// Ports towards each destination that the tenant has at most.
    pub ports_ceiling: Option<u32>,
}

/// Ports of one source address towards one destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortsInUse {
    /// That it has.
    pub capacity: u16,
    /// That carry a flow.
    pub live: u16,
    /// That may not be used again yet.
    pub held: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_a_name_or_an_address_with_a_port_or_without() {
        let name = |name: &str, port| Ok(Target::Name(name.parse().unwrap(), port));
        let address = |socket: &str| Ok(Target::Address(socket.parse().unwrap()));
        let cases = [
            ("api.stripe.com", name("api.stripe.com", 443)),
            ("API.stripe.com.:8443", name("api.stripe.com", 8443)),
            ("bücher.example:80", name("xn--bcher-kva.example", 80)),
            ("192.0.2.1", address("192.0.2.1:443")),
            ("192.0.2.1:80", address("192.0.2.1:80")),
            ("2001:db8::1", address("[2001:db8::1]:443")),
            ("[2001:db8::1]", address("[2001:db8::1]:443")),
            ("[2001:db8::1]:80", address("[2001:db8::1]:80")),
            ("192.0.2.1:0", Err(NotATarget::Port)),
            ("a.example:0", Err(NotATarget::Port)),
            ("a.example:https", Err(NotATarget::Port)),
            ("a.example:", Err(NotATarget::Port)),
            ("https://a.example/x?q=1#f", name("a.example", 443)),
            ("HTTP://A.example", name("a.example", 80)),
            ("wss://a.example:8443/socket", name("a.example", 8443)),
            ("https://user:secret@a.example:/", name("a.example", 443)),
            ("http://[2001:db8::1]/x", address("[2001:db8::1]:80")),
            ("https://192.0.2.1:8443/", address("192.0.2.1:8443")),
            ("ftp://a.example:2121/x", name("a.example", 2121)),
            ("ftp://a.example/x", Err(NotATarget::Scheme)),
            ("git+ssh://192.0.2.1/x", Err(NotATarget::Scheme)),
            ("https:///x", Err(NotATarget::Name(NotAHostname::Empty))),
            ("192.0.2.0/24", Err(NotATarget::More)),
            ("*.a.example:443", Err(NotATarget::Wildcard)),
            ("0x7f.1", Err(NotATarget::Name(NotAHostname::IpLiteral))),
            ("a..example:443", Err(NotATarget::Name(NotAHostname::EmptyLabel))),
            ("", Err(NotATarget::Name(NotAHostname::Empty))),
        ];
        for (text, target) in cases {
            assert_eq!(text.parse::<Target>(), target, "{text}");
            if let Ok(target) = target {
                assert_eq!(target.to_string().parse(), Ok(target));
            }
        }
    }
}
