//! Traces of flows: the order `POST /v1/trace`, and the answer of `GET /v1/trace`.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Order to start a trace, which ends the one before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceOrder {
    /// Network of the clients; any if it is absent.
    pub clients: Option<IpNet>,
    /// The names asked for, as in a rule's `hosts`; any, and none, if it is absent.
    pub names: Option<String>,
    /// Seconds until the trace ends: 1 to 600.
    pub seconds: u32,
    /// Number of flows after which no further one is traced: 1 to 1,000. The trace ends with the last of them.
    pub flows: u32,
}

/// A trace that was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceStarted {
    /// The number to ask for its steps by.
    pub trace: u64,
}

/// Query parameters.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceQuery {
    /// The number of the trace.
    pub trace: u64,
}

/// The steps since the last query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceAnswer {
    /// The steps, in their order.
    pub steps: Vec<TraceStep>,
    /// Number of flows traced so far.
    pub flows: u32,
    /// Steps that were dropped because they were not read in time.
    pub dropped: u64,
    /// The reason why no more will come; `null` while the trace runs.
    pub over: Option<String>,
}

/// One step of a traced flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceStep {
    /// The flow's id, as in the flow log.
    pub flow: String,
    /// The client.
    pub client: SocketAddr,
    /// Microseconds since the connection was accepted.
    pub microseconds: u64,
    /// Description of the step, with its values.
    pub step: String,
}
