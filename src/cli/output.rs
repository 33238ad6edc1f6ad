//! What goes to standard output.

use serde::Serialize;
use std::io::{self, Write as _};
use std::process::ExitCode;

/// Prints, and yields the exit code: `code`, also where the reader has seen enough (`| head`); 2 where nobody could have.
pub(super) fn print(text: &str, code: u8) -> ExitCode {
    put(text, code).err().unwrap_or(ExitCode::from(code))
}

/// Prints; if no more can be printed, the error is the exit code: that of [`print()`].
pub(super) fn put(text: &str, code: u8) -> Result<(), ExitCode> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return ExitCode::from(code);
        }
        eprintln!("egret: cannot write to standard output: {error}");
        ExitCode::from(2)
    })
}

/// For programs, a line each.
pub(super) fn json_line(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("keys are strings") + "\n"
}

/// For programs that read it, and people who look at it.
pub(super) fn json_page(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("keys are strings") + "\n"
}
