//! Finds where a head ends, looking at each byte once however it comes in pieces.

use std::io::BufRead;

/// How far the search has come.
#[derive(Debug, Default)]
pub(super) struct HeadEnd {
    /// `line <= scanned`
    scanned: usize,
    /// Where the line starts that is not whole yet.
    line: usize,
}

impl HeadEnd {
    /// The length of the head that `bytes` start with, empty line included, if it is there. The bytes are the same as
    /// at the call before, with more at the end.
    pub(super) fn find(&mut self, bytes: &[u8]) -> Result<Option<usize>, &'static str> {
        loop {
            // The fast search for a byte that std has; reading from a slice cannot fail.
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
