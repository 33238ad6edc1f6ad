//! Log messages in the journal's form: with their priority (sd-daemon(3)), and without a time of their own.

use crate::telemetry::is_journal;
use std::io::{self, Write};
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// syslog(3): an error.
const ERROR: u8 = 3;
const WARNING: u8 = 4;
const INFO: u8 = 6;
const DEBUG: u8 = 7;

/// True if standard error is the journal.
pub(super) fn is_stderr() -> bool {
    is_journal(io::stderr())
}

/// Prints an error to standard error, with a priority for each line if that is the journal.
pub(super) fn error(text: &str) {
    let mut lines = text.trim_end().to_owned() + "\n";
    if is_stderr() {
        lines = marked(ERROR, &lines);
    }
    // There is nowhere to report a failure to.
    let _ = io::stderr().lock().write_all(lines.as_bytes());
}

/// Standard error, with the priority of a message before each of its lines.
pub(super) struct Prefixed;

/// Writer of one message with this priority.
pub(super) struct JournalMessage(u8);

impl<'a> MakeWriter<'a> for Prefixed {
    type Writer = JournalMessage;

    fn make_writer(&'a self) -> JournalMessage {
        JournalMessage(INFO)
    }

    fn make_writer_for(&'a self, about: &Metadata<'_>) -> JournalMessage {
        JournalMessage(match *about.level() {
            Level::ERROR => ERROR,
            Level::WARN => WARNING,
            Level::INFO => INFO,
            Level::DEBUG | Level::TRACE => DEBUG,
        })
    }
}

impl Write for JournalMessage {
    /// Writes a whole message; the formatter calls this once for each.
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        io::stderr().lock().write_all(marked(self.0, &String::from_utf8_lossy(text)).as_bytes())?;
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn marked(priority: u8, text: &str) -> String {
    let priority = priority.to_string();
    text.lines().flat_map(|line| ["<", &*priority, ">", line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_its_priority() {
        assert_eq!(marked(ERROR, "not reloaded:\nline 3\n"), "<3>not reloaded:\n<3>line 3\n");
        assert_eq!(marked(INFO, "ready\n"), "<6>ready\n");
    }
}
