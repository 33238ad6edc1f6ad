//! A worker's pool of pipes. Only an empty pipe can come back: bytes left in one would reach another flow.

use crate::sys::pipe::Pipe;
use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;

/// Most empty pipes of the usual size that are kept: enough for the flows that are in the middle of a splice at once.
const IDLE: usize = 64;

/// Number of a worker's large pipes, and their size. A gigabyte through large ones takes a third less of a worker's
/// time, and its receiver is woken less often; but an unprivileged user may have 64 MiB of pipes only
/// (`fs.pipe-user-pages-soft`), beyond which new ones are small. More are seldom needed at once.
const LARGE: usize = 16;
const LARGE_SIZE: i32 = 512 * 1024;

/// Empty pipes, ready for use, and a bound on all pipes of the worker. Large ones are used first.
#[derive(Debug)]
pub(super) struct Pipes {
    large: PipeClass,
    usual: PipeClass,
}

/// Pipes of one size.
#[derive(Debug)]
struct PipeClass {
    idle: RefCell<Vec<CountedPipe>>,
    /// Most idle pipes that are kept.
    most_idle: usize,
    /// `open <= most`
    open: Rc<Cell<usize>>,
    most: usize,
    make: fn() -> io::Result<Pipe>,
}

/// A pipe that counts as open for as long as it lives.
#[derive(Debug)]
pub(super) struct CountedPipe {
    pipe: Pipe,
    /// Number of open pipes of its kind.
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
        let large = LARGE.min(most);
        Self {
            large: PipeClass::new(large, large, || Pipe::of_size(LARGE_SIZE)),
            usual: PipeClass::new(most - large, IDLE, Pipe::new),
        }
    }

    /// Takes an empty pipe; `None` if the bound is reached, or descriptors or memory are out: the caller then copies.
    pub(super) fn take(&self) -> Option<CountedPipe> {
        self.large.take().or_else(|| self.usual.take())
    }

    /// Takes an empty pipe back.
    pub(super) fn put_back(&self, pipe: CountedPipe) {
        let kind = if Rc::ptr_eq(&pipe.open, &self.large.open) { &self.large } else { &self.usual };
        let mut idle = kind.idle.borrow_mut();
        if idle.len() < kind.most_idle {
            idle.push(pipe);
        }
    }

    #[cfg(test)]
    pub(super) fn idle(&self) -> usize {
        self.large.idle.borrow().len() + self.usual.idle.borrow().len()
    }
}

impl PipeClass {
    fn new(most: usize, most_idle: usize, make: fn() -> io::Result<Pipe>) -> Self {
        Self { idle: RefCell::default(), most_idle, open: Rc::default(), most, make }
    }

    fn take(&self) -> Option<CountedPipe> {
        if let Some(pipe) = self.idle.borrow_mut().pop() {
            return Some(pipe);
        }
        if self.open.get() >= self.most {
            return None;
        }
        let pipe = (self.make)().ok()?;
        self.open.set(self.open.get() + 1);
        Some(CountedPipe { pipe, open: Rc::clone(&self.open) })
    }
}

impl CountedPipe {
    /// See [`Pipe::fill`].
    pub(super) fn fill(&self, socket: impl AsFd, most: usize) -> io::Result<usize> {
        self.pipe.fill(socket, most)
    }
}

/// A pipe with bytes in it. Dropping it closes the pipe with them.
pub(super) struct FilledPipe {
    pipe: CountedPipe,
    /// `> 0`
    bytes: usize,
}

impl FilledPipe {
    /// A pipe that `bytes > 0` bytes were just put into.
    pub(super) fn new(pipe: CountedPipe, bytes: usize) -> Self {
        debug_assert!(bytes > 0);
        Self { pipe, bytes }
    }

    /// Bytes in it.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Moves what the socket takes; tell [`Self::delivered`] how much it was.
    pub(super) fn drain(&self, socket: impl AsFd) -> io::Result<usize> {
        self.pipe.pipe.drain(socket, self.bytes)
    }

    /// Subtracts `n` delivered bytes; the error is the pipe itself, once it is empty.
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
    fn large_pipes_are_preferred() {
        let pipes = Pipes::new(LARGE + 2);
        let mut all: Vec<_> = std::iter::from_fn(|| pipes.take()).collect();
        assert_eq!(all.len(), LARGE + 2);
        assert!(all[LARGE - 1].pipe.size().unwrap() >= all[LARGE].pipe.size().unwrap());
        let usual = all.pop().unwrap();
        all.drain(..).for_each(|pipe| pipes.put_back(pipe));
        pipes.put_back(usual);
        assert_eq!(pipes.idle(), LARGE + 2);
        let again = pipes.take().unwrap();
        assert!(Rc::ptr_eq(&again.open, &pipes.large.open));
    }

    #[test]
    fn pipes_are_bounded_and_reused() {
        let pipes = Pipes::new(2);
        let (first, second) = (pipes.take().unwrap(), pipes.take().unwrap());
        assert!(pipes.take().is_none());
        pipes.put_back(first);
        assert_eq!(pipes.idle(), 1);
        drop(FilledPipe::new(second, 1));
        let _one = pipes.take().unwrap();
        let _other = pipes.take().unwrap();
        assert!(pipes.take().is_none());
    }
}
