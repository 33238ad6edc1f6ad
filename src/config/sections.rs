//! Reads the single tables of the main file.

use super::catalogue::{
    audit, certificates, flow_log, gateway, inspect, keepalive, main_file, policy, resolver, steering,
};
use super::diagnostic::Diagnostics;
use super::table::TomlTable;
use super::value_types::Placed;
use super::{
    Config, FlowLogSection, GatewaySection, Inspect, Keepalive, Resolver, SteeringPorts, SteeringSection,
};
use crate::policy::EchPolicy;
use crate::units::format_duration;
use crate::verify::{DnssecAnchors, TrustedRoots};
use std::collections::BTreeMap;
use std::num::NonZeroUsize;

/// Reads the configuration without pools and tenants, and the default of `ech` for tenants. `None` only after an error,
/// which is reported.
pub(super) fn read(file: &TomlTable<'_>, out: &mut Diagnostics) -> Option<(Config, EchPolicy)> {
    // Every table is read before a missing one ends it: an error in the first must not hide those in the others.
    let gateway = read_gateway(&file.section(&main_file::GATEWAY, out), out);
    let steering = read_steering(&file.section(&main_file::STEERING, out), out);
    let inspect = read_inspect(&file.section(&main_file::INSPECT, out), out);
    let policy = file.section(&main_file::POLICY, out);
    let private_destinations = policy.read(&policy::PRIVATE_DESTINATIONS, out);
    let private_networks = policy.read(&policy::PRIVATE_NETWORKS, out);
    let revoke = policy.read(&policy::ON_RELOAD, out);
    let watch = policy.read(&policy::WATCH, out);
    let ech = policy.read(&policy::ECH, out);
    let help = policy.read(&policy::HELP, out);
    let resolver = read_resolver(&file.section(&main_file::RESOLVER, out), out);
    let roots = read_roots(&file.section(&main_file::CERTIFICATES, out), out);
    let flow_log = read_flow_log(&file.section(&main_file::FLOW_LOG, out), out);
    let audit = file.section(&main_file::AUDIT, out).read(&audit::PATH, out);
    let config = Config {
        gateway: gateway?,
        steering: steering?,
        inspect: inspect?,
        private_destinations: private_destinations?,
        private_networks: values(private_networks.unwrap_or_default()),
        resolver: resolver?,
        roots: roots?,
        revoke: revoke?,
        watch: watch?,
        help,
        flow_log: flow_log?,
        audit: audit?,
        pools: Vec::new(),
        tenants: Vec::new(),
        limits: BTreeMap::new(),
    };
    Some((config, ech?))
}

fn read_gateway(table: &TomlTable<'_>, out: &mut Diagnostics) -> Option<GatewaySection> {
    let listen = table.read(&gateway::LISTEN, out)?;
    if !listen.ip().is_unspecified() {
        let help = format!("write \"[::]:{0}\", or \"0.0.0.0:{0}\" for IPv4 alone", listen.port());
        let message = format!("`listen`: {} is one address, and clients dial any", listen.ip());
        out.error(table.place_of(&gateway::LISTEN), message, help);
    }
    let metrics = table.read(&gateway::METRICS, out)?;
    if metrics.is_some_and(|metrics| metrics.port() == listen.port()) {
        let message = format!("`metrics`: port {} is that of `listen`", listen.port());
        out.error(table.place_of(&gateway::METRICS), message, "choose another port for one of them");
    }
    let workers = match table.read(&gateway::WORKERS, out)? {
        Some(count) => NonZeroUsize::new(usize::try_from(count).ok()?),
        None => None,
    };
    let gateway = GatewaySection {
        listen,
        workers,
        admin: table.read(&gateway::ADMIN, out)?,
        metrics,
        drain: table.read(&gateway::DRAIN, out)?,
        connect_timeout: table.read(&gateway::CONNECT_TIMEOUT, out)?,
        idle_timeout: table.read(&gateway::IDLE_TIMEOUT, out)?,
        half_open_timeout: table.read(&gateway::HALF_OPEN_TIMEOUT, out)?,
        keepalive: read_keepalive(&table.section(&gateway::KEEPALIVE, out), out)?,
        user_timeout: table.read(&gateway::USER_TIMEOUT, out)?,
        keeps_class: table.read(&gateway::DSCP, out)?,
        max_flows: table.read(&gateway::MAX_FLOWS, out)?,
    };
    let Keepalive { idle, interval, probes } = gateway.keepalive;
    // tcp_keepalive_timer(): with a user timeout, one unanswered probe after it is enough.
    if gateway.user_timeout.is_some_and(|timeout| timeout < idle + interval * probes) {
        let message =
            "`user_timeout` is shorter than keepalive's `idle + interval × probes`, and overrules it";
        let enough = format_duration(idle + interval * probes);
        let help = format!("one lost probe can end an idle flow; give it {enough} at least");
        out.warning(table.place_of(&gateway::USER_TIMEOUT), message, help);
    }
    Some(gateway)
}

