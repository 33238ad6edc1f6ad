//! Every metric of the process, and the text of a scrape.
//!
//! Events are counted through the recorder's handles, resolved once. States of something else (ports, the configuration,
//! the process) are read at the scrape and written after them, so that nothing of a removed pool stays behind. Nothing is
//! global: whoever counts has been handed a handle.

use super::catalogue;
use super::exposition::Exposition;
use super::process;
use super::recorder::Recorder;
use super::tenants::TenantRegistry;
use crate::addr::listed;
use crate::flow::{AddressCheck, CertificateCheck};
use crate::gateway::{CellWriterClaim, TenantMeters};
use crate::verify::{LookupMeters, ProbeMeters};
use ipnet::IpNet;
use metrics::Counter;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Every metric of the process.
pub struct Metrics {
    recorder: Recorder,
    tenants: TenantRegistry,
    started: SystemTime,
    gateway: GatewayMeters,
}

/// Counters that belong to no tenant.
#[derive(Clone)]
pub struct GatewayMeters {
    /// `egret_accept_errors_total`
    pub accept_errors: Counter,
    /// `egret_audit_log_errors_total`
    pub audit_log_errors: Counter,
    /// The flow log's counters.
    pub flow_log: FlowLogMeters,
    /// `egret_sock_diag_failures_total`
    pub sock_diag: SockDiagMeters,
}

/// Questions to the kernel about its sockets that had no answer, by what they were for.
#[derive(Clone)]
pub struct SockDiagMeters {
    /// Checks that closed connections are gone.
    pub held_ports: Counter,
    /// The comparison of the ledger with the kernel.
    pub comparison: Counter,
}

/// The flow log's counters, in lines.
#[derive(Clone)]
pub struct FlowLogMeters {
    /// `egret_flow_log_dropped_total`
    pub dropped: Counter,
    /// `egret_flow_log_errors_total`
    pub errors: Counter,
}

