//! The recorder behind the metric handles, and the text of a scrape.
//!
//! What happens is counted through handles of the `metrics` crate, resolved once. What is a state of something else
//! (ports, the configuration, the process) is read at the scrape and written straight into its text, so that nothing
//! of a removed pool stays behind. The recorder is never installed globally: who counts has been handed a handle.

use super::catalogue::{self, Kind, Metric};
use super::exposition::Exposition;
use super::process;
use crate::gateway::{AddressCheck, CertificateCheck, Change, TenantMeters};
use crate::outcome::Outcome;
use crate::policy::can_be_waived;
use crate::verify::{LookupMeters, ProbeMeters};
use ipnet::IpNet;
use metrics::{Counter, Gauge, Histogram, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// The `tenant` label of flows whose client belongs to no tenant; no tenant may be called so.
pub const UNKNOWN_TENANT: &str = "unknown";

/// Every metric of the process.
pub struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
    started: SystemTime,
    gateway: GatewayMeters,
    tenants: Mutex<HashMap<Box<str>, Resolved>>,
}

struct Resolved {
    pool: Option<Box<str>>,
    monitored: bool,
    meters: Arc<TenantMeters>,
}

/// Handles that belong to no tenant.
#[derive(Clone)]
pub struct GatewayMeters {
    /// `egret_accept_errors_total`
    pub accept_errors: Counter,
    /// `egret_port_collisions_total`
    pub port_collisions: Counter,
    /// `egret_audit_log_errors_total`
    pub audit_log_errors: Counter,
    /// What the flow log counts.
    pub flow_log: FlowLogMeters,
}

/// What the flow log counts, in lines.
#[derive(Clone)]
pub struct FlowLogMeters {
    /// `egret_flow_log_dropped_total`
    pub dropped: Counter,
    /// `egret_flow_log_errors_total`
    pub errors: Counter,
}

/// What is read for one scrape.
#[derive(Debug, Clone)]
pub struct Scrape {
    /// Every source address of every pool; of a network that is not listed address by address, those in use.
    pub sources: Vec<SourceUsage>,
    /// The hottest destinations; each is there once for each source.
    pub hot: Vec<HotDestination>,
    /// The candidate, if one is loaded.
    pub candidate: Option<CandidateInfo>,
    /// The tenants that are in monitor mode now.
    pub monitored: Vec<MonitoredTenant>,
    /// The hash of the configuration in force.
    pub config_version: Arc<str>,
    /// Whether the last load of the configuration succeeded.
    pub config_reload_success: bool,
    /// Names known, in each family; `None` where no rule asks for any.
    pub names: Option<usize>,
}

/// A loaded candidate.
#[derive(Debug, Clone)]
pub struct CandidateInfo {
    /// The hash of its configuration.
    pub version: Arc<str>,
    /// `observing`, `canary` or `fell_back`.
    pub state: &'static str,
}

/// A tenant in monitor mode.
#[derive(Debug, Clone)]
pub struct MonitoredTenant {
    /// Its name.
    pub tenant: Arc<str>,
    /// In seconds since 1970; `None` without a date.
    pub until: Option<i64>,
}

/// The ports of one source address.
#[derive(Debug, Clone)]
pub struct SourceUsage {
    /// The pool's name.
    pub pool: Arc<str>,
    /// The address.
    pub source: IpNet,
    /// Ports it has for each single destination.
    pub capacity: u32,
    /// Ports that carry a flow, over all destinations.
    pub live: u64,
    /// Ports that may not be used again yet, over all destinations.
    pub held: u64,
    /// Live and held ports at the destination where they are most; at most `capacity`.
    pub busiest: u32,
    /// Until one of the hottest destinations has no port left, at the current trend; `None` without one.
    pub exhausted_in: Option<Duration>,
    /// Ports on which the ledger and the kernel disagreed at the last comparison.
    pub kernel_difference: u64,
    /// One of [`SOURCE_STATES`].
    pub state: &'static str,
}

/// The `state` labels of a source address.
pub const SOURCE_STATES: [&str; 3] = ["available", "draining", "withdrawn"];

