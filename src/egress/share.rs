//! A tenant's part of a pool that it shares with others.

use super::account::DestinationKey;
use super::lease::LeaseError;
use super::share_table::{Refusal, ShareTable};
use crate::addr::{DialAddr, Family};
use std::fmt;
use std::sync::Arc;

/// What a tenant is assured of and held to in its pool, towards each destination, over all source addresses.
#[derive(Debug, Clone)]
pub struct ShareSpec {
    /// The tenant's name.
    pub tenant: Arc<str>,
    /// Ports that its neighbours leave to it. 0: none.
    pub floor: u32,
    /// Ports, live and held, that it never has more of; at least the floor. `None`: as many as there are.
    pub ceiling: Option<u32>,
}

/// In whose name a port is leased. Of a pool without floors and ceilings it is empty, and nothing is counted.
#[derive(Clone, Default)]
pub struct Share(Option<Arc<Seat>>);

struct Seat {
    table: Arc<ShareTable>,
    /// Its place in the table.
    tenant: u32,
}

impl Share {
    /// Nobody's: not counted, not refused.
    pub const NONE: Self = Self(None);

    pub(super) fn new(table: &Arc<ShareTable>, tenant: &Arc<str>) -> Self {
        Self(Some(Arc::new(Seat { table: Arc::clone(table), tenant: table.seat(tenant) })))
    }

    /// Counts a port for the tenant before one is taken. Exactly one of [`Share::unclaim`] and, when the port is
    /// free again, [`Share::release`] follows.
    pub(super) fn claim(&self, to: DestinationKey, family: Family) -> Result<(), LeaseError> {
        let Some(seat) = &self.0 else { return Ok(()) };
        seat.table.claim(to, seat.tenant, family).map_err(|refusal| match refusal {
            Refusal::Ceiling => LeaseError::Ceiling,
            Refusal::KeptForFloors => LeaseError::KeptForFloors,
            Refusal::NothingFree => LeaseError::Exhausted,
        })
    }

    /// The tenant's ports towards a destination, live and held; `None` if nobody counts them.
    pub fn ports(&self, to: DialAddr) -> Option<u32> {
        self.0.as_ref().map(|seat| seat.table.ports(to.into(), seat.tenant))
    }

    /// Whether the counts say that there is a free port for the claim; not if there are none.
    pub(super) fn is_backed(&self, to: DestinationKey, family: Family) -> bool {
        self.0.as_ref().is_some_and(|seat| seat.table.has_room(to, family))
    }

    /// No port could be had.
    pub(super) fn unclaim(&self, to: DestinationKey) {
        if let Some(seat) = &self.0 {
            seat.table.release(to, seat.tenant);
            seat.table.fell(to, 1);
        }
    }

    /// The tenant's port is free again, or about to be under the lock that is held. The account reports for itself
    /// that it has one busy port less.
    pub(super) fn release(&self, to: DestinationKey) {
        if let Some(seat) = &self.0 {
            seat.table.release(to, seat.tenant);
        }
    }

    /// Whose counts a claim is in.
    pub(super) fn table(&self) -> Option<&Arc<ShareTable>> {
        self.0.as_ref().map(|seat| &seat.table)
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Share").field(&self.0.as_ref().map(|seat| seat.tenant)).finish()
    }
}

#[cfg(test)]
mod tests;
