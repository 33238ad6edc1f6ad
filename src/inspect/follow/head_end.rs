//! Finds where a head ends, looking at each byte once however it comes in pieces.

use std::io::BufRead;

/// How far the search has come.
#[derive(Debug, Default)]
pub(super) struct HeadEnd {
    /// `line <= scanned`
    scanned: usize,
    /// Where the line starts that is not whole yet.
    line: usize,
    /// How the first line ended decides for the others, where LF alone may end one.
    ends: Ends,
}

/// How lines end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Ends {
    /// CR LF.
    #[default]
    Both,
    /// As the first does, which is not there yet.
    AsTheFirst,
    /// LF.
    Lf,
}

impl HeadEnd {
    /// Of a server's answer: there lines may end in LF alone, if all do.
    pub(super) fn of_answer() -> Self {
        Self { ends: Ends::AsTheFirst, ..Self::default() }
    }

    /// The length of the head that `bytes` start with, empty line included, if it is there. The bytes are the same as
    /// at the call before, with more at the end.
    pub(super) fn find(&mut self, bytes: &[u8]) -> Result<Option<usize>, &'static str> {
        loop {
            // The fast search for a byte that std has; reading from a slice cannot fail.
            let mut rest = &bytes[self.scanned..];
            self.scanned += rest.skip_until(b'\n').unwrap_or(0);
            match (&bytes[self.line..self.scanned], self.ends) {
                (b"\r\n", Ends::Both | Ends::AsTheFirst) | (b"\n", Ends::Lf | Ends::AsTheFirst) => {
                    let end = self.scanned;
                    *self = Self::default();
                    return Ok(Some(end));
                }
                ([.., b'\r', b'\n'], Ends::Both | Ends::AsTheFirst) => self.next_line(Ends::Both),
                ([.., b'\r', b'\n'], Ends::Lf) => return Err("lines that end in CR LF, and in LF alone"),
                ([.., b'\n'], Ends::Lf | Ends::AsTheFirst) => self.next_line(Ends::Lf),
                ([.., b'\n'], Ends::Both) => return Err("a line that ends in LF alone"),
                _ => return Ok(None),
            }
        }
    }

    fn next_line(&mut self, ends: Ends) {
        self.line = self.scanned;
        self.ends = ends;
    }
}
