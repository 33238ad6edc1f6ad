//! The metric handles that a flow touches, resolved once per tenant. `telemetry` fills them from its catalogue.

use super::candidate::Change;
use crate::outcome::Outcome;
use metrics::{Counter, Gauge, Histogram};

/// One tenant's handles; flows of no tenant share a set labelled `unknown`.
#[derive(Clone)]
pub struct TenantMeters {
    /// `egret_flows_active`
    pub flows_active: Gauge,
    /// `egret_flow_bytes_total{direction="up"}`: from client to server.
    pub bytes_up: Counter,
    /// `egret_flow_bytes_total{direction="down"}`: from server to client.
    pub bytes_down: Counter,
    /// `egret_ech_flows_total`
    pub ech: Counter,
    /// `egret_inspect_duration_seconds`
    pub inspect_duration: Histogram,
    /// `egret_connect_duration_seconds`
    pub connect_duration: Histogram,
    /// `egret_http_requests_total`
    pub http_requests: Counter,
    /// `egret_flow_duration_seconds`
    pub flow_duration: Histogram,
    /// `egret_port_allocation_failures_total` of the tenant's pool; a no-op where it has none.
    pub port_allocation_failures: Counter,
    /// `egret_flows_total`, by `outcome as usize`; as long as [`Outcome::ALL`].
    pub ended: Box<[Counter]>,
    /// `egret_denials_total`, by `outcome as usize`; as long as [`Outcome::ALL`], a no-op where it is no denial.
    pub denied: Box<[Counter]>,
    /// `egret_would_deny_total`, by `outcome as usize`; as long as [`Outcome::ALL`], a no-op where monitor mode denies
    /// too, and everywhere unless the tenant is in monitor mode.
    pub would_deny: Box<[Counter]>,
    /// `egret_candidate_decisions_total`, by `change as usize`.
    pub candidate: [Counter; Change::ALL.len()],
}

impl TenantMeters {
    /// The counters of one outcome: flows, and denials.
    pub fn outcome(&self, outcome: Outcome) -> (&Counter, &Counter) {
        (&self.ended[outcome as usize], &self.denied[outcome as usize])
    }

    /// The counter of flows for which a candidate would change this.
    pub fn candidate(&self, change: Change) -> &Counter {
        &self.candidate[change as usize]
    }

    /// The counter of flows that only monitor mode let out.
    pub fn would_deny(&self, reason: Outcome) -> &Counter {
        &self.would_deny[reason as usize]
    }
}
