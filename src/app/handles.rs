//! State of the running gateway.

use super::active_config::ActiveConfig;
use super::forecast::ForecastHandle;
use super::loaded_candidate::SharedCandidate;
use crate::egress::Ledger;
use crate::gateway::GatewayState;
use std::sync::Arc;

/// State shared by all that observe or change the running gateway.
#[derive(Clone)]
pub(super) struct ControlHandles {
    pub(super) gateway: Arc<GatewayState>,
    pub(super) in_force: Arc<ActiveConfig>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) forecast: ForecastHandle,
    pub(super) candidates: SharedCandidate,
}
