//! Every metric of Egret, in one table. Handles, `# HELP` lines, histogram buckets and docs/metrics.md are all
//! resolved from it, so a metric that is not here cannot be emitted.

use crate::flow::{AddressCheck, CertificateCheck, PolicyChange};
use crate::outcome::Outcome;
use crate::policy::can_be_waived;
use std::fmt::Write;

/// One metric family.
#[derive(Debug)]
pub struct Metric {
    /// As in the exposition, prefix and suffix included.
    pub name: &'static str,
    /// Behaviour of the number over time.
    pub kind: MetricKind,
    /// Unit of the number.
    pub unit: MetricUnit,
    /// Label names, in the order in which values are given.
    pub labels: &'static [&'static str],
    /// One sentence: the `# HELP` line.
    pub help: &'static str,
    /// How to read the number.
    pub reading: &'static str,
    /// The alerts of deploy/prometheus/egret-rules.yml that look at it, in their order there.
    pub alerts: &'static [&'static str],
}

/// Behaviour of a number over time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MetricKind {
    /// Only grows, from 0 at the start of the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts of observations, by the upper bounds of these buckets in seconds.
    Histogram(&'static [f64]),
}

impl MetricKind {
    /// The word of the `# TYPE` line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// Unit of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricUnit {
    /// Things: flows, ports, lines, errors.
    Count,
    /// Bytes.
    Bytes,
    /// Seconds, or seconds since 1970 for a point in time.
    Seconds,
    /// A fraction from 0 to 1.
    Ratio,
    /// Always 1, the labels being the information; or 1 for yes and 0 for no.
    Flag,
}

impl MetricUnit {
    /// The word used in the docs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Bytes => "bytes",
            Self::Seconds => "seconds",
            Self::Ratio => "ratio",
            Self::Flag => "flag",
        }
    }
}

/// From a cache near by to the 5 s after which a lookup is given up.
const LOOKUP: &[f64] = &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 1.9, 2.5, 4.9];

/// Up to the usual `[inspect] deadline` of 5 s.
const INSPECT: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 5.0];

/// A lost SYN is sent again after 1 s, and then after 2 s more: bounds lie below those, so that retransmission shows.
const CONNECT: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.95, 2.9, 10.0];

/// From a lone request to a connection pool that lives for days. 350 s is the idle limit of cloud NAT gateways.
const FLOW: &[f64] = &[0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 350.0, 3600.0, 14_400.0, 86_400.0];

macro_rules! catalogue {
    ($($constant:ident = $name:literal, $kind:expr, $unit:ident, [$($label:literal),*],
        help: $help:literal, reading: $reading:literal $(, alerts: [$($alert:literal),+])?;)+) => {
        $(#[doc = $help]
        pub const $constant: Metric = Metric {
            name: $name,
            kind: $kind,
            unit: MetricUnit::$unit,
            labels: &[$($label),*],
            help: $help,
            reading: $reading,
            alerts: &[$($($alert),+)?],
        };)+

        /// Every metric, in the order of the docs.
        pub const ALL: &[&Metric] = &[$(&$constant),+];
    };
}

