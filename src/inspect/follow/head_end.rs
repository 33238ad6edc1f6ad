//! Finds the end of a head; scans each byte once, even if it arrives in pieces.

use std::io::BufRead;

/// State of the search.
#[derive(Debug, Default)]
pub(super) struct HeadEnd {
    /// `line <= scanned`
    scanned: usize,
    /// Start of the line that is not complete yet.
    line: usize,
}

impl HeadEnd {
    /// Returns the length of the head at the start of `bytes`, with its empty line, once it is complete. `bytes` must
    /// be those of the call before, with more appended.
    pub(super) fn find(&mut self, bytes: &[u8]) -> Result<Option<usize>, &'static str> {
        loop {
            // std's fast byte search; reading from a slice cannot fail.
            let mut rest = &bytes[self.scanned..];
            self.scanned += rest.skip_until(b'\n').unwrap_or(0);
            match &bytes[self.line..self.scanned] {
                b"\r\n" => {
                    let end = self.scanned;
                    *self = Self::default();
                    return Ok(Some(end));
                }
                [.., b'\r', b'\n'] => self.line = self.scanned,
                [.., b'\n'] => return Err("a line that ends in LF alone"),
                _ => return Ok(None),
            }
        }
    }
}
