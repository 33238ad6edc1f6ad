//! State of the running gateway.

use super::active_config::ActiveConfig;
use super::forecast::ForecastHandle;
use super::loaded_candidate::SharedCandidate;
use crate::egress::Ledger;
use crate::gateway::GatewayState;
use crate::telemetry::FlowTraces;
use std::sync::Arc;

/// State shared by all that observe or change the running gateway.
#[derive(Clone)]
pub(crate) struct ControlHandles {
    pub(crate) gateway: Arc<GatewayState>,
    pub(crate) in_force: Arc<ActiveConfig>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) forecast: ForecastHandle,
    pub(crate) candidates: SharedCandidate,
    pub(crate) traces: FlowTraces,
}