/// The ports towards one of the hottest destinations.
#[derive(Debug, Clone)]
pub struct HotDestination {
    /// The pool's name.
    pub pool: Arc<str>,
    /// The source address, as in [`SourceUsage::source`].
    pub source: IpNet,
    /// Where the flows go.
    pub destination: SocketAddr,
    /// Live and held ports.
    pub ports: u32,
}

impl Metrics {
    /// Fails only if a histogram of the catalogue has no buckets. `started` is when the process started.
    pub fn new(started: SystemTime) -> Result<Self, BuildError> {
        let mut builder = PrometheusBuilder::new();
        for metric in catalogue::ALL {
            if let Kind::Histogram(bounds) = metric.kind {
                builder = builder.set_buckets_for_metric(Matcher::Full(metric.name.to_owned()), bounds)?;
            }
        }
        let recorder = builder.build_recorder();
        for metric in catalogue::ALL {
            let (name, help) = (metric.name.into(), metric.help.into());
            match metric.kind {
                Kind::Counter => recorder.describe_counter(name, None, help),
                Kind::Gauge => recorder.describe_gauge(name, None, help),
                Kind::Histogram(_) => recorder.describe_histogram(name, None, help),
            }
        }
        let gateway = GatewayMeters {
            accept_errors: counter(&recorder, &catalogue::ACCEPT_ERRORS, &[]),
            port_collisions: counter(&recorder, &catalogue::PORT_COLLISIONS, &[]),
            audit_log_errors: counter(&recorder, &catalogue::AUDIT_LOG_ERRORS, &[]),
            flow_log: FlowLogMeters {
                dropped: counter(&recorder, &catalogue::FLOW_LOG_DROPPED, &[]),
                errors: counter(&recorder, &catalogue::FLOW_LOG_ERRORS, &[]),
            },
        };
        let handle = recorder.handle();
        Ok(Self { recorder, handle, started, gateway, tenants: Mutex::default() })
    }

    /// Handles that belong to no tenant.
    pub fn gateway(&self) -> &GatewayMeters {
        &self.gateway
    }

    /// A tenant's handles, resolved when first asked for and then shared: ask once per flow, and keep them.
    ///
    /// All series of the tenant appear at 0 with the first call, so that `rate()` sees the first event of a kind;
    /// call it for a tenant's first flow rather than for every tenant at start, and idle tenants cost nothing.
    /// `tenant` and `pool` must come from the configuration, or be [`UNKNOWN_TENANT`] and `None`.
    /// Only a tenant that is `monitored` counts what it would deny.
    pub fn tenant(&self, tenant: &str, pool: Option<&str>, monitored: bool) -> Arc<TenantMeters> {
        // a thread that panicked in here has left the map as it was
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = tenants.get(tenant)
            && (known.pool.as_deref(), known.monitored) == (pool, monitored)
        {
            return Arc::clone(&known.meters);
        }
        let meters = Arc::new(self.resolve(tenant, pool, monitored));
        let resolved = Resolved { pool: pool.map(Into::into), monitored, meters: Arc::clone(&meters) };
        tenants.insert(tenant.into(), resolved);
        meters
    }

