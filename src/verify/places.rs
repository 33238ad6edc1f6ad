//! How many questions may be under way.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Of all tenants together.
const ALL: usize = 512;
/// Of one tenant, so that one that makes names up does not stand in the others' way.
const OF_ONE: usize = 128;

/// The places of all tenants.
#[derive(Debug)]
pub(super) struct Places(Arc<Semaphore>);

/// Who asks: one tenant. A clone is the same tenant.
#[derive(Debug, Clone)]
pub struct Asker(Arc<Semaphore>);

/// A place taken.
#[derive(Debug)]
pub(super) struct Place {
    _of_all: OwnedSemaphorePermit,
    _of_one: OwnedSemaphorePermit,
}

impl Default for Places {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ALL)))
    }
}

impl Default for Asker {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(OF_ONE)))
    }
}

impl Places {
    /// A place, if one is left.
    pub(super) fn take(&self, asker: &Asker) -> Option<Place> {
        let of_one = Arc::clone(&asker.0).try_acquire_owned().ok()?;
        let of_all = Arc::clone(&self.0).try_acquire_owned().ok()?;
        Some(Place { _of_all: of_all, _of_one: of_one })
    }
}
