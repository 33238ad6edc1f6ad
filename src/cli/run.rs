//! `egret run`

use super::journal;
use crate::app::{self, Startup};
use crate::control::LastGoodStore;
use crate::telemetry::{FlowTraces, TraceLayer};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt};

/// Exit code: could not start.
const FAILED: u8 = 2;

/// Runs the gateway; keeps the last good configuration in `state`.
pub(super) fn run(path: &Path, state: Option<PathBuf>) -> ExitCode {
    let level = level();
    let traces = FlowTraces::default();
    log_messages(*level.as_ref().unwrap_or(&Level::INFO), traces.clone());
    if let Err(mistake) = level {
        tracing::error!("{mistake}; the level is info meanwhile");
    }
    let startup = Startup { path: path.to_owned(), last_good: LastGoodStore::new(state, path), traces };
    match app::run(&startup) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Findings name their file; other errors get the program's name.
            let whose = if matches!(error, app::RunError::Config(_)) { "" } else { "egret: " };
            journal::error(&format!("{whose}{error}"));
            ExitCode::from(FAILED)
        }
    }
}

/// Logs to standard error: with time and colour for people, with priorities for the journal, which adds the time itself. Takes
/// the steps of traced flows from the same events.
fn log_messages(level: Level, traces: FlowTraces) {
    let level = LevelFilter::from_level(level);
    let traces = TraceLayer(traces);
    let registry = tracing_subscriber::registry().with(traces.clone().with_filter(traces));
    let messages = fmt::layer().with_target(false);
    if journal::is_stderr() {
        let messages = messages.with_writer(journal::Prefixed).with_ansi(false).without_time();
        registry.with(messages.with_filter(level)).init();
        std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
    } else {
        let messages = messages.with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
        registry.with(messages.with_filter(level)).init();
    }
}

/// Reads the log level, or tells the mistake in it: a typo must be noticed, and must not keep the gateway from its work.
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
