//! x
use std::path::Path;
use std::process::ExitCode;
/// x
pub fn run(path: &Path, _json: bool) -> ExitCode {
    match crate::config::load(path) {
        Ok(_) => ExitCode::SUCCESS,
        Err(e) => {
            eprint!("{e}");
            ExitCode::FAILURE
        }
    }
}
