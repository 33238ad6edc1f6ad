//! Pipes, and `splice(2)` between a pipe and a socket.

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// A pipe that moves bytes without a copy in user space.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    /// Creates a pipe of the kernel's default size (16 slots). `EMFILE` and `ENFILE` mean out of descriptors; beyond
    /// `pipe-user-pages-soft` an unprivileged user gets pipes of two slots, which still work.
    pub fn new() -> io::Result<Self> {
        let (read, write) = nix::unistd::pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
        Ok(Self { read, write })
    }

    /// Creates a pipe of `size` bytes, a power of two of pages; of the default size if the user's limit is reached
    /// (`EPERM`).
    pub fn of_size(size: i32) -> io::Result<Self> {
        let pipe = Self::new()?;
        let _ = fcntl(&pipe.write, FcntlArg::F_SETPIPE_SZ(size));
        Ok(pipe)
    }

    /// Capacity in bytes if each slot has a full page.
    #[cfg(test)]
    pub fn size(&self) -> io::Result<i32> {
        Ok(fcntl(&self.write, FcntlArg::F_GETPIPE_SZ)?)
    }

    /// Moves up to `most` bytes from a non-blocking socket into the pipe; 0 is the end of the stream. `most` stays far
    /// below 2 GiB (larger lengths fail with `EINVAL`).
    ///
    /// `WouldBlock` means that the socket is empty *or* the pipe is full: only with an empty pipe it is the socket.
    pub fn fill(&self, socket: impl AsFd, most: usize) -> io::Result<usize> {
        Ok(splice(socket, None, &self.write, None, most, FLAGS)?)
    }

    /// Moves up to `most` bytes from the pipe into a non-blocking socket. `most` must not exceed the bytes in the pipe.
    pub fn drain(&self, socket: impl AsFd, most: usize) -> io::Result<usize> {
        Ok(splice(&self.read, None, socket, None, most, FLAGS)?)
    }
}

/// Never `SPLICE_F_MORE`, which delays the last bytes for 200 ms. `SPLICE_F_NONBLOCK` covers the pipe's side only; the
/// socket must be non-blocking itself.
const FLAGS: SpliceFFlags = SpliceFFlags::SPLICE_F_MOVE.union(SpliceFFlags::SPLICE_F_NONBLOCK);
