//! Reasons why a pool leases no port.

use crate::outcome::Outcome;
use thiserror::Error;

/// Reason why a pool has no port for a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LeaseError {
    /// The pool has no address of the destination's family that gives out ports.
    #[error("the pool has no address of the destination's family that gives out ports")]
    NoAddress,
    /// All ports of all addresses that the client may use are live or held towards the destination.
    #[error("every port of the pool is in use towards the destination")]
    Exhausted,
    /// The tenant has as many ports towards the destination as its `ports_ceiling` allows.
    #[error("the tenant has as many ports towards the destination as its ceiling allows")]
    Ceiling,
    /// The tenant has its `ports_floor`, and the free ports towards the destination are reserved for others below theirs.
    #[error("the free ports towards the destination are kept for the floors of other tenants")]
    KeptForFloors,
}

impl LeaseError {
    /// Outcome of the flow.
    pub fn outcome(self) -> Outcome {
        match self {
            Self::NoAddress => Outcome::NoSourceAddress,
            Self::Exhausted => Outcome::PortsExhausted,
            Self::Ceiling | Self::KeptForFloors => Outcome::TenantPortCeiling,
        }
    }

    /// Detail of the outcome, if there is any.
    pub fn detail(self) -> Option<&'static str> {
        match self {
            Self::NoAddress | Self::Exhausted => None,
            Self::Ceiling => Some("the tenant is at its ports_ceiling"),
            Self::KeptForFloors => Some("the free ports are kept for the ports_floor of other tenants"),
        }
    }
}
