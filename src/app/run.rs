//! Starts the gateway with its files' configuration, or else with the last good one.

use super::startup::Startup;
use super::{App, StartError};
use crate::config::{self, LoadedConfig, Severity};
use crate::control::{FallbackCause, FallbackReason, LastGoodStore, PolicySource, steering_params};
use crate::steering::{self, RefusedSteering, steered_interfaces};
use crate::sys::memory;

/// Reason why the gateway did not start, or did not end cleanly.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The files have errors, and no kept configuration works instead.
    #[error(transparent)]
    Config(#[from] config::ConfigReport),
    /// Steering would cut off clients, or hosts that the machine needs, and by a kept configuration does not.
    #[error(transparent)]
    Steering(#[from] RefusedSteering),
    /// The start failed, or a part of the gateway did.
    #[error(transparent)]
    Start(#[from] StartError),
}

impl RunError {
    /// The reason in one line: of a report on the files, the first error, and how many findings there are beside it.
    fn brief(&self) -> String {
        let Self::Config(report) = self else {
            return self.to_string().lines().next().unwrap_or_default().to_owned();
        };
        let first = report.diagnostics.iter().find(|finding| finding.severity == Severity::Error);
        let first = first.map(ToString::to_string).unwrap_or_default();
        match report.diagnostics.len().saturating_sub(1) {
            0 => first,
            more => format!("{first} (and {more} more: `egret check`)"),
        }
    }
}

/// Runs the gateway with the configuration at `path` of the startup, which SIGHUP reloads, until it is stopped (SIGTERM, SIGINT) and
/// its flows have ended or the drain period is over. If it cannot start with the files, it starts with the last good
/// configuration.
pub fn run(startup: &Startup) -> Result<(), RunError> {
    let Startup { path, last_good, .. } = startup;
    memory::give_large_blocks_back_at_once();
    let mut source = PolicySource::new(path);
    let (cause, refused, digest) = match source.read() {
        Err(report) => (FallbackCause::Files, RunError::Config(report), None),
        Ok(loaded) => {
            for warning in &loaded.warnings {
                tracing::warn!("{warning}");
            }
            let digest = loaded.texts.digest();
            if let Err(refused) = keep_steering(&loaded, digest, last_good) {
                (FallbackCause::Files, RunError::Steering(refused), Some(digest))
            } else {
                match attempt(startup, &source, loaded, None) {
                    Ok(ended) => return Ok(ended?),
                    Err(error) => (FallbackCause::Start, RunError::Start(error), Some(digest)),
                }
            }
        }
    };
    for texts in last_good.others_than(digest) {
        let loaded = match last_good.load(texts) {
            Ok(loaded) => loaded,
            Err(report) => {
                tracing::error!("a kept configuration is refused too: {report}");
                continue;
            }
        };
        tracing::error!(
            "{refused}\ntrying the last good configuration instead; fix the files, then `egret reload`"
        );
        let fallback = FallbackReason { cause, why: refused.brief().into() };
        match attempt(startup, &source, loaded, Some(fallback)) {
            Ok(ended) => return Ok(ended?),
            Err(error) => tracing::error!("it does not start with that either: {error}"),
        }
    }
    Err(refused)
}

/// Refuses what a reload refuses: steering that would cut off hosts that the machine needs, or the clients of interfaces that
/// are steered, or were by the configuration that was in force last, since a boot may have steered others by these files. Not
/// where no other was.
fn keep_steering(
    loaded: &LoadedConfig,
    digest: u64,
    last_good: &LastGoodStore,
) -> Result<(), RefusedSteering> {
    let Some(newest) = last_good.others_than(None).into_iter().next() else { return Ok(()) };
    if newest.digest() == digest {
        return Ok(());
    }
    let mut before = steered_interfaces();
    let last = last_good.load(newest).into_iter().flat_map(|last| last.config.steering.interfaces);
    for interface in last {
        if !before.contains(&interface) {
            before.push(interface);
        }
    }
    steering::replace(&before, &steering_params(&loaded.config))
}

/// Starts the gateway and runs it to its end. The outer result is that of the start, the inner one that of the run.
fn attempt(
    startup: &Startup,
    source: &PolicySource,
    loaded: LoadedConfig,
    fallback: Option<FallbackReason>,
) -> Result<Result<(), StartError>, StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let mut app = App::start(startup, source, loaded, fallback)?;
        let ended = app.run_until_stopped().await;
        let stopped = app.stop().await;
        Ok(ended.and(stopped))
    });
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusal_is_told_in_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let main = folder.path().join("egret.toml");
        std::fs::write(&main, "[gateway]\nfirst = 1\nsecond = 2\n").unwrap();
        let report = config::load(&main).unwrap_err();
        let more = report.diagnostics.len() - 1;
        let brief = RunError::Config(report).brief();
        assert!(more > 0 && brief.ends_with(&format!(" (and {more} more: `egret check`)")), "{brief}");
        assert!(brief.contains(": error: ") && brief.lines().count() == 1, "{brief}");
    }
}
