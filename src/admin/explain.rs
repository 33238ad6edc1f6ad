//! Query and report of `egret explain`, from configuration files or from a running gateway.

use crate::gateway::NeverSteered;
use crate::hostname::{Hostname, NotAHostname};
use crate::outcome::Outcome;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// Port of a target that states none.
const DEFAULT_PORT: u16 = 443;

/// The flow to explain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainQuery {
    /// The client's address.
    pub from: IpAddr,
    /// The requested name or address.
    pub to: ClientTarget,
    /// The address that the client dials for a name.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// True if the client offers an encrypted ClientHello.
    #[serde(default)]
    pub ech: bool,
    /// True if the protocol is neither TLS nor HTTP, so that no name is read.
    #[serde(default)]
    pub other_protocol: bool,
}

/// A client's target: a name and port, or an address without a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientTarget {
    /// The client sends this name.
    Name(Hostname, u16),
    /// The client sends no name.
    Address(SocketAddr),
    /// The client sends something that is no hostname, such as this address as an HTTP Host.
    NotHostname(SocketAddr),
}

/// Parse error of a [`ClientTarget`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotATarget {
    /// Not a hostname.
    #[error("neither NAME[:PORT] nor ADDRESS[:PORT] nor a URL: {0}")]
    Name(#[from] NotAHostname),
    /// A colon without a valid port after it.
    #[error("the port is not a number from 1 to 65535")]
    Port,
    /// A prefix length, or a path without a scheme.
    #[error("write NAME[:PORT], ADDRESS[:PORT] or a URL, without a prefix length")]
    More,
    /// A URL of an unknown scheme.
    #[error(
        "of URLs only https, http, wss and ws are known here: write NAME:PORT for another protocol over TCP; \
         UDP to intercepted ports is always refused"
    )]
    Scheme,
    /// A wildcard.
    #[error("a flow asks for one name: write one that the wildcard covers")]
    Wildcard,
}

/// Parse error of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAnAddress {
    /// A network.
    #[error("a network, not an address: write one address of it")]
    Network,
    /// Anything else.
    #[error("not an IP address")]
    Other,
}

/// Parses an address that a person wrote.
pub fn parse_address(text: &str) -> Result<IpAddr, NotAnAddress> {
    let network = || text.parse::<ipnet::IpNet>().is_ok();
    text.parse().map_err(|_| if network() { NotAnAddress::Network } else { NotAnAddress::Other })
}

impl FromStr for ClientTarget {
    type Err = NotATarget;
    /// Parses a name or an address, with or without port, or a URL (RFC 3986 §3), of which scheme, host and port are
    /// used. The Host of an HTTP URL with an address is that address, while TLS has no SNI for one.
    fn from_str(s: &str) -> Result<Self, NotATarget> {
        let Some((scheme, rest)) = s.split_once("://") else { return host_and_port(s, DEFAULT_PORT) };
        let (default, is_http) = match &*scheme.to_ascii_lowercase() {
            "https" | "wss" => (443, false),
            "http" | "ws" => (80, true),
            _ => return Err(NotATarget::Scheme),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        let host = authority.rsplit_once('@').map_or(authority, |(_user, host)| host);
        Ok(match host_and_port(host.strip_suffix(':').unwrap_or(host), default)? {
            ClientTarget::Address(socket) if is_http => ClientTarget::NotHostname(socket),
            target @ (ClientTarget::Name(..) | ClientTarget::Address(_) | ClientTarget::NotHostname(_)) => {
                target
            }
        })
    }
}

fn host_and_port(s: &str, default: u16) -> Result<ClientTarget, NotATarget> {
    let bare = s.strip_prefix('[').and_then(|s| s.strip_suffix(']')).unwrap_or(s);
    if let Ok(address) = bare.parse() {
        return Ok(ClientTarget::Address(SocketAddr::new(address, default)));
    }
    if let Ok(socket) = s.parse::<SocketAddr>() {
        return if socket.port() == 0 { Err(NotATarget::Port) } else { Ok(ClientTarget::Address(socket)) };
    }
    if s.contains('/') {
        return Err(NotATarget::More);
    }
    if s.contains('*') {
        return Err(NotATarget::Wildcard);
    }
    let Some((name, port)) = s.rsplit_once(':') else {
        return Ok(ClientTarget::Name(s.parse()?, default));
    };
    match port.parse() {
        Ok(port) if port != 0 => Ok(ClientTarget::Name(name.parse()?, port)),
        _ => Err(NotATarget::Port),
    }
}

impl fmt::Display for ClientTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name, port) => write!(f, "{name}:{port}"),
            Self::Address(socket) => socket.fmt(f),
            Self::NotHostname(socket) => write!(f, "http://{socket}"),
        }
    }
}

