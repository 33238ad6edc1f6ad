//! `egret run`

use crate::{app, config};
use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Could not start.
const FAILED: u8 = 2;

/// Runs the gateway.
pub(super) fn run(path: &Path) -> ExitCode {
    let level = EnvFilter::try_from_env("EGRET_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(level)
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
