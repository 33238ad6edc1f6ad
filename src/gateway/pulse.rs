//! A sign of life of each worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Beats while a worker's event loop turns. A clone is the same.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// The loop has turned.
    pub fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How often it has beaten: equal to an earlier count if the loop has not turned since.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
