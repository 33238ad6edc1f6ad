//! Buffers of a worker, which its flows share.

use super::pipes::Pipes;
use std::cell::RefCell;

/// Shared by the flows of a worker. The buffer is used within a poll only; nothing is in it between polls.
#[derive(Debug)]
pub struct WorkerScratch {
    pub(super) buffer: RefCell<Box<[u8]>>,
    pub(super) pipes: Pipes,
}

impl WorkerScratch {
    /// 16 KiB of buffer, and up to `most_pipes` pipes of two descriptors each; flows that find none copy.
    pub fn new(most_pipes: usize) -> Self {
        Self { buffer: RefCell::new(vec![0; COPY].into_boxed_slice()), pipes: Pipes::new(most_pipes) }
    }
}

/// Size of the copy buffer. A read that fills it suggests that more follows, and that splicing pays.
pub(super) const COPY: usize = 16 * 1024;
