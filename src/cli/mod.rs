//! The command line: one file per subcommand.

pub mod explain;

use std::process::ExitCode;

/// Runs the command line and yields the process's exit code.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
