//! `egret run`

use crate::{app, config};
use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use tracing::Level;

/// Could not start.
const FAILED: u8 = 2;

/// Runs the gateway.
pub(super) fn run(path: &Path) -> ExitCode {
    let level = match level() {
        Ok(level) => level,
        Err(why) => {
            eprintln!("egret: {why}");
            return ExitCode::from(FAILED);
        }
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    let loaded = match config::load(path) {
        Ok(loaded) => loaded,
        Err(report) => {
            eprintln!("{report}");
            return ExitCode::from(FAILED);
        }
    };
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    match app::run(path, loaded) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("egret: {error}");
            ExitCode::from(FAILED)
        }
    }
}

/// A word that is mistyped must not be found out when the messages are needed.
fn level() -> Result<Level, String> {
    let given = std::env::var_os("EGRET_LOG").unwrap_or_default();
    let word = given.to_string_lossy();
    match word.to_ascii_lowercase().as_str() {
        "error" => Ok(Level::ERROR),
        "warn" => Ok(Level::WARN),
        "" | "info" => Ok(Level::INFO),
        "debug" => Ok(Level::DEBUG),
        "trace" => Ok(Level::TRACE),
        _ => Err(format!("EGRET_LOG is {word:?}: write error, warn, info, debug or trace")),
    }
}
