//! What the gateway knows of names' addresses: the answer of `GET /v1/names`.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// What is asked.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamesQuery {
    /// This name alone.
    pub name: Option<String>,
}

/// What is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamesReport {
    /// The DNS servers that are asked; empty if no rule asks about names.
    pub servers: Vec<SocketAddr>,
    /// Names known, counted once for each family.
    pub known: usize,
    /// The addresses that are dialled for the name that was asked for, or were last known; `None` if none was.
    pub addresses: Option<Vec<IpAddr>>,
    /// Flows to addresses that were none of their name's: different ones, the latest first, at most 256.
    pub mismatches: Vec<MismatchRow>,
}

/// Flows of one tenant by one rule to one address for one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MismatchRow {
    /// Whose flows.
    pub tenant: String,
    /// The rule that allows the name.
    pub rule: Option<String>,
    /// The name that was asked for.
    pub name: String,
    /// The address that was dialled.
    pub address: SocketAddr,
    /// How many.
    pub flows: u64,
    /// When the last one was, RFC 3339 in UTC.
    pub last: String,
}