catalogue! {
    FLOWS_ACTIVE = "egret_flows_active", MetricKind::Gauge, Count, ["tenant"],
        help: "Flows that live now, from accept to the end of the relay.",
        reading: "Includes flows that are still inspected or dialled. Steady growth at steady traffic is a client that leaks connections; compare it with the tenant's `limits.flows`.";
    FLOWS_TOTAL = "egret_flows_total", MetricKind::Counter, Count, ["tenant", "outcome"],
        help: "Flows that have ended, by outcome.",
        reading: "Every accepted connection is counted once, when it ends. docs/outcomes.md says what each outcome means, who caused it and what to do. `rate()` over all outcomes is the flow rate; `closed` are those whose answer was delivered in full, and docs/outcomes.md has the query for the success rate.",
        alerts: ["EgretGatewayFull", "EgretInternalError", "EgretRelayFailed", "EgretDialFailed", "EgretDenialSurge", "EgretTenantFlowLimit", "EgretTenantPortCeiling", "EgretResolverUnavailable"];
    FLOW_BYTES = "egret_flow_bytes_total", MetricKind::Counter, Bytes, ["tenant", "direction"],
        help: "Payload bytes relayed; up is from client to server.",
        reading: "Moves while flows live, not only at their end. Payload alone: TCP and IP headers and retransmissions come on top on the wire.";
    DENIALS = "egret_denials_total", MetricKind::Counter, Count, ["tenant", "reason"],
        help: "Flows that were refused, by reason.",
        reading: "The reason is the outcome; the same flows are in `egret_flows_total`. After a change of policy, a jump of `not_allowed` is what the change broke: the flow log has the names.",
        alerts: ["EgretDenialSurge"];
    WOULD_DENY = "egret_would_deny_total", MetricKind::Counter, Count, ["tenant", "reason"],
        help: "Flows that left only because their tenant is in monitor mode, by the reason why they would have been denied.",
        reading: "Only of tenants in monitor mode. What it counts breaks on the day the tenant enforces: bring it to what is meant to be denied first. The flow log has the names, under `would_deny`; docs/modes.md has the way.",
        alerts: ["EgretMonitorEndsSoon"];
    MONITOR_UNTIL = "egret_monitor_until_timestamp_seconds", MetricKind::Gauge, Seconds, ["tenant"],
        help: "When a tenant in monitor mode begins to enforce, in seconds since 1970; +Inf where no date is set.",
        reading: "Only of tenants that are in monitor mode now, so `count()` is how many do not enforce. Less `time()`, and divided by 86400, it is the days that are left.",
        alerts: ["EgretMonitorEndsSoon"];
    ECH_FLOWS = "egret_ech_flows_total", MetricKind::Counter, Count, ["tenant"],
        help: "Flows whose ClientHello carried an `encrypted_client_hello` extension.",
        reading: "Most of it is GREASE, which browsers send with every hello; it cannot be told from real ECH, where the name that policy judges is not the one that the server serves. The flow log's `ech` has the flows; those to a public name such as `cloudflare-ech.com` are real. With `ech = \"deny\"` the same flows are `ech_denied` in `egret_denials_total`.";
    CANDIDATE_DECISIONS = "egret_candidate_decisions_total", MetricKind::Counter, Count, ["tenant", "change"],
        help: "Flows, and later HTTP requests of flows, that a loaded candidate policy was judged on, by what it would change.",
        reading: "Stands still while no candidate is loaded. `would_deny` is what promoting it breaks or stops, `would_allow` what it opens; `egret candidate status` has the rules and the names. Flows of clients that it is enforced for are in it too.";
    CANDIDATE_INFO = "egret_candidate_info", MetricKind::Gauge, Flag, ["version", "state"],
        help: "Always 1, while a candidate policy is loaded; the labels are the hash of its configuration, and what is done with it.",
        reading: "`fell_back` is a candidate that was enforced for a share of clients and denied too much: `egret candidate status` says what. A restart loses the candidate, and with it the series.",
        alerts: ["EgretCandidateFellBack"];
    CONNECT_DURATION = "egret_connect_duration_seconds", MetricKind::Histogram(CONNECT), Seconds, ["tenant"],
        help: "Time from the SYN to the server's answer.",
        reading: "One round trip to the server, if nothing is lost. What lies above the 0.95 s bound had its SYN lost once, above 2.9 s twice: loss, or a firewall that drops. Attempts that nobody answered are not here; they are `connect_timeout`.",
        alerts: ["EgretConnectSlow"];
    INSPECT_DURATION = "egret_inspect_duration_seconds", MetricKind::Histogram(INSPECT), Seconds, ["tenant"],
        help: "Time from accept until the client had said what it wants.",
        reading: "Almost all of it is the client's: the wait for its ClientHello or request head. A tail at the deadline is clients that open connections and send nothing.";
    VERIFY_TOTAL = "egret_verify_total", MetricKind::Counter, Count, ["tenant", "result"],
        help: "Flows of rules that ask whether the address is the name's, by what was found.",
        reading: "`match`: it is. `mismatch`: the name has others; under `destination = \"observe\"` that is what `verify` would deny, and `egret names` has samples. `absent`: the name has no address of that family. `unknown`: no server said so in time. `resolved`: Egret chose the address itself. No series for tenants without such rules.";
    CERTIFICATE_CHECKS = "egret_certificate_checks_total", MetricKind::Counter, Count, ["tenant", "result"],
        help: "Flows of rules that ask for the server's certificate, by what was found.",
        reading: "`valid`: it is one for the name. `invalid`: the server has none that is. `unsupported`: Egret's probe cannot ask such a server, or verify such a certificate, though clients may (docs/verify.md lists them). `unknown`: the server could not be asked. Under `certificate = \"observe\"` the last three are what `require` would deny. Many flows share one probe, see `egret_certificate_probes_total`.";
    CERTIFICATE_PROBES = "egret_certificate_probes_total", MetricKind::Counter, Count, ["result"],
        help: "TLS handshakes of Egret's own, by result.",
        reading: "A verdict counts for an hour if it is `valid`, a minute if `invalid` or `unsupported`, five seconds if `unknown`, and at most 200 are begun in a second, 50 of them for one tenant. Each takes a port of the tenant's pool for its time.";
    RESOLVER_LOOKUPS = "egret_resolver_lookups_total", MetricKind::Counter, Count, ["result"],
        help: "DNS lookups by result; one asks all servers for the addresses of one name in one family.",
        reading: "`answered`, `absent` (the name has none), `failed` (no server answered), `refused` (not made: 512 were under way, or 128 of one tenant). `failed` hurts only where nothing is known from before. No series while no rule asks.",
        alerts: ["EgretResolverFailing"];
    RESOLVER_LOOKUP_DURATION = "egret_resolver_lookup_duration_seconds", MetricKind::Histogram(LOOKUP), Seconds, [],
        help: "Time from a DNS lookup's begin to the answer of the last server, or until it was given up.",
        reading: "A first flow to a name waits for the first answer that serves it. A second mode at 2 s or 5 s is a server that loses queries or is gone: the others answer for it, but a mismatch is only known when all have spoken.";
    RESOLVER_NAMES = "egret_resolver_names", MetricKind::Gauge, Count, [],
        help: "Names whose addresses are known, counted once for each family.",
        reading: "Names of rules without a wildcard, and those that flows asked for lately, at most 65,536 of these, of each tenant apart. A number near that bound is clients that make names up under a wildcard.";
    HTTP_REQUESTS = "egret_http_requests_total", MetricKind::Counter, Count, ["tenant"],
        help: "HTTP/1 requests that were judged and let through, later ones of a connection included.",
        reading: "Not in it: requests over TLS, under `http = \"first-request\"` and after an upgrade, which nobody sees; and under rules that go by network alone. Denied requests end their flow and are in `egret_denials_total`.";
    FLOW_DURATION = "egret_flow_duration_seconds", MetricKind::Histogram(FLOW), Seconds, ["tenant"],
        help: "Time from accept to the end of the flow, refused flows included.",
        reading: "A step at 350 s or another round number is an idle time-out on the path. `_count` equals `egret_flows_total` over all outcomes.";
    PORTS_CAPACITY = "egret_pool_ports_capacity", MetricKind::Gauge, Count, ["pool", "source"],
        help: "Ports that a source address has for each single destination.",
        reading: "A port can be used once per destination address and port, so this is the limit towards one destination, not the sum over all. It is the size of the pool's `ports` range less what was taken out.";
    PORTS = "egret_pool_ports", MetricKind::Gauge, Count, ["pool", "source", "state"],
        help: "Ports in use over all destinations: live carry a flow, held may not be used again yet.",
        reading: "The sum over all destinations may exceed the capacity, which counts per destination; do not divide the two. A large share of `held` means that clients close first and an end has no TCP timestamps: Linux keeps such a port for 60 s.",
        alerts: ["EgretSourceDrained"];
    PORT_UTILIZATION = "egret_pool_port_utilization_ratio", MetricKind::Gauge, Ratio, ["pool", "source"],
        help: "Share of the ports in use, live or held, at the destination where most are.",
        reading: "0 to 1. At 1 the next flow from this source address to that destination finds no port and takes another address of the pool, or is refused if there is none. Alert on the minimum over the pool's addresses: a single full address does no harm yet.",
        alerts: ["EgretPortsHigh", "EgretPortsCritical", "EgretPortsExhaustionSoon"];
    POOL_EXHAUSTION = "egret_pool_exhaustion_seconds", MetricKind::Gauge, Seconds, ["pool", "source"],
        help: "Time until a source address has no port left towards one of its hottest destinations, at the current trend; +Inf without one.",
        reading: "0 where one is full. docs/ports.md says how a trend is told from noise and how far it is carried. Like a full address, one that is about to be full does no harm while the others of its pool have room: alert on the longest time of a pool.",
        alerts: ["EgretPortsExhaustionSoon"];
    POOL_HOT_DESTINATION = "egret_pool_hot_destination_ports", MetricKind::Gauge, Count, ["pool", "source", "destination"],
        help: "Ports in use, live or held, towards the hottest destinations of a source address.",
        reading: "The five with most, and only those with more than 1 % of the capacity and, in small pools, at least six ports or a quarter; no series where all are cold. Divide by `egret_pool_ports_capacity`. `egret ports` says who holds them.";
    LEDGER_KERNEL_DIFFERENCE = "egret_ledger_kernel_difference", MetricKind::Gauge, Count, ["pool", "source"],
        help: "Ports on which the ledger and the kernel disagreed when they were last compared.",
        reading: "Stays 0. Anything else means that another program uses ports of the pool, or that Egret counts wrongly; the gateway's log names them. The ledger has followed the kernel already.",
        alerts: ["EgretLedgerKernelDifference"];
    POOL_SOURCE_STATE = "egret_pool_source_state", MetricKind::Gauge, Flag, ["pool", "source", "state"],
        help: "Whether a source address is in a state: 1 for the one it is in, 0 for the others.",
        reading: "`available`: flows leave from it. `draining`: no new ones; it is empty once `egret_pool_ports` is 0. `withdrawn`: the address is gone from the host, and is used again when it returns.",
        alerts: ["EgretPortsHigh", "EgretPortsCritical", "EgretPortsExhaustionSoon", "EgretSourceWithdrawn", "EgretPoolWithoutSources", "EgretSourceDrained"];
    PORT_ALLOCATION_FAILURES = "egret_port_allocation_failures_total", MetricKind::Counter, Count, ["pool", "tenant"],
        help: "Flows refused because no address of the pool had a free port towards their destination.",
        reading: "Each is a connection that the client lost, and one `ports_exhausted` in `egret_flows_total`. Add addresses to the pool, or find who holds the ports.",
        alerts: ["EgretPortAllocationFailures"];
    PORT_COLLISIONS = "egret_port_collisions_total", MetricKind::Counter, Count, [],
        help: "Own ports that the kernel refused although the ledger had them free (EADDRNOTAVAIL, EADDRINUSE).",
        reading: "Stays 0. Anything else means that another program binds ports of a pool's range on a pool's address, or that Egret counts wrongly. The flow itself was given another port.",
        alerts: ["EgretPortCollisions"];
    SOCK_DIAG_FAILURES = "egret_sock_diag_failures_total", MetricKind::Counter, Count, ["question"],
        help: "Questions to the kernel about its TCP sockets (sock_diag) that had no answer.",
        reading: "Stays 0. `held_ports`: whether closed connections are gone; without an answer their ports are held for 132 s, so busy destinations run out of ports sooner. `comparison`: of the ledger with the kernel, so ports of other programs go unnoticed. The gateway's log has the reason.",
        alerts: ["EgretSockDiagFailing"];
    STEERING_DROPPED = "egret_steering_dropped_packets_total", MetricKind::Counter, Count, ["kind"],
        help: "Packets that steering dropped or refused, or did not intercept, since its rules were put in place.",
        reading: "Absent with the legacy iptables. `no_listener`: to intercepted ports while the gateway did not run. `not_forwarded`: past the gateway, so an interface or the mark rule is missing. `own_source`: from the gateway's own addresses. `udp_refused`: UDP to intercepted ports, mostly QUIC. `unsteered_dns`, `_ntp`, `_tcp`, `_udp`, `_icmp`, `_other`: what clients send that Egret does not judge; the kernel drops it, or forwards it with `ip_forward`. UDP to ports 53 and 123 is among `_dns` and `_ntp` also where `[steering] ports` has these ports, as `\"all\"` does, and it is refused. docs/steering.md.";
    FLOW_LOG_DROPPED = "egret_flow_log_dropped_total", MetricKind::Counter, Count, [],
        help: "Flow log lines lost because the writer's queue was full.",
        reading: "Workers never wait for the log. A rising count is a disk, or a reader of stdout, slower than the flows. Together with `egret_flow_log_errors_total` it is every line that is missing.",
        alerts: ["EgretFlowLogDropped"];
    FLOW_LOG_ERRORS = "egret_flow_log_errors_total", MetricKind::Counter, Count, [],
        help: "Flow log lines lost because writing them failed.",
        reading: "The file cannot be opened, the disk is full, the file system is read-only, or the reader of stdout is gone; the gateway's log has the reason, at most once a minute. Writing is tried again with each later line.",
        alerts: ["EgretFlowLogErrors"];
    AUDIT_LOG_ERRORS = "egret_audit_log_errors_total", MetricKind::Counter, Count, [],
        help: "Audit log lines that could not be written where they should be.",
        reading: "Stays 0. The file cannot be opened, the disk is full or hangs, or the file system is read-only. Each such line is in the gateway's own messages instead (`journalctl -u egret`), so nothing is lost that is kept there.",
        alerts: ["EgretAuditLogErrors"];
    ACCEPT_ERRORS = "egret_accept_errors_total", MetricKind::Counter, Count, [],
        help: "Failures of accept(2) after which a worker waited before it accepted again.",
        reading: "The process or the host is out of file descriptors or memory. Connections wait in the listener's backlog meanwhile, and are lost when that is full. Compare `process_open_fds` with `process_max_fds`.",
        alerts: ["EgretAcceptErrors"];
    STEERING_INTACT = "egret_steering_intact", MetricKind::Gauge, Flag, [],
        help: "Whether the packet rules, marks, routes and interfaces that bring traffic here are in place: 1, or 0 if not.",
        reading: "Looked at whenever the kernel tells of a change, and every 2 s. At 0 new connections hang; they can leave uninspected only if the machine forwards and `port_rules` is lost with the packet rules. `/readyz` and the log say what is missing. Absent with `[steering] watch = false`, and while nothing is known, of which `/readyz` has a note.",
        alerts: ["EgretSteeringLost"];
    STEERING_PART_INTACT = "egret_steering_part_intact", MetricKind::Gauge, Flag, ["part"],
        help: "The same for each part: packet_rules, mark_rule, port_rules, steering_table, local_routes, interfaces.",
        reading: "`local_routes` are the pools' addresses: without them answers do not come back.";
    STEERING_WATCH_FAILING = "egret_steering_watch_failing", MetricKind::Gauge, Flag, [],
        help: "Whether the gateway cannot find out if steering is in place: 1, or 0 if it can.",
        reading: "At 1 `egret_steering_intact` is absent, and what is lost is not repaired; `/readyz` and the log say why. Absent with `[steering] watch = false`.",
        alerts: ["EgretSteeringLost"];
    STEERING_REPAIRS = "egret_steering_repairs_total", MetricKind::Counter, Count, [],
        help: "Requests to put steering in place again, because something was missing.",
        reading: "Each is a line in the log. Growth means that something on the host removes rules or routes again and again: a firewall that is reloaded, a network manager.",
        alerts: ["EgretSteeringRepaired"];
    REFUSED_FAMILY = "egret_refused_families_total", MetricKind::Counter, Count, ["family"],
        help: "Connections refused at their SYN, because flows of that family cannot leave while those of the other one can.",
        reading: "No flow, and in no log: the client falls back to its other address at once. Clients that ask again count again. `egret check` and `egret doctor` name the pools and routes.";
    CONFIG_RELOAD_SUCCESS = "egret_config_reload_success", MetricKind::Gauge, Flag, [],
        help: "Whether the last load of the configuration succeeded: 1, or 0 if it was refused.",
        reading: "At 0 the gateway runs on the configuration before; `egret check` shows what is wrong with the new one.",
        alerts: ["EgretConfigReloadFailed"];
    CONFIG_FALLBACK = "egret_config_fallback", MetricKind::Gauge, Flag, [],
        help: "Whether the gateway runs on the last good configuration, because it did not start with its files.",
        reading: "At 1 the files were refused when the gateway started, or it could not start with them (a port in use), and what they say is not in force; `/readyz` and the log say why. A reload that takes effect ends it.",
        alerts: ["EgretConfigReloadFailed", "EgretConfigFallback"];
    CONFIG_INFO = "egret_config_info", MetricKind::Gauge, Flag, ["version"],
        help: "Always 1; the label is the hash of the configuration in force.",
        reading: "Gateways that should behave alike show one version. A change is a reload that took effect.",
        alerts: ["EgretConfigVersionsDiffer"];
    BUILD_INFO = "egret_build_info", MetricKind::Gauge, Flag, ["version"],
        help: "Always 1; the label is the version of Egret.",
        reading: "Join it to other metrics, or count by version during an upgrade.";
    PROCESS_CPU = "process_cpu_seconds_total", MetricKind::Counter, Seconds, [],
        help: "Processor time that the process has used, user and system.",
        reading: "`rate()` is the number of cores in use. Near the number of workers, the gateway is at its limit. Packet processing in soft interrupts is not in it.";
    PROCESS_MEMORY = "process_resident_memory_bytes", MetricKind::Gauge, Bytes, [],
        help: "Memory of the process that is in RAM.",
        reading: "Kernel memory, above all socket buffers, is not in it. It should follow the number of flows and come back.";
    PROCESS_OPEN_FDS = "process_open_fds", MetricKind::Gauge, Count, [],
        help: "Open file descriptors.",
        reading: "Two per flow, and pipes for flows that move much.",
        alerts: ["EgretFileDescriptorsNearLimit"];
    PROCESS_MAX_FDS = "process_max_fds", MetricKind::Gauge, Count, [],
        help: "File descriptors that the process may have open.",
        reading: "The soft limit, `LimitNOFILE` of the service. It bounds the number of flows: at the limit they are refused as `gateway_full`.",
        alerts: ["EgretFileDescriptorsNearLimit"];
    PROCESS_START_TIME = "process_start_time_seconds", MetricKind::Gauge, Seconds, [],
        help: "When the process started, in seconds since 1970.",
        reading: "`time()` less this is the uptime. Every counter starts at 0 here.",
        alerts: ["EgretRestarting"];
}

