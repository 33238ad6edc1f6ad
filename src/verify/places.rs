//! How many questions may be under way, and how many may begin in a second.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
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
pub struct Asker {
    places: Arc<Semaphore>,
    pub(super) pace: Arc<Pace>,
}

/// When the second that counts began, and how many have begun in it.
#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<(Option<Instant>, u32)>);

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
        Self { places: Arc::new(Semaphore::new(OF_ONE)), pace: Arc::default() }
    }
}

impl Places {
    /// A place, if one is left.
    pub(super) fn take(&self, asker: &Asker) -> Option<Place> {
        let of_one = Arc::clone(&asker.places).try_acquire_owned().ok()?;
        let of_all = Arc::clone(&self.0).try_acquire_owned().ok()?;
        Some(Place { _of_all: of_all, _of_one: of_one })
    }
}

impl Pace {
    /// Whether one more may begin, if `most` may in a second.
    pub(super) fn take(&self, now: Instant, most: u32) -> bool {
        let mut pace = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pace.0.is_none_or(|began| now.duration_since(began) >= Duration::from_secs(1)) {
            *pace = (Some(now), 0);
        }
        pace.1 = pace.1.saturating_add(1);
        pace.1 <= most
    }
}
