//! Flows of `egret doctor`'s own: the order `POST /v1/probe`, and the answer of `GET /v1/probe`.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// Order to expect a probe's connection, for half a minute. Its flow can be asked about, and does not count in a candidate's
/// figures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeOrder {
    /// Address and port of the client that the probe plays.
    pub client: SocketAddr,
}

/// The answer to the order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeExpected {}

/// Query parameters.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeQuery {
    /// Address and port of the probe.
    pub client: SocketAddr,
}

/// Answer to the query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbedFlowAnswer {
    /// The last flow of that client; `null` if the gateway has accepted none.
    pub flow: Option<ProbedFlow>,
}

/// A flow of a probe, alive or ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbedFlow {
    /// The flow's ID, as in the flow log.
    pub flow: String,
    /// Its outcome; `null` while it lives.
    pub outcome: Option<String>,
    /// More on the outcome.
    pub detail: Option<String>,
    /// True if the gateway has seen the client's first bytes.
    pub inspected: bool,
    /// Address that was dialled.
    pub dialled: Option<SocketAddr>,
    /// Source address and port.
    pub source: Option<SocketAddr>,
    /// Public address of the source, as noted in the pool.
    pub public: Option<IpAddr>,
    /// True if the server has accepted the connection.
    pub connected: bool,
    /// Payload bytes from client to server.
    pub bytes_up: u64,
    /// Payload bytes from server to client.
    pub bytes_down: u64,
}