/// The text of docs/metrics.md.
pub fn reference() -> String {
    let mut text = String::from(PREAMBLE);
    for metric in ALL {
        let labels =
            if metric.labels.is_empty() { String::new() } else { format!("{{{}}}", metric.labels.join(",")) };
        // writing to a String cannot fail
        let _ = write!(
            text,
            "\n### `{}{labels}`\n{}, {}. {}\n\n{}\n",
            metric.name,
            metric.kind.as_str(),
            metric.unit.as_str(),
            metric.help,
            metric.reading,
        );
        if let MetricKind::Histogram(bounds) = metric.kind {
            let bounds: Vec<_> = bounds.iter().map(ToString::to_string).collect();
            let _ = write!(text, "\nBuckets up to: {}, +Inf.\n", bounds.join(", "));
        }
        if !metric.alerts.is_empty() {
            let pages: Vec<_> =
                metric.alerts.iter().map(|alert| format!("[{alert}](runbooks/{alert}.md)")).collect();
            let _ = write!(text, "\nAlerts: {}.\n", pages.join(", "));
        }
    }
    let outcomes = Outcome::ALL.len();
    let denials = Outcome::ALL.iter().filter(|outcome| outcome.is_denial()).count();
    let changes = PolicyChange::ALL.len();
    let waived = Outcome::ALL.iter().filter(|outcome| can_be_waived(**outcome)).count() + 1;
    let checks = AddressCheck::ALL.len() + CertificateCheck::ALL.len();
    let histograms: usize = ALL
        .iter()
        .filter(|metric| metric.labels.contains(&"tenant"))
        .filter_map(|metric| match metric.kind {
            MetricKind::Histogram(bounds) => Some(bounds.len() + 3), // +Inf, _sum, _count
            MetricKind::Counter | MetricKind::Gauge => None,
        })
        .sum();
    let _ = write!(
        text,
        "\n## How many series\nA tenant that has had a flow makes {} series: {outcomes} outcomes, {denials} denials, {histograms} \
         of histograms, {changes} of a candidate, 2 of bytes, and one each of flows that are active, encrypted hellos and HTTP requests; {} with a pool. One in monitor mode makes {waived} more, one whose rules ask about addresses or certificates {checks}. Each source address of a pool makes 9, and up to 5 for hot destinations.\n",
        outcomes + denials + histograms + changes + 5,
        outcomes + denials + histograms + changes + 6,
    );
    text
}

