//! Known addresses of names: the answer of `GET /v1/names`.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// Query parameters.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamesQuery {
    /// Restricts the answer to this name.
    pub name: Option<String>,
}

/// Known names, addresses and mismatches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamesReport {
    /// DNS servers in use; empty if no rule needs lookups.
    pub servers: Vec<SocketAddr>,
    /// Number of known names, counted once per address family.
    pub known: usize,
    /// Current or last known addresses of the requested name; `None` if no name was requested.
    pub addresses: Option<Vec<IpAddr>>,
    /// Flows to addresses that did not belong to their name: distinct ones, the most recent first, at most 256.
    pub mismatches: Vec<MismatchRow>,
}

/// Flows of one tenant by one rule to one address for one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MismatchRow {
    /// Tenant of the flows.
    pub tenant: String,
    /// The rule that allows the name.
    pub rule: Option<String>,
    /// Requested name.
    pub name: String,
    /// Dialled address.
    pub address: SocketAddr,
    /// Number of flows.
    pub flows: u64,
    /// Time of the last one, RFC 3339 in UTC.
    pub last: String,
}
