//! The configuration, as far as doctor needs it.

use super::families;
use crate::app::{descriptors_for, worker_count};
use crate::cli::findings::CheckFinding;
use crate::cli::steering::ListenPort;
use crate::config::Config;
use crate::control::{asked_servers, looked_up, steering_params};
use crate::egress::{Ledger, Pools};
use crate::steering::SteeringParams;
use ipnet::IpNet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Settings of the configuration that doctor needs.
#[derive(Debug, Clone)]
pub struct Doctor {
    /// Parameters of steering; without interfaces or ports, steering is not looked at.
    pub steering: SteeringParams,
    /// The port of `steering`.
    pub port: ListenPort,
    /// Where the metrics listener is asked for `/readyz`, if there is one.
    pub metrics: Option<SocketAddr>,
    /// The control socket, if there is one.
    pub socket: Option<PathBuf>,
    /// The DNS servers that rules ask, if any does.
    pub resolver: Option<AskedResolver>,
    /// The pools that tenants leave from.
    pub(super) pools: Vec<families::UsedPool>,
    /// The time that flows have when the gateway stops.
    pub drain: Duration,
    /// All pools, with the ports that they hand out.
    pub(super) leased: Arc<Pools>,
    /// Flows that there should be room for at once.
    pub wanted_flows: u32,
    /// The least limit on file descriptors that has room for them.
    pub wanted_descriptors: u64,
    /// Tenants whose clients' packets are tried.
    pub tenants: Vec<TenantClients>,
    /// The finding about files with errors, if this is the last good configuration instead.
    pub(in crate::cli) broken: Option<CheckFinding>,
}

impl Doctor {
    /// Collects them from the configuration. `broken`: the finding about files with errors, if it is the last good one.
    pub(in crate::cli) fn of(config: &Config, broken: Option<CheckFinding>) -> Self {
        let wanted_flows = config.gateway.max_flows.unwrap_or(10_000);
        Self {
            steering: steering_params(config),
            port: ListenPort::OfFiles,
            metrics: config.gateway.metrics,
            socket: config.gateway.admin.clone(),
            resolver: asked_servers(config).map(|servers| AskedResolver {
                servers,
                name: looked_up(config).map_or_else(|| ANY_NAME.to_owned(), ToString::to_string),
            }),
            pools: families::used_pools(config),
            drain: config.gateway.drain,
            leased: Arc::new(Pools::new(&config.pools, &config.reserved_ports(), &Arc::new(Ledger::new()))),
            wanted_flows,
            wanted_descriptors: descriptors_for(wanted_flows, worker_count(config)),
            tenants: config
                .tenants
                .iter()
                .map(|tenant| TenantClients {
                    name: tenant.name.to_string(),
                    pool: tenant.pool.to_string(),
                    sources: tenant.sources.clone(),
                })
                .collect(),
            broken,
        }
    }
}

/// A name that always exists, for configurations that look up wildcards alone (RFC 2606).
const ANY_NAME: &str = "example.com";

/// DNS servers that rules ask.
#[derive(Debug, Clone)]
pub struct AskedResolver {
    /// Their addresses, or the reason why there are none.
    pub servers: Result<Vec<SocketAddr>, String>,
    /// A name to ask for.
    pub name: String,
}

/// Clients of one tenant.
#[derive(Debug, Clone)]
pub struct TenantClients {
    /// As in the configuration.
    pub name: String,
    /// The pool that its flows leave from.
    pub pool: String,
    /// Where its clients are.
    pub sources: Vec<IpNet>,
}
