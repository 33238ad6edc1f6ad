//! Tenants and rules of the configuration, checked.

use super::mode::TenantMode;
use crate::addr::PortRange;
use crate::hostname::HostPattern;
use ipnet::IpNet;
use serde::Serialize;
use std::sync::Arc;

/// A tenant of the configuration, checked.
#[derive(Debug, Clone, Serialize)]
pub struct TenantSpec {
    /// Unique; a metric label.
    pub name: Arc<str>,
    /// Source networks of its clients. No other tenant has an equal network; nested ones go to the longest prefix.
    pub sources: Vec<IpNet>,
    /// Name of the pool that its flows leave from.
    pub pool: Arc<str>,
    /// Enforce or monitor mode.
    pub mode: TenantMode,
    /// Treatment of clients that offer an encrypted ClientHello.
    pub ech: EchPolicy,
    /// Its rules in the order of the file. Deny rules win over allow rules; among allow rules the first that covers a
    /// flow decides.
    pub rules: Vec<RuleSpec>,
}

impl TenantSpec {
    /// Creates a tenant without clients or rules, with the defaults of the configuration.
    pub fn new(name: impl Into<Arc<str>>, pool: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            sources: Vec::new(),
            pool: pool.into(),
            mode: TenantMode::default(),
            ech: EchPolicy::default(),
            rules: Vec::new(),
        }
    }
}

/// One allow or deny rule.
#[derive(Debug, Clone, Serialize)]
pub struct RuleSpec {
    /// Label for people: its `name`, else `file:line`.
    pub label: Arc<str>,
    /// Allow or deny.
    pub effect: RuleEffect,
    /// Names it covers. Empty: any name, or none.
    pub hosts: Vec<HostPattern>,
    /// Destination networks it covers. Empty: any. With `hosts` too, both must cover the flow.
    pub cidrs: Vec<IpNet>,
    /// Destination ports it covers. Empty: any.
    pub ports: Vec<PortRange>,
    /// `inspect = "none"`: flows that it covers are relayed without inspection. Only without `hosts`.
    pub uninspected: bool,
    /// `http = "first-request"`: after a request that it allows, others of the same connection are not judged.
    pub first_request_only: bool,
    /// `other_protocols = "allow"`: protocols other than TLS and HTTP pass even where a deny rule matches by name or
    /// encrypted hellos are denied. Only without `hosts`.
    pub other_protocols: bool,
    /// Choice of the address to dial. Other than `Original` only with `hosts`.
    pub destination: DestinationRule,
    /// Certificate check of its flows' servers. Other than `Unasked` only with `hosts`.
    pub certificate: CertificateRule,
}

impl RuleSpec {
    /// Creates a rule that covers everything, with the defaults of the configuration.
    pub fn new(label: impl Into<Arc<str>>, effect: RuleEffect) -> Self {
        Self {
            label: label.into(),
            effect,
            hosts: Vec::new(),
            cidrs: Vec::new(),
            ports: Vec::new(),
            uninspected: false,
            first_request_only: false,
            other_protocols: false,
            destination: DestinationRule::default(),
            certificate: CertificateRule::default(),
        }
    }
}

/// Certificate check of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
pub enum CertificateRule {
    /// None.
    #[default]
    Unasked,
    /// Egret checks whether it is one for the name, and records the result.
    Observe,
    /// Egret checks, and lets the flow out only if it is.
    Require,
}

impl CertificateRule {
    /// In the order of the documentation.
    pub const ALL: [Self; 3] = [Self::Unasked, Self::Observe, Self::Require];

    /// Keyword in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unasked => "off",
            Self::Observe => "observe",
            Self::Require => "require",
        }
    }
}

/// Choice of the address to dial, and whether it must be one of the name's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
pub enum DestinationRule {
    /// The address that the client dialled.
    #[default]
    Original,
    /// The same; Egret checks whether it is one of the name's, and records the result.
    Observe,
    /// The same, if it is one of the name's.
    Verify,
    /// An address that Egret resolves the name to, whatever the client dialled.
    Resolve,
}

impl DestinationRule {
    /// In the order of the documentation.
    pub const ALL: [Self; 4] = [Self::Original, Self::Observe, Self::Verify, Self::Resolve];

    /// Keyword in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Original => "original",
            Self::Observe => "observe",
            Self::Verify => "verify",
            Self::Resolve => "resolve",
        }
    }
}

/// Effect of a rule on the flows that it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum RuleEffect {
    /// They may leave.
    Allow,
    /// They may not, even if another rule allows them.
    Deny,
}

impl RuleEffect {
    /// Keyword in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// Private destinations of rules that match by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub enum PrivateDestinations {
    /// Private ranges are reached by CIDR rules only.
    #[default]
    ByCidr,
    /// Private ranges are reached by name too. Loopback, link-local, metadata, multicast and unspecified never are.
    Allow,
}

/// Treatment of a client whose ClientHello carries an `encrypted_client_hello` extension (RFC 9849). It cannot be told
/// whether that hides another name or nothing (GREASE), by design.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub enum EchPolicy {
    /// It is judged by the outer name.
    #[default]
    Outer,
    /// It is denied, whatever the outer name.
    Deny,
}
