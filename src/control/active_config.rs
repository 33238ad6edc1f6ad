//! The configuration in force: set at the start, replaced by a reload.

use super::build_error::BuildError;
use super::last_good::FallbackReason;
use super::{pools, snapshot, verification};
use crate::config::{Config, ReadFile, SteeringPorts};
use crate::egress::{Ledger, PoolSpec, Pools};
use crate::gateway::Snapshot;
use crate::telemetry::Metrics;
use crate::verify::{NameKey, VerifierCapacity};
use arc_swap::{ArcSwap, ArcSwapOption};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The configuration in force, and whether the last load took effect.
pub(crate) struct ActiveConfig {
    current: ArcSwap<ActiveVersion>,
    reloaded: AtomicBool,
    /// Set after a start with a kept configuration, until a reload ends it.
    fallback: ArcSwapOption<FallbackReason>,
}

/// One configuration in force.
pub(crate) struct ActiveVersion {
    /// Pools, on the shared ledger.
    pub(crate) pools: Arc<Pools>,
    /// Pools as configured.
    pub(crate) specs: Arc<[PoolSpec]>,
    /// TCP ports that are steered to the gateway.
    pub(crate) steered: SteeringPorts,
    /// [`Config::version`].
    pub(crate) version: Arc<str>,
    /// Files that it was read from.
    pub(crate) files: Arc<[ReadFile]>,
    /// Names to resolve in advance.
    pub(crate) names: Arc<HashSet<NameKey>>,
}

impl ActiveConfig {
    /// Initial state: the configuration of the files, or a kept one in place of it.
    pub(crate) fn new(built: &CompiledConfig, fallback: Option<FallbackReason>) -> Arc<Self> {
        let verifier = built.snapshot.verifier.as_deref();
        verification::pin(verifier, &built.current.names, None);
        Arc::new(Self {
            current: ArcSwap::new(Arc::clone(&built.current)),
            reloaded: AtomicBool::new(fallback.is_none()),
            fallback: ArcSwapOption::new(fallback.map(Arc::new)),
        })
    }

    /// Returns the reason why a kept configuration is in force instead of the files, if so.
    pub(crate) fn fallback(&self) -> Option<Arc<FallbackReason>> {
        self.fallback.load_full()
    }

    pub(crate) fn current(&self) -> Arc<ActiveVersion> {
        self.current.load_full()
    }

    /// Returns true if the last load of the files took effect.
    pub(crate) fn reloaded(&self) -> bool {
        self.reloaded.load(Ordering::Relaxed)
    }

    /// Notes that a reload did not take effect.
    pub(crate) fn refused(&self) {
        self.reloaded.store(false, Ordering::Relaxed);
    }

    /// Replaces the configuration in force; `restart` names the tables in which the files still differ from it.
    pub(crate) fn exchange(&self, built: &CompiledConfig, restart: &[String]) {
        self.current.store(Arc::clone(&built.current));
        self.reloaded.store(true, Ordering::Relaxed);
        if self.fallback().is_some_and(|fallback| fallback.is_ended_by_reload(restart)) {
            self.fallback.store(None);
        }
    }
}

/// A compiled configuration, not yet in force.
pub(crate) struct CompiledConfig {
    pub(crate) snapshot: Snapshot,
    pub(crate) current: Arc<ActiveVersion>,
}

impl CompiledConfig {
    /// Compiles a configuration. Counters of limits are shared with `before`.
    pub(crate) fn new(
        config: &Config,
        files: Vec<ReadFile>,
        ledger: &Arc<Ledger>,
        metrics: &Arc<Metrics>,
        capacity: &VerifierCapacity,
        before: Option<&Snapshot>,
    ) -> Result<Self, BuildError> {
        let pools = pools::pools(config, ledger);
        snapshot::warn_of_foreign_networks(config);
        let snapshot = snapshot::build(config, &pools, metrics, capacity, before)?;
        let current = ActiveVersion {
            specs: config.pools.clone().into(),
            steered: config.steering.ports.clone(),
            version: config.version().into(),
            files: files.into(),
            names: verification::names(config, &pools).into(),
            pools,
        };
        Ok(Self { snapshot, current: current.into() })
    }
}
