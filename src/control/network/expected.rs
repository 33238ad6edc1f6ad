//! The state of the machine's network that a configuration needs.

use super::families::ClientPool;
use crate::addr::PortRange;
use crate::config::{Config, SteeringPorts};
use crate::control::steered::steering_params;
use crate::steering::{self, SteeringMonitor, SteeringParams};
use crate::sys::refusals::RefusalScope;
use std::path::PathBuf;
use std::sync::Arc;

/// The state of the machine's network that a configuration needs.
pub(crate) struct ExpectedNetwork {
    pub(crate) params: SteeringParams,
    /// The files name another port to listen on, so that rules made from them cut off all traffic until the gateway restarts.
    pub(crate) other_listener: bool,
    /// `[steering] watch`
    pub(crate) watch: bool,
    /// `[steering] repair`
    pub(crate) repair: Option<PathBuf>,
    /// The clients' networks.
    pub(crate) clients: Vec<ClientPool>,
    ports: Option<Vec<(u16, u16)>>,
}

impl ExpectedNetwork {
    /// For a configuration as read from its files, with pools and tenants, and the port that the gateway listens on. A reload
    /// does not change that port.
    pub(crate) fn of(config: &Config, listen_port: u16) -> Self {
        let clients = config
            .tenants
            .iter()
            .flat_map(|tenant| tenant.sources.iter().map(|network| (*network, Arc::from(&*tenant.pool))));
        let ports = match &config.steering.ports {
            SteeringPorts::All => None,
            SteeringPorts::Listed(ranges) => {
                let merged = PortRange::merged(ranges).into_iter();
                Some(merged.map(|range| (range.first(), range.last())).collect())
            }
        };
        Self {
            params: SteeringParams { listen_port, ..steering_params(config) },
            other_listener: config.gateway.listen.port() != listen_port,
            watch: config.steering.watch,
            repair: config.steering.repair.clone(),
            clients: clients.collect(),
            ports,
        }
    }

    /// The script that puts steering in place.
    pub(crate) fn script(&self) -> String {
        steering::iptables(&self.params).to_string()
    }

    pub(crate) fn watched(&self) -> Option<SteeringMonitor> {
        self.watch.then(|| SteeringMonitor::of_files(&self.params))
    }

    /// The packets that are intercepted.
    pub(crate) fn scope(&self) -> RefusalScope {
        let interfaces = self.params.interfaces.iter().map(ToString::to_string).collect();
        RefusalScope { interfaces, ports: self.ports.clone() }
    }
}
