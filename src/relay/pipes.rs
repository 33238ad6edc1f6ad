//! A worker's pool of pipes. Only an empty pipe can come back: bytes left in one would reach another flow.

use crate::sys::pipe::Pipe;
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;

/// Pipes of one worker, bounded in number: a peer that stops reading keeps one filled for as long as it likes, and
/// without a bound a few hundred of them would take the descriptors that other flows' sockets need.
#[derive(Debug)]
pub struct Pipes {
    idle: RefCell<Vec<Pooled>>,
    /// How many more may be opened.
    places: Rc<Cell<usize>>,
}

/// A pipe that gives its place back when it is closed.
#[derive(Debug)]
pub(super) struct Pooled {
    pipe: Pipe,
    places: Rc<Cell<usize>>,
}

impl Drop for Pooled {
    fn drop(&mut self) {
        self.places.set(self.places.get() + 1);
    }
}

impl Pipes {
    /// A pool of at most `most` pipes, empty or filled.
    pub fn new(most: usize) -> Self {
        Self { idle: RefCell::default(), places: Rc::new(Cell::new(most)) }
    }

    /// An empty pipe; `None` where all are in use, or descriptors or memory are out, and the caller copies instead.
    pub(super) fn take(&self) -> Option<Pooled> {
        let idle = self.idle.borrow_mut().pop();
        idle.or_else(|| {
            let left = self.places.get().checked_sub(1)?;
            let pipe = Pipe::new().ok()?;
            self.places.set(left);
            Some(Pooled { pipe, places: Rc::clone(&self.places) })
        })
    }

    #[cfg(test)]
    pub(super) fn idle(&self) -> usize {
        self.idle.borrow().len()
    }

    /// Takes an empty pipe back.
    pub(super) fn put_back(&self, pipe: Pooled) {
        self.idle.borrow_mut().push(pipe);
    }
}

impl Pooled {
    /// Moves up to `most` bytes into the pipe, which is empty; see [`Pipe::fill`].
    pub(super) fn fill(&self, socket: impl AsFd, most: usize) -> io::Result<usize> {
        self.pipe.fill(socket, most)
    }
}

/// A pipe with bytes in it. Dropping it closes the pipe with them.
pub(super) struct Filled {
    pipe: Pooled,
    /// `> 0`
    bytes: usize,
}

impl Filled {
    /// A pipe that `bytes > 0` bytes were just put into.
    pub(super) fn new(pipe: Pooled, bytes: usize) -> Self {
        debug_assert!(bytes > 0);
        Self { pipe, bytes }
    }

    /// Moves what the socket takes; tell [`Self::delivered`] how much it was.
    pub(super) fn drain(&self, socket: impl AsFd) -> io::Result<usize> {
        self.pipe.pipe.drain(socket, self.bytes)
    }

    /// `n` bytes have left; the pipe itself, as the error, once it is empty.
    pub(super) fn delivered(self, n: usize) -> Result<Self, Pooled> {
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
    fn no_more_pipes_are_open_than_the_pool_may_have() {
        let pipes = Pipes::new(2);
        let stalled = Filled::new(pipes.take().unwrap(), 1);
        let empty = pipes.take().unwrap();
        assert!(pipes.take().is_none());
        drop(stalled);
        assert!(pipes.take().is_some());
        pipes.put_back(empty);
        assert!(pipes.take().is_some());
    }
}
