//! What the checked configuration means for the rooms that do not know it.

use super::doctor::Doctor;
use crate::app::ephemeral_ports;
use crate::config::{self, Config};
use crate::steering::{Interface, Params, Pool, Ports, Udp};

/// What there is to steer.
pub(super) fn steering(config: &Config) -> Params {
    let steering = &config.steering;
    Params {
        interfaces: steering.interfaces.iter().filter_map(|name| Interface::new(name)).collect(),
        ports: match &steering.ports {
            config::Ports::All => Ports::All,
            config::Ports::Listed(ranges) => Ports::List(ranges.clone()),
        },
        udp: match steering.udp {
            config::Udp::Reject => Udp::Reject,
            config::Udp::Drop => Udp::Drop,
        },
        listen_port: config.gateway.listen.port(),
        mark: steering.mark,
        table: steering.table,
        pools: (config.pools.iter())
            .flat_map(|pool| pool.addresses.iter().map(|&network| Pool { network, ports: pool.ports }))
            .collect(),
        ephemeral: ephemeral_ports(),
    }
}

/// What is to be looked at.
pub(super) fn doctor(config: &Config) -> Doctor {
    Doctor {
        steering: steering(config),
        metrics: config.gateway.metrics,
        wanted_flows: u64::from(config.gateway.max_flows.unwrap_or(10_000)),
    }
}
