//! Observability of the running gateway: flow log, audit log and metrics.

use crate::clock;
use crate::config::{AuditTarget, Config, FlowLogTarget as Wanted};
use crate::control::{
    ControlHandles, ForecastHandle, LastNetworkState, LastReconciliation, NetworkState, steering_counts,
};
use crate::egress::{Discrepancies, Pools};
use crate::gateway::Snapshot;
use crate::policy::TenantMode;
use crate::steering::Part;
use crate::telemetry::{
    AuditLog, FlowLog, FlowLogConfig, FlowLogHandle, FlowLogThread, HotDestination, LogTarget, Metrics,
    MonitoredTenant, Scrape, SourcePortMetrics, StandingProblem, SteeringMetrics, is_journal,
};
use std::collections::HashSet;
use std::io;
use std::sync::Arc;

pub(super) fn open_flow_log(
    config: &Config,
    metrics: &Metrics,
) -> io::Result<Option<(FlowLogHandle, FlowLogThread)>> {
    let target = match &config.flow_log.target {
        Wanted::Off => return Ok(None),
        Wanted::Stdout => {
            if is_journal(io::stdout()) {
                tracing::info!(
                    "flow log lines go to the journal, which drops those beyond its rate limit uncounted: keep LogRateLimitIntervalSec=0 in the unit, or set `[flow_log] path` to a file"
                );
            }
            LogTarget::Stdout
        }
        Wanted::File(path) => LogTarget::File(path.clone()),
    };
    let flow_log = FlowLogConfig { target, queue: config.flow_log.queue };
    FlowLog::start(flow_log, metrics.gateway().flow_log.clone()).map(Some)
}

pub(super) fn open_audit_log(config: &Config, metrics: &Metrics) -> io::Result<AuditLog> {
    let target = match &config.audit {
        AuditTarget::Stderr => LogTarget::Stderr,
        AuditTarget::File(path) => LogTarget::File(path.clone()),
    };
    AuditLog::start(target, metrics.gateway().audit_log_errors.clone())
}

/// Notes shown with readiness. `problems`: those of logs, of the control socket and of the last good configuration.
pub(super) fn notes(
    handles: &ControlHandles,
    seen: &NetworkState,
    problems: &[StandingProblem],
) -> Vec<String> {
    let fallback = handles.in_force.fallback().map(|fallback| fallback.note());
    let lacks_servers = handles.gateway.snapshot.load().verifiers().any(|verifier| verifier.lacks_servers());
    let servers = lacks_servers.then(|| {
        "cannot look names up: /etc/resolv.conf names no DNS server; `egret doctor` tells more".to_owned()
    });
    let problems = problems.iter().filter_map(StandingProblem::reason);
    // The longest comes last, since doctor reads only so much.
    let notes = problems.chain(servers).chain(seen.notes.iter().cloned()).chain(fallback);
    notes.map(|note| format!("note: {note}")).collect()
}

/// Sources of the metrics of a scrape.
pub(super) struct ScrapeSources {
    pub(super) handles: ControlHandles,
    pub(super) metrics: Arc<Metrics>,
    pub(super) last: LastReconciliation,
    pub(super) steering: LastNetworkState,
}

impl ScrapeSources {
    /// Renders one scrape.
    pub(super) fn render(&self) -> String {
        let ControlHandles { gateway, in_force, ledger, forecast, candidates, traces: _ } = &self.handles;
        let (current, snapshot) = (in_force.current(), gateway.snapshot.load());
        let names = snapshot.verifiers().map(|verifier| verifier.names().count());
        let scrape = Scrape {
            sources: usage(&current.pools, forecast, &self.last.load()),
            config_version: Arc::clone(&current.version),
            config_reload_success: in_force.reloaded(),
            config_fallback: in_force.fallback().is_some(),
            hot: hot(&current.pools, forecast),
            port_collisions: ledger.collisions(),
            candidate: candidates.info(),
            monitored: monitored(&snapshot),
            steering_packets: steering_counts(),
            names: names.reduce(|one, other| one + other),
            steering: steering(&self.steering.load()),
        };
        self.metrics.render(&scrape)
    }
}

fn steering(seen: &NetworkState) -> SteeringMetrics {
    let part = |part: Part| (part.as_str(), seen.lost.as_ref().map(|lost| !lost.contains(&part)));
    let parts = Part::ALL.map(part).into_iter().filter_map(|(part, intact)| Some((part, intact?)));
    SteeringMetrics {
        parts: parts.collect(),
        failing: seen.failing,
        repairs: seen.repairs,
        refused: seen.refused,
    }
}

fn monitored(snapshot: &Snapshot) -> Vec<MonitoredTenant> {
    let now = clock::policy_time();
    let monitored = snapshot.policy.tenants().iter().filter(|tenant| tenant.mode.monitors(now));
    let shown = monitored.map(|tenant| MonitoredTenant {
        tenant: Arc::clone(&tenant.name),
        until: match tenant.mode {
            TenantMode::Monitor { until } => until.map(jiff::Timestamp::as_second),
            TenantMode::Enforce => None,
        },
    });
    shown.collect()
}

/// For a network with addresses derived per client, shows each destination once, by its fullest address.
fn hot(pools: &Pools, forecast: &ForecastHandle) -> Vec<HotDestination> {
    let mut seen = HashSet::new();
    let mut rows = forecast.rows(pools, clock::now());
    rows.retain(|row| seen.insert((row.network, row.destination)));
    let shown = rows.into_iter().map(|row| HotDestination {
        pool: row.pool,
        source: row.network,
        destination: row.destination.socket(),
        ports: u32::from(row.live) + u32::from(row.held),
    });
    shown.collect()
}

fn usage(pools: &Pools, forecast: &ForecastHandle, report: &Discrepancies) -> Vec<SourcePortMetrics> {
    let mut rows = Vec::new();
    let exhaustion = forecast.exhaustion();
    for pool in pools.usage(clock::now()) {
        rows.extend(pool.sources.iter().map(|source| SourcePortMetrics {
            pool: Arc::clone(&pool.pool),
            source: source.source,
            capacity: u32::from(source.capacity),
            live: source.live as u64,
            held: source.held as u64,
            busiest: u32::from(source.busiest),
            exhausted_in: exhaustion.get(&source.source).copied(),
            kernel_difference: report.difference(source.source),
            state: source.state.as_str(),
        }));
    }
    rows
}