const PREAMBLE: &str = "\
<!-- Generated from src/telemetry/catalogue.rs; tests/generated_docs.rs holds it up to date. -->
# Metrics

Served in the Prometheus text format at `/metrics` of the `[gateway] metrics` listener.

## Labels
Label values come from the configuration or from closed lists, with one exception: `destination` is what clients dial and
policy allows, and at most five at a time for each source address.

| label | values |
|---|---|
| `tenant` | name of the tenant; `unknown` for flows of clients that belong to none |
| `outcome` | how a flow ended: docs/outcomes.md |
| `reason` | the outcomes that are denials |
| `change` | `same`, `would_deny`, `would_allow`, or `unjudged`: one policy decides before the client has said anything, the other would listen |
| `result` | the results that the metric lists |
| `direction` | `up` from client to server, `down` from server to client |
| `pool` | name of the pool |
| `source` | source address of the pool |
| `destination` | address and port of a server |
| `question` | what the kernel was asked for: `held_ports` or `comparison` |
| `state` | of ports: `live` or `held`; of a source address: `available`, `draining` or `withdrawn`; of a candidate: `observing`, `canary` (enforced for a share of clients) or `fell_back` |
| `part` | a part of the steering: `packet_rules`, `mark_rule`, `port_rules`, `steering_table`, `local_routes`, `interfaces` |
| `family` | `ipv4` or `ipv6` |
| `kind` | of packets that steering drops: docs/steering.md lists them |
| `version` | of Egret, or the hash of the configuration |

