//! The configuration in force: put there at the start, exchanged by a reload.

use super::{StartError, snapshot, truth};
use crate::config::{self, Config, Report};
use crate::egress::{Ledger, Pools};
use crate::gateway::Snapshot;
use crate::telemetry::Metrics;
use arc_swap::ArcSwap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::task::JoinHandle;

/// What the metrics say of the configuration in force. Shared with whoever renders them.
pub(super) struct InForce {
    current: ArcSwap<Current>,
    reloaded: AtomicBool,
}

/// One configuration in force.
pub(super) struct Current {
    /// Its pools, over the one ledger.
    pub(super) pools: Arc<Pools>,
    /// [`Config::version`].
    pub(super) version: Arc<str>,
}

impl InForce {
    pub(super) fn new(built: &Built) -> Arc<Self> {
        Arc::new(Self { current: ArcSwap::from_pointee(built.current()), reloaded: AtomicBool::new(true) })
    }

    pub(super) fn current(&self) -> Arc<Current> {
        self.current.load_full()
    }

    /// Whether the last reload, if there was any, took effect.
    pub(super) fn reloaded(&self) -> bool {
        self.reloaded.load(Ordering::Relaxed)
    }

    /// A reload did not take effect.
    pub(super) fn refused(&self) {
        self.reloaded.store(false, Ordering::Relaxed);
    }

    /// A reload took effect.
    pub(super) fn exchange(&self, built: &Built) {
        self.current.store(Arc::new(built.current()));
        self.reloaded.store(true, Ordering::Relaxed);
    }
}

/// What is made of a configuration, before it is in force.
pub(super) struct Built {
    pub(super) config: Config,
    pub(super) pools: Arc<Pools>,
    pub(super) snapshot: Snapshot,
    pub(super) version: Arc<str>,
}

impl Built {
    /// Compiles a configuration. Limits that count keep counting in the places of `before`.
    pub(super) fn new(
        config: Config,
        ledger: &Arc<Ledger>,
        metrics: &Arc<Metrics>,
        before: Option<&Snapshot>,
    ) -> Result<Self, StartError> {
        let pools = truth::pools(&config, ledger);
        snapshot::warn_of_foreign_addresses(&config);
        let snapshot = snapshot::build(&config, &pools, metrics, before)?;
        let version = config.version().into();
        Ok(Self { config, pools, snapshot, version })
    }

    fn current(&self) -> Current {
        Current { pools: Arc::clone(&self.pools), version: Arc::clone(&self.version) }
    }
}

/// Why a reload took no effect; the configuration before it stays in force.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReloadError {
    /// Something is wrong with the files.
    #[error("{0}")]
    Config(Report),
    /// It could not be built.
    #[error(transparent)]
    Build(#[from] StartError),
    /// The thread that read it panicked.
    #[error("the reload failed in a way that is a bug; please report it")]
    Bug,
}

/// Reads and compiles the configuration on a thread of its own, so that neither a million names nor a dead disk hold up
/// flows, metrics or the order to stop.
#[derive(Default)]
pub(super) struct Reloader {
    under_way: Option<JoinHandle<Result<Built, ReloadError>>>,
    /// The files may have changed after they were read: once more, when this one is done.
    again: bool,
}

/// What a reload starts from.
pub(super) struct Running {
    pub(super) path: PathBuf,
    pub(super) config: Config,
    pub(super) ledger: Arc<Ledger>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) snapshot: Arc<Snapshot>,
}

impl Reloader {
    /// Starts a reload; if one is under way, another will be due after it.
    pub(super) fn order(&mut self, running: impl FnOnce() -> Running) {
        if self.under_way.is_some() {
            self.again = true;
            return;
        }
        let Running { path, config, ledger, metrics, snapshot } = running();
        self.under_way = Some(tokio::task::spawn_blocking(move || {
            let config = reread(&path, &config)?;
            Ok(Built::new(config, &ledger, &metrics, Some(&snapshot))?)
        }));
    }

    /// Waits for the end of the reload under way, and says whether another is due; for ever, if there is none.
    pub(super) async fn done(&mut self) -> (Result<Built, ReloadError>, bool) {
        let Some(under_way) = &mut self.under_way else { return std::future::pending().await };
        let result = under_way.await.unwrap_or(Err(ReloadError::Bug));
        self.under_way = None;
        (result, std::mem::take(&mut self.again))
    }
}

/// Reads the configuration; what only a restart can change stays as it is.
fn reread(path: &Path, running: &Config) -> Result<Config, ReloadError> {
    let loaded = config::load(path).map_err(ReloadError::Config)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let mut fresh = loaded.config;
    let fixed = [
        ("[gateway]", format!("{:?}", running.gateway) != format!("{:?}", fresh.gateway)),
        ("[steering]", format!("{:?}", running.steering) != format!("{:?}", fresh.steering)),
        ("[flow_log]", format!("{:?}", running.flow_log) != format!("{:?}", fresh.flow_log)),
        ("[inspect]", format!("{:?}", running.inspect) != format!("{:?}", fresh.inspect)),
    ];
    for (section, _) in fixed.iter().filter(|(_, changed)| *changed) {
        tracing::warn!("{section} has changed; that takes effect at the next restart");
    }
    fresh.gateway = running.gateway.clone();
    fresh.steering = running.steering.clone();
    fresh.flow_log = running.flow_log.clone();
    fresh.inspect = running.inspect;
    Ok(fresh)
}
