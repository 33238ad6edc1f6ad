//! Tenants and rules as the configuration states them, checked.

use super::Mode;
use crate::addr::PortRange;
use crate::hostname::HostPattern;
use ipnet::IpNet;
use std::sync::Arc;

/// A tenant as the configuration states it, checked.
#[derive(Debug, Clone)]
pub struct TenantSpec {
    /// Unique; a metric label.
    pub name: Arc<str>,
    /// Whose flows are the tenant's. No other tenant has an equal network; nested ones go to the longest prefix.
    pub sources: Vec<IpNet>,
    /// The name of the pool its flows leave from.
    pub pool: Arc<str>,
    /// Whether its rules are enforced.
    pub mode: Mode,
    /// What becomes of clients that offer an encrypted ClientHello.
    pub ech: Ech,
    /// At most this many flows at once.
    pub max_flows: Option<u32>,
    /// Ports towards each destination that the pool's other tenants leave to it.
    pub ports_floor: Option<u32>,
    /// Ports towards each destination that it never has more of; at least the floor.
    pub ports_ceiling: Option<u32>,
    /// Its rules in the order of the file. Deny rules win over allow rules; among allow rules the first that covers a
    /// flow names it.
    pub rules: Vec<RuleSpec>,
}

impl TenantSpec {
    /// A tenant of nobody's that may reach nothing, with what a file that says no more means by it.
    pub fn new(name: impl Into<Arc<str>>, pool: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            sources: Vec::new(),
            pool: pool.into(),
            mode: Mode::default(),
            ech: Ech::default(),
            max_flows: None,
            ports_floor: None,
            ports_ceiling: None,
            rules: Vec::new(),
        }
    }
}

/// One allow or deny line.
#[derive(Debug, Clone)]
pub struct RuleSpec {
    /// How people find it again: its `name`, else `file:line`.
    pub label: Arc<str>,
    /// What it says.
    pub effect: Effect,
    /// Names it covers. Empty: any name, or none.
    pub hosts: Vec<HostPattern>,
    /// Destination networks it covers. Empty: any. With `hosts` too, both must cover the flow.
    pub cidrs: Vec<IpNet>,
    /// Destination ports it covers. Empty: any.
    pub ports: Vec<PortRange>,
    /// `inspect = "none"`: flows that it covers are relayed before the client says anything. Only without `hosts`.
    pub uninspected: bool,
    /// `http = "first-request"`: after a request that it allows, others of the same connection are not judged.
    pub first_request_only: bool,
    /// `other_protocols = "allow"`: what is neither TLS nor HTTP passes also where a deny rule goes by name. Only without
    /// `hosts`.
    pub other_protocols: bool,
    /// Which address its flows go to. Other than `Original` only with `hosts`.
    pub destination: Destination,
    /// What its flows' servers have to prove. Other than `Unasked` only with `hosts`.
    pub certificate: CertificateRule,
}

impl RuleSpec {
    /// A rule that covers everything, with what a file that says no more means by it.
    pub fn new(label: impl Into<Arc<str>>, effect: Effect) -> Self {
        Self {
            label: label.into(),
            effect,
            hosts: Vec::new(),
            cidrs: Vec::new(),
            ports: Vec::new(),
            uninspected: false,
            first_request_only: false,
            other_protocols: false,
            destination: Destination::default(),
            certificate: CertificateRule::default(),
        }
    }
}

/// What is made of a server's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CertificateRule {
    /// Nobody asks for it.
    #[default]
    Unasked,
    /// Egret asks, and records whether it is one for the name.
    Observe,
    /// Egret asks, and lets the flow go only if it is.
    Require,
}

impl CertificateRule {
    /// In the order of the documentation.
    pub const ALL: [Self; 3] = [Self::Unasked, Self::Observe, Self::Require];

    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unasked => "off",
            Self::Observe => "observe",
            Self::Require => "require",
        }
    }
}

/// Which address a flow goes to, and whether that must be the name's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Destination {
    /// The one that the client dialled.
    #[default]
    Original,
    /// The same; whether it is the name's is found out and recorded.
    Observe,
    /// The same, if it is the name's.
    Verify,
    /// One that Egret resolves the name to, whatever the client dialled.
    Resolve,
}

impl Destination {
    /// In the order of the documentation.
    pub const ALL: [Self; 4] = [Self::Original, Self::Observe, Self::Verify, Self::Resolve];

    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Original => "original",
            Self::Observe => "observe",
            Self::Verify => "verify",
            Self::Resolve => "resolve",
        }
    }
}

/// What a rule says of the flows it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// They may leave.
    Allow,
    /// They may not, whatever another rule says.
    Deny,
}

impl Effect {
    /// The word in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// What a rule that goes by name may reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PrivateDestinations {
    /// Private ranges are reached by CIDR rules only.
    #[default]
    ByCidr,
    /// Private ranges are reached by name too. Loopback, link-local, metadata, multicast and unspecified never are.
    Allow,
}

/// What becomes of a client whose ClientHello carries an `encrypted_client_hello` extension (RFC 9849). Whether there is
/// another name in it, or nothing (GREASE), cannot be told: that is its purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ech {
    /// It is judged by the name outside.
    #[default]
    Outer,
    /// It is denied, whatever the name outside is.
    Deny,
}