impl Serialize for ClientTarget {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ClientTarget {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The report. Field names are the JSON keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts of an answer, each with its own key")]
pub struct ExplainReport {
    /// True for a running gateway, false for files.
    pub live: bool,
    /// Address of the client.
    pub from: IpAddr,
    /// Tenant of the client; `null` if none.
    pub tenant: Option<String>,
    /// Set if a candidate is enforced for the client and the report is the candidate's; `null` from files.
    pub canary: Option<ExplainedCanary>,
    /// Mode of the deciding policy now: `enforce` or `monitor`; `null` where there are no rules.
    pub mode: Option<String>,
    /// Name that the client sends; `null` if none.
    pub hostname: Option<String>,
    /// Address that the client dials.
    pub address: IpAddr,
    /// True if the query gave no address.
    pub address_assumed: bool,
    /// Port that the client dials.
    pub port: u16,
    /// True if the client offers an encrypted ClientHello.
    pub ech: bool,
    /// True if the client sends something that is no hostname.
    #[serde(default)]
    pub not_hostname: bool,
    /// True if the packet rules steer the flow to Egret; otherwise it never gets there.
    pub steered: bool,
    /// The reason why packet rules leave packets between the two addresses alone: `own_source`, `own_address`, `anycast`, `broadcast` or
    /// `multicast`; `null` if they go by the port.
    #[serde(default)]
    pub never_steered: Option<NeverSteered>,
    /// The reason why the running gateway refuses the client's address family before the handshake: `no_route`, `pool_ruled_out` or
    /// `no_address`; `null` if it does not.
    #[serde(default)]
    pub refused_family: Option<FamilyRefusal>,
    /// True if the protocol is neither TLS nor HTTP.
    pub other_protocol: bool,
    /// True if the flow is inspected before the decision.
    pub inspected: bool,
    /// All rules of the tenant, in file order.
    pub rules: Vec<ExplainedRule>,
    /// Owner of a public address that is private, so that rules by name do not lead to it; `null` if it is private for
    /// all, or no such rule applies.
    pub private: Option<String>,
    /// True if the flow would be allowed.
    pub allowed: bool,
    /// The deciding rule.
    pub rule: Option<String>,
    /// Choice of the upstream address by the allowing rule: `original`, `observe`, `verify` or `resolve`.
    pub destination: Option<String>,
    /// Verification of the server's certificate by the same rule: `off`, `observe` or `require`.
    pub certificate: Option<String>,
    /// Known addresses of the name, of the families that may be dialled; `null` unless live and where `destination` needs them.
    pub known_addresses: Option<Vec<IpAddr>>,
    /// Result of the address check by what is known now, as in the flow log; `null` unless live, and where the rule
    /// asks and something is known.
    pub address_check: Option<String>,
    /// Result of the certificate check, likewise.
    pub certificate_check: Option<String>,
    /// The denial that monitor mode waives; `null` if policy allows the flow or the tenant enforces.
    pub would_deny: Option<ExplainedOutcome>,
    /// The denial; `null` if the flow would be allowed.
    pub outcome: Option<ExplainedOutcome>,
    /// Contact from `[policy] help`; `null` if the flow would be allowed.
    pub help: Option<String>,
    /// Pool and source of the flow; `null` if policy denies it.
    pub pool: Option<ExplainedPool>,
    /// Limit on the tenant's concurrent flows; `null`: none.
    pub max_flows: Option<u32>,
    /// Current flows of the tenant; `null` unless live.
    pub flows: Option<u32>,
}

impl ExplainReport {
    /// True if the flow would be allowed, and not by monitor mode alone.
    pub fn is_let_out(&self) -> bool {
        self.allowed && self.would_deny.is_none()
    }
}

/// The reason why connections of an address family are refused before the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FamilyRefusal {
    /// The machine has no default route of the family, and none to the destination.
    NoRoute,
    /// Rules of policy routing keep the pool's addresses from every route of the family.
    PoolRuledOut,
    /// No address of the family hands out ports, or the gateway does not listen for it.
    NoAddress,
}

impl FamilyRefusal {
    /// The cause in words; `family` is `IPv4` or `IPv6`.
    pub fn cause(self, family: &str) -> String {
        match self {
            Self::NoRoute => format!("there is no {family} default route out of this machine"),
            Self::PoolRuledOut => {
                format!("a rule of `ip rule` keeps the pool's addresses from the {family} default route")
            }
            Self::NoAddress => format!(
                "no {family} address of the pool hands out ports, or the gateway does not listen for {family}"
            ),
        }
    }

