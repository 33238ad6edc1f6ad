//! The configuration in force: put there at the start, exchanged by a reload.

use super::last_good::Fallback;
use super::{StartError, snapshot, truth, verification};
use crate::config::{Config, Ports, ReadFile};
use crate::egress::{Ledger, PoolSpec, Pools};
use crate::gateway::Snapshot;
use crate::telemetry::Metrics;
use crate::verify::Key;
use arc_swap::{ArcSwap, ArcSwapOption};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The configuration in force, and whether it is the one that was read last.
pub(super) struct InForce {
    current: ArcSwap<Current>,
    reloaded: AtomicBool,
    /// Until a reload takes effect.
    fallback: ArcSwapOption<Fallback>,
}

/// One configuration in force.
pub(super) struct Current {
    /// Its pools, over the one ledger.
    pub(super) pools: Arc<Pools>,
    /// The same as they are written.
    pub(super) specs: Arc<[PoolSpec]>,
    /// TCP ports that are steered to the gateway.
    pub(super) steered: Ports,
    /// [`Config::version`].
    pub(super) version: Arc<str>,
    /// What it was read from.
    pub(super) files: Arc<[ReadFile]>,
    /// Those to be looked up in advance.
    pub(super) names: Arc<HashSet<Key>>,
}

impl InForce {
    /// What the gateway starts with: what its files say, or what was kept in place of it.
    pub(super) fn new(built: &Built, fallback: Option<Fallback>) -> Arc<Self> {
        let verifier = built.snapshot.verifier.as_deref();
        verification::pin(verifier, &built.current.names, None);
        Arc::new(Self {
            current: ArcSwap::new(Arc::clone(&built.current)),
            reloaded: AtomicBool::new(fallback.is_none()),
            fallback: ArcSwapOption::new(fallback.map(Arc::new)),
        })
    }

    /// Why the last good configuration is in force instead of what the files say, if it is.
    pub(super) fn fallback(&self) -> Option<Arc<Fallback>> {
        self.fallback.load_full()
    }

    pub(super) fn current(&self) -> Arc<Current> {
        self.current.load_full()
    }

    /// Whether the last load of the files took effect.
    pub(super) fn reloaded(&self) -> bool {
        self.reloaded.load(Ordering::Relaxed)
    }

    /// A reload did not take effect.
    pub(super) fn refused(&self) {
        self.reloaded.store(false, Ordering::Relaxed);
    }

    /// A reload took effect.
    pub(super) fn exchange(&self, built: &Built) {
        self.current.store(Arc::clone(&built.current));
        self.reloaded.store(true, Ordering::Relaxed);
        self.fallback.store(None);
    }
}

/// What is made of a configuration, before it is in force.
pub(super) struct Built {
    pub(super) snapshot: Snapshot,
    pub(super) current: Arc<Current>,
}

impl Built {
    /// Compiles a configuration. Limits that count keep counting in the places of `before`.
    pub(super) fn new(
        config: &Config,
        files: Vec<ReadFile>,
        ledger: &Arc<Ledger>,
        metrics: &Arc<Metrics>,
        before: Option<&Snapshot>,
    ) -> Result<Self, StartError> {
        let pools = truth::pools(config, ledger);
        snapshot::warn_of_foreign_networks(config);
        let snapshot = snapshot::build(config, &pools, metrics, before)?;
        let current = Current {
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
