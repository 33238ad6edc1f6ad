//! The systemd journal as the target of an output.

use nix::sys::stat::fstat;
use std::os::fd::AsFd;

/// True if an output is the journal. `JOURNAL_STREAM` (systemd.exec(5)) names the file that systemd opened for it, which a
/// redirection may have replaced.
pub fn is_journal(output: impl AsFd) -> bool {
    let Some(stream) = std::env::var_os("JOURNAL_STREAM") else { return false };
    fstat(output).is_ok_and(|found| *stream == *format!("{}:{}", found.st_dev, found.st_ino))
}
