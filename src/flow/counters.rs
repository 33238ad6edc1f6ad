//! Counters of messages, which have one writer each.

use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers counted with every message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageCounter {
    /// Bytes from client to server.
    Up,
    /// Bytes from server to client.
    Down,
    /// HTTP/1 requests that were judged and let through.
    Requests,
}

impl MessageCounter {
    /// Every one, in the order of the cells.
    pub const ALL: [Self; 3] = [Self::Up, Self::Down, Self::Requests];
}

/// One cell for each [`MessageCounter`]: written by one thread, read by any.
///
/// A cell with one writer needs no atomic read-modify-write. Its owner keeps it to one: [`FlowHandle`](super::FlowHandle)
/// for a flow's cells, `Meters` for a worker's; neither leaves its thread.
#[derive(Debug, Default)]
pub struct MessageCells([AtomicU64; MessageCounter::ALL.len()]);

impl MessageCells {
    /// Adds to a cell. With two writers at once, counts would be lost.
    pub fn add(&self, what: MessageCounter, by: u64) {
        let cell = &self.0[what as usize];
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self, what: MessageCounter) -> u64 {
        self.0[what as usize].load(Ordering::Relaxed)
    }
}