    fn resolve(&self, tenant: &str, pool: Option<&str>, monitored: bool) -> TenantMeters {
        let recorder = &self.recorder;
        let ended =
            |outcome: &Outcome| counter(recorder, &catalogue::FLOWS_TOTAL, &[tenant, outcome.as_str()]);
        let denied = |outcome: &Outcome| {
            if !outcome.is_denial() {
                return Counter::noop();
            }
            counter(recorder, &catalogue::DENIALS, &[tenant, outcome.as_str()])
        };
        let would_deny = |outcome: &Outcome| {
            if !(monitored && can_be_waived(*outcome)) {
                return Counter::noop();
            }
            counter(recorder, &catalogue::WOULD_DENY, &[tenant, outcome.as_str()])
        };
        TenantMeters {
            flows_active: gauge(recorder, &catalogue::FLOWS_ACTIVE, &[tenant]),
            bytes_up: counter(recorder, &catalogue::FLOW_BYTES, &[tenant, "up"]),
            bytes_down: counter(recorder, &catalogue::FLOW_BYTES, &[tenant, "down"]),
            ech: counter(recorder, &catalogue::ECH_FLOWS, &[tenant]),
            inspect_duration: histogram(recorder, &catalogue::INSPECT_DURATION, &[tenant]),
            connect_duration: histogram(recorder, &catalogue::CONNECT_DURATION, &[tenant]),
            http_requests: counter(recorder, &catalogue::HTTP_REQUESTS, &[tenant]),
            flow_duration: histogram(recorder, &catalogue::FLOW_DURATION, &[tenant]),
            port_allocation_failures: pool.map_or_else(Counter::noop, |pool| {
                counter(recorder, &catalogue::PORT_ALLOCATION_FAILURES, &[pool, tenant])
            }),
            ended: Outcome::ALL.iter().map(ended).collect(),
            denied: Outcome::ALL.iter().map(denied).collect(),
            would_deny: Outcome::ALL.iter().map(would_deny).collect(),
            candidate: Change::ALL
                .map(|change| counter(recorder, &catalogue::CANDIDATE_DECISIONS, &[tenant, change.as_str()])),
        }
    }

    /// How a tenant's flows are counted by what was found of their address.
    pub fn address_checks(&self, tenant: &str) -> Box<[Counter]> {
        let resolve = |check: &AddressCheck| {
            counter(&self.recorder, &catalogue::VERIFY_TOTAL, &[tenant, check.as_str()])
        };
        AddressCheck::ALL.iter().map(resolve).collect()
    }

    /// The same by what was found of the server's certificate.
    pub fn certificate_checks(&self, tenant: &str) -> Box<[Counter]> {
        let resolve = |check: &CertificateCheck| {
            counter(&self.recorder, &catalogue::CERTIFICATE_CHECKS, &[tenant, check.as_str()])
        };
        CertificateCheck::ALL.iter().map(resolve).collect()
    }

    /// How probes of certificates are counted.
    pub fn probes(&self) -> ProbeMeters {
        let result = |result| counter(&self.recorder, &catalogue::CERTIFICATE_PROBES, &[result]);
        ProbeMeters { valid: result("valid"), invalid: result("invalid"), unknown: result("unknown") }
    }

    /// How DNS lookups are counted.
    pub fn lookups(&self) -> LookupMeters {
        let result = |result| counter(&self.recorder, &catalogue::RESOLVER_LOOKUPS, &[result]);
        LookupMeters {
            answered: result("answered"),
            absent: result("absent"),
            failed: result("failed"),
            refused: result("refused"),
            duration: histogram(&self.recorder, &catalogue::RESOLVER_LOOKUP_DURATION, &[]),
        }
    }

    /// Sorts the durations recorded since the last time into their buckets. Call it every few seconds, scraped or
    /// not: until then each recorded duration takes 16 bytes.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// The text of one scrape, in the Prometheus text format 0.0.4.
    pub fn render(&self, scrape: &Scrape) -> String {
        let mut text = Exposition::after(self.handle.render());
        write_sources(&mut text, &scrape.sources);
        write_hot(&mut text, &scrape.hot);
        write_monitored(&mut text, &scrape.monitored);
        text.family(&catalogue::CANDIDATE_INFO);
        if let Some(CandidateInfo { version, state }) = &scrape.candidate {
            text.sample(&catalogue::CANDIDATE_INFO, &[version, state], 1);
        }
        text.single(&catalogue::RESOLVER_NAMES, scrape.names);
        text.single(&catalogue::CONFIG_RELOAD_SUCCESS, Some(u8::from(scrape.config_reload_success)));
        text.family(&catalogue::CONFIG_INFO);
        text.sample(&catalogue::CONFIG_INFO, &[&scrape.config_version], 1);
        text.family(&catalogue::BUILD_INFO);
        text.sample(&catalogue::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1);
        process::write(&mut text, self.started);
        text.finish()
    }
}

/// A single address without its prefix length.
fn label_of(source: IpNet) -> String {
    if source.prefix_len() == source.max_prefix_len() {
        source.addr().to_string()
    } else {
        source.to_string()
    }
}

