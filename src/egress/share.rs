//! A tenant's share of a pool that several tenants use.

use super::destination_key::DestinationKey;
use super::lease_error::LeaseError;
use super::share_table::{ShareRefusal, ShareTable};
use crate::addr::DialAddr;
use crate::family::Family;
use std::fmt;
use std::sync::Arc;

/// The tenant's account in which a leased port counts. Empty, and nothing counted, in a pool without floors and
/// ceilings.
#[derive(Clone, Default)]
pub struct Share(Option<Arc<TenantShare>>);

struct TenantShare {
    table: Arc<ShareTable>,
    /// Index of the tenant in the table.
    tenant: u32,
}

impl Share {
    /// No share: not counted, not limited.
    pub const NONE: Self = Self(None);

    pub(super) fn new(table: &Arc<ShareTable>, tenant: &Arc<str>) -> Self {
        Self(Some(Arc::new(TenantShare { table: Arc::clone(table), tenant: table.index(tenant) })))
    }

    /// Counts a port for the tenant before one is taken. Exactly one call of [`Share::unclaim`] or, when the port is
    /// free again, [`Share::release`] must follow.
    pub(super) fn claim(&self, to: DestinationKey, family: Family) -> Result<(), LeaseError> {
        let Some(share) = &self.0 else { return Ok(()) };
        share.table.claim(to, share.tenant, family).map_err(LeaseError::from)
    }

    /// The reason why the tenant would get no port towards a destination now, as far as shares say.
    pub fn refusal(&self, to: DialAddr) -> Option<LeaseError> {
        let share = self.0.as_ref()?;
        share.table.refusal(to.into(), share.tenant, Family::of(to.ip())).map(LeaseError::from)
    }

    /// The tenant's ports towards a destination, live and held; `None` if they are not counted.
    pub fn ports(&self, to: DialAddr) -> Option<u32> {
        self.0.as_ref().map(|share| share.table.ports(to.into(), share.tenant))
    }

    /// True if the counts say that there is a free port for the claim; false without counts.
    pub(super) fn is_backed(&self, to: DestinationKey, family: Family) -> bool {
        self.0.as_ref().is_some_and(|share| share.table.has_room(to, family))
    }

    /// Withdraws a claim for which no port was found.
    pub(super) fn unclaim(&self, to: DestinationKey) {
        if let Some(share) = &self.0 {
            share.table.release(to, share.tenant);
            share.table.fell(to, 1);
        }
    }

    /// Counts one port less: it is free again, or about to be under the lock that is held. The account itself reports
    /// that it has one busy port less.
    pub(super) fn release(&self, to: DestinationKey) {
        if let Some(share) = &self.0 {
            share.table.release(to, share.tenant);
        }
    }

    /// The table that holds the claim.
    pub(super) fn table(&self) -> Option<&Arc<ShareTable>> {
        self.0.as_ref().map(|share| &share.table)
    }
}

impl From<ShareRefusal> for LeaseError {
    fn from(refusal: ShareRefusal) -> Self {
        match refusal {
            ShareRefusal::Ceiling => Self::Ceiling,
            ShareRefusal::KeptForFloors => Self::KeptForFloors,
            ShareRefusal::NothingFree => Self::Exhausted,
        }
    }
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Share").field(&self.0.as_ref().map(|share| share.tenant)).finish()
    }
}

#[cfg(test)]
mod tests;
