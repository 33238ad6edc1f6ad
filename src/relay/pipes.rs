//! A worker's pool of pipes. Only an empty pipe can come back: bytes left in one would reach another flow.

use crate::sys::pipe::Pipe;
use std::cell::RefCell;
use std::io;
use std::os::fd::AsFd;

/// Empty pipes, ready for use.
#[derive(Debug)]
pub struct Pipes {
    idle: RefCell<Vec<Pipe>>,
    most: usize,
}

impl Pipes {
    /// A pool that keeps up to `most` empty pipes.
    pub fn new(most: usize) -> Self {
        Self { idle: RefCell::default(), most }
    }

    /// An empty pipe; `None` where descriptors or memory for pipes are out, and the caller copies instead.
    pub(super) fn take(&self) -> Option<Pipe> {
        let idle = self.idle.borrow_mut().pop();
        idle.or_else(|| Pipe::new().ok())
    }

    #[cfg(test)]
    pub(super) fn idle(&self) -> usize {
        self.idle.borrow().len()
    }

    /// Takes an empty pipe back.
    pub(super) fn put_back(&self, pipe: Pipe) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < self.most {
            idle.push(pipe);
        }
    }
}

/// A pipe with bytes in it. Dropping it closes the pipe with them.
pub(super) struct Filled {
    pipe: Pipe,
    /// `> 0`
    bytes: usize,
}

impl Filled {
    /// A pipe that `bytes > 0` bytes were just put into.
    pub(super) fn new(pipe: Pipe, bytes: usize) -> Self {
        debug_assert!(bytes > 0);
        Self { pipe, bytes }
    }

    /// Moves what the socket takes; tell [`Self::delivered`] how much it was.
    pub(super) fn drain(&self, socket: impl AsFd) -> io::Result<usize> {
        self.pipe.drain(socket, self.bytes)
    }

    /// `n` bytes have left; the pipe itself, as the error, once it is empty.
    pub(super) fn delivered(self, n: usize) -> Result<Self, Pipe> {
        match self.bytes.checked_sub(n) {
            Some(bytes @ 1..) => Ok(Self { pipe: self.pipe, bytes }),
            Some(0) | None => Err(self.pipe),
        }
    }
}
