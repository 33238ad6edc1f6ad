//! How far a long read is, on standard error.

use super::files::LogFile;
use crate::clock;
use crate::units::format_size;
use std::cell::Cell;
use std::io::{self, IsTerminal, Read, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Bytes read from the disk, and when they were last told.
pub(in crate::cli) struct Progress {
    command: &'static str,
    read: Rc<Cell<u64>>,
    total: u64,
    told: Instant,
    on_screen: bool,
    drawn: bool,
}

impl Progress {
    pub(in crate::cli) fn new(command: &'static str, files: &[LogFile]) -> Self {
        Self {
            command,
            read: Rc::default(),
            total: files.iter().map(LogFile::size).sum(),
            told: clock::now(),
            on_screen: io::stderr().is_terminal(),
            drawn: false,
        }
    }

    /// The subcommand that reads, for messages.
    pub(super) fn command(&self) -> &'static str {
        self.command
    }

    /// Counts what is read through it.
    pub(super) fn count(&self, inner: Box<dyn Read>) -> Counted {
        Counted { inner, read: Rc::clone(&self.read) }
    }

    /// Now and then, says how far it is: in place on a terminal, else a line every ten seconds.
    pub(super) fn tell(&mut self) {
        let now = clock::now();
        let pause = if self.on_screen { Duration::from_secs(1) } else { Duration::from_secs(10) };
        if now.saturating_duration_since(self.told) < pause {
            return;
        }
        self.told = now;
        self.drawn |= self.on_screen;
        let read = format_size(self.read.get() >> 20 << 20);
        let of = if self.total > 0 {
            format!(" of {}", format_size(self.total >> 20 << 20))
        } else {
            String::new()
        };
        let (start, end) = if self.on_screen { ("\r\x1b[K", "") } else { ("", "\n") };
        // Nobody who watches standard error is no reason to stop.
        let _ = write!(io::stderr(), "{start}egret {}: {read}{of} read{end}", self.command);
    }

    pub(in crate::cli) fn done(&self) {
        if self.drawn {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

pub(super) struct Counted {
    inner: Box<dyn Read>,
    read: Rc<Cell<u64>>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.read.set(self.read.get() + count as u64);
        Ok(count)
    }
}
