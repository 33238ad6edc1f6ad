//! The configuration, as far as doctor needs it.

use super::families;
use crate::config::Config;
use crate::control::steering_params;
use crate::steering::SteeringParams;
use ipnet::IpNet;
use std::net::SocketAddr;

/// Settings of the configuration that doctor needs.
#[derive(Debug, Clone)]
pub struct Doctor {
    /// Parameters of steering; without interfaces or ports, steering is not looked at.
    pub steering: SteeringParams,
    /// Where the metrics listener is asked for `/readyz`, if there is one.
    pub metrics: Option<SocketAddr>,
    /// The pools that tenants leave from.
    pub(super) pools: Vec<families::UsedPool>,
    /// Flows that there should be room for at once.
    pub wanted_flows: u64,
    /// Tenants whose clients' packets are tried.
    pub tenants: Vec<TenantClients>,
}

impl Doctor {
    /// Collects them from the configuration.
    pub(in crate::cli) fn of(config: &Config) -> Self {
        Self {
            steering: steering_params(config),
            metrics: config.gateway.metrics,
            pools: families::used_pools(config),
            wanted_flows: u64::from(config.gateway.max_flows.unwrap_or(10_000)),
            tenants: config
                .tenants
                .iter()
                .map(|tenant| TenantClients {
                    name: tenant.name.to_string(),
                    sources: tenant.sources.clone(),
                })
                .collect(),
        }
    }
}

/// Clients of one tenant.
#[derive(Debug, Clone)]
pub struct TenantClients {
    /// As in the configuration.
    pub name: String,
    /// Where its clients are.
    pub sources: Vec<IpNet>,
}
