//! State of the running gateway.

use super::candidate::Candidates;
use super::forecast::Forecast;
use super::in_force::InForce;
use crate::egress::Ledger;
use crate::gateway::Gateway;
use std::sync::Arc;

/// State shared by all that observe or change the running gateway.
#[derive(Clone)]
pub(super) struct Handles {
    pub(super) gateway: Arc<Gateway>,
    pub(super) in_force: Arc<InForce>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) forecast: Forecast,
    pub(super) candidates: Candidates,
}
