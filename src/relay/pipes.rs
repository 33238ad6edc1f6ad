//! A worker's pool of pipes. Only an empty pipe can come back: bytes left in one would reach another flow.

use crate::sys::pipe::Pipe;
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;

/// Empty pipes that are kept for use: enough for the flows that are in the middle of a splice at once.
const IDLE: usize = 64;

/// Empty pipes, ready for use, and a bound on all pipes of the worker.
#[derive(Debug)]
pub(super) struct Pipes {
    idle: RefCell<Vec<CountedPipe>>,
    /// `open <= most`
    open: Rc<Cell<usize>>,
    most: usize,
}

/// A pipe that counts as open for as long as it lives.
#[derive(Debug)]
pub(super) struct CountedPipe {
    pipe: Pipe,
    open: Rc<Cell<usize>>,
}

impl Drop for CountedPipe {
    fn drop(&mut self) {
        self.open.set(self.open.get() - 1);
    }
}

impl Pipes {
    /// A pool that opens up to `most` pipes.
    pub(super) fn new(most: usize) -> Self {
        Self { idle: RefCell::default(), open: Rc::default(), most }
    }

    /// An empty pipe; `None` where the bound is reached, or descriptors or memory are out, and the caller copies
    /// instead.
    pub(super) fn take(&self) -> Option<CountedPipe> {
        if let Some(pipe) = self.idle.borrow_mut().pop() {
            return Some(pipe);
        }
        if self.open.get() >= self.most {
            return None;
        }
        let pipe = Pipe::new().ok()?;
        self.open.set(self.open.get() + 1);
        Some(CountedPipe { pipe, open: Rc::clone(&self.open) })
    }

    /// Takes an empty pipe back.
    pub(super) fn put_back(&self, pipe: CountedPipe) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < IDLE {
            idle.push(pipe);
        }
    }

    #[cfg(test)]
    pub(super) fn idle(&self) -> usize {
        self.idle.borrow().len()
    }
}

impl CountedPipe {
    /// See [`Pipe::fill`].
    pub(super) fn fill(&self, socket: impl AsFd, most: usize) -> io::Result<usize> {
        self.pipe.fill(socket, most)
    }
}

/// A pipe with bytes in it. Dropping it closes the pipe with them.
pub(super) struct Filled {
    pipe: CountedPipe,
    /// `> 0`
    bytes: usize,
}

impl Filled {
    /// A pipe that `bytes > 0` bytes were just put into.
    pub(super) fn new(pipe: CountedPipe, bytes: usize) -> Self {
        debug_assert!(bytes > 0);
        Self { pipe, bytes }
    }

    /// Moves what the socket takes; tell [`Self::delivered`] how much it was.
    pub(super) fn drain(&self, socket: impl AsFd) -> io::Result<usize> {
        self.pipe.pipe.drain(socket, self.bytes)
    }

    /// `n` bytes have left; the pipe itself, as the error, once it is empty.
    pub(super) fn delivered(self, n: usize) -> Result<Self, CountedPipe> {
        match self.bytes.checked_sub(n) {
            Some(bytes @ 1..) => Ok(Self { pipe: self.pipe, bytes }),
            Some(0) | None => Err(self.pipe),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_pipes_are_open_than_the_bound_says_and_empty_ones_come_back() {
        let pipes = Pipes::new(2);
        let (first, second) = (pipes.take().unwrap(), pipes.take().unwrap());
        assert!(pipes.take().is_none());
        pipes.put_back(first);
        assert_eq!(pipes.idle(), 1);
        drop(Filled::new(second, 1));
        let _one = pipes.take().unwrap();
        let _other = pipes.take().unwrap();
        assert!(pipes.take().is_none());
    }
}
