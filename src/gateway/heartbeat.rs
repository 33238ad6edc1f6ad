//! Heartbeat of a worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Heartbeats of a worker's event loop. Clones share the count.
#[derive(Debug, Clone, Default)]
pub struct Heartbeat(Arc<AtomicU64>);

impl Heartbeat {
    /// Counts a heartbeat: the loop has turned.
    pub fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Number of heartbeats: equal to an earlier count if the loop has not turned since.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
