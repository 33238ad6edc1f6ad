//! Progress of a long read, on standard error.

use super::files::LogFile;
use crate::clock;
use crate::units::format_size;
use std::cell::Cell;
use std::io::{self, IsTerminal, Read, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Bytes read so far, and the time of the last message about them.
pub(in crate::cli) struct ReadProgress {
    command: &'static str,
    read: Rc<Cell<u64>>,
    total: u64,
    told: Instant,
    on_screen: bool,
    drawn: bool,
}

impl ReadProgress {
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

    /// Name of the subcommand, for messages.
    pub(super) fn command(&self) -> &'static str {
        self.command
    }

    /// A reader that counts the bytes read through it.
    pub(super) fn count(&self, inner: Box<dyn Read>) -> CountingReader {
        CountingReader { inner, read: Rc::clone(&self.read) }
    }

    /// Prints the progress if that is due: in place each second on a terminal, else as a line every ten seconds.
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
        // A closed standard error is no reason to stop.
        let _ = write!(io::stderr(), "{start}egret {}: {read}{of} read{end}", self.command);
    }

    pub(in crate::cli) fn done(&self) {
        if self.drawn {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

pub(super) struct CountingReader {
    inner: Box<dyn Read>,
    read: Rc<Cell<u64>>,
}

impl Read for CountingReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.read.set(self.read.get() + count as u64);
        Ok(count)
    }
}
