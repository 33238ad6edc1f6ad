//! Standard output.

use serde::Serialize;
use std::io::{self, Write as _};
use std::process::ExitCode;

/// Prints and returns the exit code: `code`, also if the reader has closed the pipe (`| head`); 2 if writing fails
/// otherwise.
pub(super) fn print(text: &str, code: u8) -> ExitCode {
    put(text, code).err().unwrap_or(ExitCode::from(code))
}

/// Prints; if no more can be printed, the error is the exit code, as of [`print()`].
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

/// JSON on one line, for programs.
pub(super) fn json_line(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("keys are strings") + "\n"
}

/// Indented JSON, for programs and people.
pub(super) fn json_page(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).expect("keys are strings") + "\n"
}