fn read_keepalive(table: &TomlTable<'_>, out: &mut Diagnostics) -> Option<Keepalive> {
    Some(Keepalive {
        idle: table.read(&keepalive::IDLE, out)?,
        interval: table.read(&keepalive::INTERVAL, out)?,
        probes: table.read(&keepalive::PROBES, out)?,
    })
}

fn read_steering(table: &TomlTable<'_>, out: &mut Diagnostics) -> Option<SteeringSection> {
    let interfaces = table.read(&steering::INTERFACES, out).unwrap_or_default();
    let ports = match table.read(&steering::PORTS, out)? {
        Some(ranges) => SteeringPorts::Listed(values(ranges)),
        None => SteeringPorts::All,
    };
    Some(SteeringSection {
        interfaces: values(interfaces),
        ports,
        udp: table.read(&steering::UDP, out)?,
        mark: table.read(&steering::MARK, out)?,
        table: table.read(&steering::TABLE, out)?,
        watch: table.read(&steering::WATCH, out)?,
        repair: table.read(&steering::REPAIR, out)?,
    })
}

fn read_inspect(table: &TomlTable<'_>, out: &mut Diagnostics) -> Option<Inspect> {
    Some(Inspect {
        deadline: table.read(&inspect::DEADLINE, out)?,
        max_hello: usize::try_from(table.read(&inspect::MAX_HELLO, out)?).ok()?,
        max_pending: table.read(&inspect::MAX_PENDING, out)?,
    })
}

/// Maximum number of DNS servers; all are queried for every name.
const MOST_SERVERS: usize = 8;

fn read_resolver(table: &TomlTable<'_>, out: &mut Diagnostics) -> Option<Resolver> {
    let servers = table.read(&resolver::SERVERS, out)?;
    if let Some(one_too_many) = servers.as_ref().and_then(|servers| servers.get(MOST_SERVERS)) {
        let message = format!("`servers`: more than {MOST_SERVERS}");
        out.error(one_too_many.at, message, "every one is asked for every name; name a few");
    }
    let required = table.read(&resolver::DNSSEC, out)?;
    let anchors = read_anchors(table, out)?;
    if !required && table.has(&resolver::TRUST_ANCHORS) {
        let message = "`trust_anchors` does nothing without `dnssec = \"require\"`";
        out.warning(table.place_of(&resolver::TRUST_ANCHORS), message, "add that, or remove it");
    }
    Some(Resolver {
        servers: servers.map(values),
        grace: table.read(&resolver::GRACE, out)?,
        dnssec: required.then_some(anchors),
    })
}

fn read_anchors(table: &TomlTable<'_>, out: &mut Diagnostics) -> Option<DnssecAnchors> {
    let mut anchors = DnssecAnchors { root: false, given: Vec::new() };
    for anchor in values(table.read(&resolver::TRUST_ANCHORS, out)?) {
        match anchor {
            None => anchors.root = true,
            Some(given) => anchors.given.extend(given),
        }
    }
    Some(anchors)
}

fn read_roots(table: &TomlTable<'_>, out: &mut Diagnostics) -> Option<TrustedRoots> {
    let mut roots = TrustedRoots { system: false, given: Vec::new() };
    for root in values(table.read(&certificates::ROOTS, out)?) {
        match root {
            None => roots.system = true,
            Some(given) => roots.given.extend(given),
        }
    }
    Some(roots)
}

fn read_flow_log(table: &TomlTable<'_>, out: &mut Diagnostics) -> Option<FlowLogSection> {
    Some(FlowLogSection {
        target: table.read(&flow_log::PATH, out)?,
        queue: usize::try_from(table.read(&flow_log::QUEUE, out)?).ok()?,
    })
}

/// Strips the positions from values.
pub(super) fn values<T>(placed: Vec<Placed<T>>) -> Vec<T> {
    placed.into_iter().map(|placed| placed.value).collect()
}
