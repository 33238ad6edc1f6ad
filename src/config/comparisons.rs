//! A bound on comparing rules with each other, which may take the square of their number.

use std::cell::Cell;

/// Comparisons of one load. Some ten million take a second.
const MOST: u64 = 20_000_000;

/// Comparisons that are left. Warnings of what rules have to do with each other end where none is.
#[derive(Debug)]
pub(super) struct Comparisons {
    left: Cell<u64>,
    lacked: Cell<bool>,
}

impl Default for Comparisons {
    fn default() -> Self {
        Self::new(MOST)
    }
}

impl Comparisons {
    pub(super) fn new(most: u64) -> Self {
        Self { left: Cell::new(most), lacked: Cell::new(false) }
    }

    /// Takes one; false if none is left.
    pub(super) fn take(&self) -> bool {
        match self.left.get().checked_sub(1) {
            Some(left) => self.left.set(left),
            None => self.lacked.set(true),
        }
        !self.lacked.get()
    }

    /// True if one was wanted when none was left.
    pub(super) fn were_too_few(&self) -> bool {
        self.lacked.get()
    }

    #[cfg(test)]
    pub(super) fn left(&self) -> u64 {
        self.left.get()
    }
}