fn write_sources(text: &mut Exposition, sources: &[SourceUsage]) {
    let labelled: Vec<_> = sources.iter().map(|usage| (usage, label_of(usage.source))).collect();
    text.family(&catalogue::PORTS_CAPACITY);
    for (usage, source) in &labelled {
        text.sample(&catalogue::PORTS_CAPACITY, &[&usage.pool, source], usage.capacity);
    }
    text.family(&catalogue::PORTS);
    for (usage, source) in &labelled {
        text.sample(&catalogue::PORTS, &[&usage.pool, source, "live"], usage.live);
        text.sample(&catalogue::PORTS, &[&usage.pool, source, "held"], usage.held);
    }
    text.family(&catalogue::PORT_UTILIZATION);
    for (usage, source) in &labelled {
        // an address all of whose ports were taken out has none free, so it is full
        let ratio = match usage.capacity {
            0 => 1.0,
            capacity => f64::from(usage.busiest) / f64::from(capacity),
        };
        text.sample(&catalogue::PORT_UTILIZATION, &[&usage.pool, source], ratio);
    }
    text.family(&catalogue::POOL_EXHAUSTION);
    for (usage, source) in &labelled {
        let labels = [&*usage.pool, source];
        match usage.exhausted_in {
            Some(left) => text.sample(&catalogue::POOL_EXHAUSTION, &labels, left.as_secs_f64()),
            None => text.sample(&catalogue::POOL_EXHAUSTION, &labels, "+Inf"),
        }
    }
    text.family(&catalogue::LEDGER_KERNEL_DIFFERENCE);
    for (usage, source) in &labelled {
        text.sample(&catalogue::LEDGER_KERNEL_DIFFERENCE, &[&usage.pool, source], usage.kernel_difference);
    }
    text.family(&catalogue::POOL_SOURCE_STATE);
    for (usage, source) in &labelled {
        for state in SOURCE_STATES {
            let is = u8::from(usage.state == state);
            text.sample(&catalogue::POOL_SOURCE_STATE, &[&usage.pool, source, state], is);
        }
    }
}

fn write_hot(text: &mut Exposition, hot: &[HotDestination]) {
    text.family(&catalogue::POOL_HOT_DESTINATION);
    for row in hot {
        let labels = [&*row.pool, &label_of(row.source), &row.destination.to_string()];
        text.sample(&catalogue::POOL_HOT_DESTINATION, &labels, row.ports);
    }
}

fn write_monitored(text: &mut Exposition, monitored: &[MonitoredTenant]) {
    text.family(&catalogue::MONITOR_UNTIL);
    for MonitoredTenant { tenant, until } in monitored {
        match until {
            Some(until) => text.sample(&catalogue::MONITOR_UNTIL, &[tenant], until),
            None => text.sample(&catalogue::MONITOR_UNTIL, &[tenant], "+Inf"),
        }
    }
}

fn counter(recorder: &PrometheusRecorder, metric: &Metric, labels: &[&str]) -> Counter {
    debug_assert_eq!(metric.kind, Kind::Counter, "{}", metric.name);
    recorder.register_counter(&key(metric, labels), &METADATA)
}

fn gauge(recorder: &PrometheusRecorder, metric: &Metric, labels: &[&str]) -> Gauge {
    debug_assert_eq!(metric.kind, Kind::Gauge, "{}", metric.name);
    recorder.register_gauge(&key(metric, labels), &METADATA)
}

fn histogram(recorder: &PrometheusRecorder, metric: &Metric, labels: &[&str]) -> Histogram {
    debug_assert!(matches!(metric.kind, Kind::Histogram(_)), "{}", metric.name);
    recorder.register_histogram(&key(metric, labels), &METADATA)
}

fn key(metric: &Metric, values: &[&str]) -> Key {
    debug_assert_eq!(metric.labels.len(), values.len(), "{}", metric.name);
    let labels: Vec<_> = metric
        .labels
        .iter()
        .zip(values)
        .map(|(name, value)| Label::new(*name, (*value).to_owned()))
        .collect();
    Key::from_parts(metric.name, labels)
}

/// The exporter ignores it.
const METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));