    /// A sentence on cause, effect and remedy, without full stop; `family` is `IPv4` or `IPv6`.
    pub fn text(self, family: &str) -> String {
        let remedy = match self {
            Self::NoRoute => "; add a default route",
            Self::PoolRuledOut => "; delete the rule, or give the table that it names a default route",
            Self::NoAddress => "",
        };
        format!(
            "{}: {family} connections are refused at once, so that clients fall back to the other family{remedy}",
            self.cause(family)
        )
    }
}

/// A candidate is enforced for this client: rules and verdict are the candidate's, pool and limits those of the tenant
/// in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExplainedCanary {
    /// Percentage of clients that it is enforced for.
    pub percent: u8,
    /// Tenant of the client in the candidate; `null` if none.
    pub tenant: Option<String>,
    /// Report of the policy in force on the same query.
    pub in_force: Box<ExplainReport>,
}

/// One rule that was considered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExplainedRule {
    /// Label of the rule.
    pub rule: String,
    /// `allow` or `deny`.
    pub effect: String,
    /// Finding on the rule, for programs.
    pub finding: String,
    /// Finding on the rule, for people.
    pub text: String,
}

/// Remedy for a denial by a candidate of what the configuration in force allows.
pub const CANARY_REMEDY: &str = "Add the rule to the candidate's file, which `egret candidate status` names, and load that again; or end it by `egret candidate drop`";

/// Remedy for a denial by a candidate of what no rule allows in the configuration in force either.
pub const CANARY_REMEDY_IN_BOTH: &str = "If it should leave, add an allow rule both to the configuration in force and to the \
     candidate's file, which `egret candidate status` names, and load that again";

/// Remedy for a denial by a candidate, where it is not the outcome's own. `egret allow` writes into the configuration in force.
/// `is_let_out`: that one lets the flow out.
pub fn canary_remedy(is_let_out: bool, denied: Option<Outcome>) -> Option<&'static str> {
    if is_let_out {
        return Some(CANARY_REMEDY);
    }
    (denied == Some(Outcome::NotAllowed)).then_some(CANARY_REMEDY_IN_BOTH)
}

/// The reason for a denial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExplainedOutcome {
    /// Name, as in docs/outcomes.md.
    pub name: String,
    /// Meaning of the outcome.
    pub meaning: String,
    /// Remedy.
    pub remedy: String,
}

/// Pool and source address of a flow.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExplainedPool {
    /// Name of the pool.
    pub name: String,
    /// Addresses of the pool, of the families that may be dialled: the client's, or with `resolve` the pool's.
    pub addresses: Vec<String>,
    /// Source ports of the pool.
    pub ports: String,
    /// Source address of the flow: for `paired` as long as it has free ports; for `least-used` only live, at this
    /// moment.
    pub source: Option<IpAddr>,
    /// Public address that `source` is mapped to, from the pool's configuration.
    pub public: Option<IpAddr>,
    /// Current ports of `source` towards the destination; `null` unless live.
    pub in_use: Option<PortsInUse>,
    /// Addresses that are draining: no new ports are leased from them.
    pub drain: Vec<IpAddr>,
    /// Ports of the tenant towards the destination, live and held, on all addresses; `null` unless live and the pool
    /// has floors or ceilings.
    pub tenant_ports: Option<u32>,
    /// Ports towards each destination reserved for this tenant.
    pub ports_floor: Option<u32>,
    /// Most ports of the tenant towards each destination.
    pub ports_ceiling: Option<u32>,
}

/// Ports of one source address towards one destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortsInUse {
    /// Total ports.
    pub capacity: u16,
    /// Ports that carry a flow.
    pub live: u16,
    /// Ports that must not be reused yet.
    pub held: u16,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canary_remedy_helps_against_both_policies() {
        let denied = Some(Outcome::NotAllowed);
        assert!(canary_remedy(true, denied).is_some_and(|remedy| remedy.contains("candidate drop")));
        let in_both = canary_remedy(false, denied).unwrap();
        assert!(in_both.contains("in force") && !in_both.contains("candidate drop"), "{in_both}");
        assert_eq!(canary_remedy(false, Some(Outcome::EchDenied)), None);
    }

    #[test]
    fn target_is_name_or_address_with_port() {
        let name = |name: &str, port| Ok(ClientTarget::Name(name.parse().unwrap(), port));
        let address = |socket: &str| Ok(ClientTarget::Address(socket.parse().unwrap()));
        let host = |socket: &str| Ok(ClientTarget::NotHostname(socket.parse().unwrap()));
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
            ("http://[2001:db8::1]/x", host("[2001:db8::1]:80")),
            ("http://192.0.2.1:443", host("192.0.2.1:443")),
            ("https://192.0.2.1:8443/", address("192.0.2.1:8443")),
            ("udp://a.example:443", Err(NotATarget::Scheme)),
            ("ftp://a.example:2121/x", Err(NotATarget::Scheme)),
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
            assert_eq!(text.parse::<ClientTarget>(), target, "{text}");
            if let Ok(target) = target {
                assert_eq!(target.to_string().parse(), Ok(target));
            }
        }
    }
}
