//! Wake-ups from other threads.

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

/// Keys of tasks woken by other threads. Its descriptor is readable while there are any.
#[derive(Debug)]
pub(super) struct Inbox {
    keys: Mutex<Vec<u32>>,
    bell: EventFd,
}

impl Inbox {
    pub(super) fn new() -> io::Result<Self> {
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { keys: Mutex::default(), bell })
    }

    /// Adds a key; callable on any thread.
    pub(super) fn put(&self, key: u32) {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.is_empty() {
            // Only a count near 2^64 would make it fail or block.
            while self.bell.write(1) == Err(Errno::EINTR) {}
        }
        keys.push(key);
    }

    /// Takes all keys.
    pub(super) fn take(&self) -> Vec<u32> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        while self.bell.read() == Err(Errno::EINTR) {}
        std::mem::take(&mut keys)
    }
}

impl AsFd for Inbox {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