## When series come and go
- All series of a tenant appear at 0 when its first flow is accepted, with every outcome and reason, so that `rate()` and
  `increase()` see the first event of each kind. A tenant without flows costs nothing.
- `egret_would_deny_total` is there for tenants in monitor mode, and stays when they enforce.
- Series of a tenant that a reload removes stay until the process ends: a counter that vanishes and returns would look
  like a restart.
- Series of pools, source addresses and the configuration are read at each scrape, and are gone when a reload removes them.
- Counters start at 0 with the process; `process_start_time_seconds` says when.

## Alerts
docs/alerts.md says how to install the rules; the metrics below name the alerts that look at them.

## Metrics
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        for metric in ALL {
            let name = metric.name;
            assert!(name.starts_with("egret_") || name.starts_with("process_"), "{name}: prefix");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}: characters");
            assert_eq!(
                name.ends_with("_total"),
                metric.kind == MetricKind::Counter,
                "{name}: _total is for counters"
            );
            let base = name.strip_suffix("_total").unwrap_or(name);
            for (unit, suffix) in [
                (MetricUnit::Bytes, "_bytes"),
                (MetricUnit::Seconds, "_seconds"),
                (MetricUnit::Ratio, "_ratio"),
            ] {
                assert_eq!(base.ends_with(suffix), metric.unit == unit, "{name}: unit {suffix}");
            }
        }
    }

    #[test]
    fn catalogue_names_are_unique_and_described() {
        let mut names: Vec<_> = ALL.iter().map(|metric| metric.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        for metric in ALL {
            assert!(metric.help.ends_with('.') && !metric.help.contains('\n'), "{}: help", metric.name);
            assert!(metric.reading.ends_with('.'), "{}: reading", metric.name);
            for label in metric.labels {
                assert!(PREAMBLE.contains(&format!("| `{label}` |")), "{label} is not explained");
            }
        }
    }

    #[test]
    fn bucket_bounds_ascend() {
        for metric in ALL {
            if let MetricKind::Histogram(bounds) = metric.kind {
                assert!(bounds.is_sorted_by(|a, b| a < b), "{}", metric.name);
            }
        }
    }
}