/// States that are read for one scrape.
#[derive(Debug, Clone)]
pub struct Scrape {
    /// Every source address of every pool; of a network that is not listed address by address, those in use.
    pub sources: Vec<SourcePortMetrics>,
    /// The hottest destinations; each is there once for each source.
    pub hot: Vec<HotDestination>,
    /// Own ports that the kernel refused, since the start.
    pub port_collisions: u64,
    /// The candidate, if one is loaded.
    pub candidate: Option<CandidateInfo>,
    /// The tenants that are in monitor mode now.
    pub monitored: Vec<MonitoredTenant>,
    /// The hash of the configuration in force.
    pub config_version: Arc<str>,
    /// True if the last load of the configuration succeeded.
    pub config_reload_success: bool,
    /// True if the last good configuration is in force, because the gateway did not start with its files.
    pub config_fallback: bool,
    /// Packets that steering dropped or did not intercept, by kind; empty where they cannot be read.
    pub steering_packets: Vec<(&'static str, u64)>,
    /// State of the steering.
    pub steering: SteeringMetrics,
    /// Names known, in each family; `None` where no rule asks for any.
    pub names: Option<usize>,
}

/// State of the steering at the last look.
#[derive(Debug, Clone, Default)]
pub struct SteeringMetrics {
    /// Each part, and true if it is in place; empty if steering is not watched.
    pub parts: Vec<(&'static str, bool)>,
    /// True if the watch has failed; `None` if steering is not watched.
    pub failing: Option<bool>,
    /// Requests for repair since the start.
    pub repairs: u64,
    /// Connections refused at their SYN since the start, IPv4 and IPv6.
    pub refused: [u64; 2],
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
pub struct SourcePortMetrics {
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
    /// The source address, as in [`SourcePortMetrics::source`].
    pub source: IpNet,
    /// Destination of the flows.
    pub destination: SocketAddr,
    /// Live and held ports.
    pub ports: u32,
}

impl Metrics {
    /// With a right to count for each worker. `started` is when the process started.
    pub fn new(started: SystemTime, workers: usize) -> (Self, Vec<CellWriterClaim>) {
        let recorder = Recorder::new();
        let gateway = GatewayMeters {
            accept_errors: recorder.counter(&catalogue::ACCEPT_ERRORS, &[]),
            audit_log_errors: recorder.counter(&catalogue::AUDIT_LOG_ERRORS, &[]),
            flow_log: FlowLogMeters {
                dropped: recorder.counter(&catalogue::FLOW_LOG_DROPPED, &[]),
                errors: recorder.counter(&catalogue::FLOW_LOG_ERRORS, &[]),
            },
            sock_diag: SockDiagMeters {
                held_ports: recorder.counter(&catalogue::SOCK_DIAG_FAILURES, &["held_ports"]),
                comparison: recorder.counter(&catalogue::SOCK_DIAG_FAILURES, &["comparison"]),
            },
        };
        (
            Self { recorder, started, gateway, tenants: TenantRegistry::new(workers) },
            CellWriterClaim::all(workers),
        )
    }

    /// Counters that belong to no tenant.
    pub fn gateway(&self) -> &GatewayMeters {
        &self.gateway
    }

    /// A tenant's numbers: ask once, and keep them.
    ///
    /// All series of the tenant appear at 0 with the first call, so that `rate()` sees the first event of a kind;
    /// call it for a tenant's first flow rather than for every tenant at start, and idle tenants cost nothing.
    /// `tenant` and `pool` must come from the configuration, or be [`UNKNOWN_TENANT`](crate::flow::UNKNOWN_TENANT) and `None`.
    /// Only of a tenant that is `monitored`, or was, is shown what it would deny.
    pub fn tenant(&self, tenant: &str, pool: Option<&str>, monitored: bool) -> TenantMeters {
        let failures = pool.map_or_else(Counter::noop, |pool| {
            self.recorder.counter(&catalogue::PORT_ALLOCATION_FAILURES, &[pool, tenant])
        });
        self.tenants.meters(&self.recorder, tenant, monitored, failures)
    }

    /// How a tenant's flows are counted by what was found of their address.
    pub fn address_checks(&self, tenant: &str) -> Box<[Counter]> {
        let resolve =
            |check: &AddressCheck| self.recorder.counter(&catalogue::VERIFY_TOTAL, &[tenant, check.as_str()]);
        AddressCheck::ALL.iter().map(resolve).collect()
    }

    /// The same by what was found of the server's certificate.
    pub fn certificate_checks(&self, tenant: &str) -> Box<[Counter]> {
        let resolve = |check: &CertificateCheck| {
            self.recorder.counter(&catalogue::CERTIFICATE_CHECKS, &[tenant, check.as_str()])
        };
        CertificateCheck::ALL.iter().map(resolve).collect()
    }

    /// How probes of certificates are counted.
    pub fn probes(&self) -> ProbeMeters {
        let result = |result| self.recorder.counter(&catalogue::CERTIFICATE_PROBES, &[result]);
        ProbeMeters {
            valid: result("valid"),
            invalid: result("invalid"),
            unsupported: result("unsupported"),
            unknown: result("unknown"),
        }
    }

    /// How DNS lookups are counted.
    pub fn lookups(&self) -> LookupMeters {
        let result = |result| self.recorder.counter(&catalogue::RESOLVER_LOOKUPS, &[result]);
        LookupMeters {
            answered: result("answered"),
            absent: result("absent"),
            failed: result("failed"),
            refused: result("refused"),
            duration: self.recorder.histogram(&catalogue::RESOLVER_LOOKUP_DURATION, &[]),
        }
    }

    /// To be called each second: it keeps the memory that histograms take small.
    pub fn upkeep(&self) {
        self.recorder.upkeep();
    }

    /// The text of one scrape, in the Prometheus text format 0.0.4.
    pub fn render(&self, scrape: &Scrape) -> String {
        self.tenants.publish();
        let mut text = Exposition::after(self.recorder.render());
        text.single(&catalogue::PORT_COLLISIONS, Some(scrape.port_collisions));
        write_sources(&mut text, &scrape.sources);
        write_hot(&mut text, &scrape.hot);
        write_monitored(&mut text, &scrape.monitored);
        text.family(&catalogue::CANDIDATE_INFO);
        if let Some(CandidateInfo { version, state }) = &scrape.candidate {
            text.sample(&catalogue::CANDIDATE_INFO, &[version, state], 1);
        }
        text.family(&catalogue::STEERING_DROPPED);
        for (kind, packets) in &scrape.steering_packets {
            text.sample(&catalogue::STEERING_DROPPED, &[kind], packets);
        }
        write_steering(&mut text, &scrape.steering);
        text.single(&catalogue::RESOLVER_NAMES, scrape.names);
        text.single(&catalogue::CONFIG_RELOAD_SUCCESS, Some(u8::from(scrape.config_reload_success)));
        text.single(&catalogue::CONFIG_FALLBACK, Some(u8::from(scrape.config_fallback)));
        text.family(&catalogue::CONFIG_INFO);
        text.sample(&catalogue::CONFIG_INFO, &[&scrape.config_version], 1);
        text.family(&catalogue::BUILD_INFO);
        text.sample(&catalogue::BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1);
        process::write(&mut text, self.started);
        text.finish()
    }
}

fn write_sources(text: &mut Exposition, sources: &[SourcePortMetrics]) {
    let labelled: Vec<_> = sources.iter().map(|usage| (usage, listed(usage.source))).collect();
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
        let labels = [&*row.pool, &listed(row.source), &row.destination.to_string()];
        text.sample(&catalogue::POOL_HOT_DESTINATION, &labels, row.ports);
    }
}

fn write_steering(text: &mut Exposition, steering: &SteeringMetrics) {
    let is_watched = !steering.parts.is_empty();
    let intact = is_watched.then(|| u8::from(steering.parts.iter().all(|(_, intact)| *intact)));
    text.single(&catalogue::STEERING_INTACT, intact);
    text.family(&catalogue::STEERING_PART_INTACT);
    for (part, intact) in &steering.parts {
        text.sample(&catalogue::STEERING_PART_INTACT, &[part], u8::from(*intact));
    }
    text.single(&catalogue::STEERING_WATCH_FAILING, steering.failing.map(u8::from));
    text.single(&catalogue::STEERING_REPAIRS, Some(steering.repairs));
    text.family(&catalogue::REFUSED_FAMILY);
    for (family, refused) in ["ipv4", "ipv6"].into_iter().zip(steering.refused) {
        text.sample(&catalogue::REFUSED_FAMILY, &[family], refused);
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
