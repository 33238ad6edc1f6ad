//! Derives steering parameters from the configuration, which the steering room does not depend on.

use super::ephemeral_ports;
use crate::addr::PortRange;
use crate::config::{self, Config};
use crate::interface::Interface;
use crate::steering::{InterceptedPorts, SteeredPool, SteeringParams, UdpTreatment};
use crate::transport::Transport;
use ipnet::IpNet;
use std::collections::HashSet;
use std::net::SocketAddr;

/// Returns the parameters of steering.
pub fn steering_params(config: &Config) -> SteeringParams {
    let steering = &config.steering;
    SteeringParams {
        interfaces: unique(&steering.interfaces),
        transport: Transport::Tcp,
        ports: match &steering.ports {
            config::SteeringPorts::All => InterceptedPorts::All,
            config::SteeringPorts::Listed(ranges) => InterceptedPorts::List(ranges.clone()),
        },
        udp: match steering.udp {
            config::UdpSetting::Reject => UdpTreatment::Reject,
            config::UdpSetting::Drop => UdpTreatment::Drop,
        },
        listen_port: config.gateway.listen.port(),
        mark: steering.mark,
        table: steering.table,
        sources: sources(config),
        pools: steered(config.pools.iter().map(|pool| (pool.ports, &*pool.addresses))),
        resolvers: config.resolver.servers.iter().flatten().map(SocketAddr::ip).collect(),
        ephemeral: ephemeral_ports(),
    }
}

/// Each interface once: twice the same rule is an error to `ip`, and would be missed in the kernel.
fn unique(interfaces: &[Interface]) -> Vec<Interface> {
    let mut seen = HashSet::new();
    interfaces.iter().filter(|interface| seen.insert(*interface)).cloned().collect()
}

/// Networks of all tenants, without those nested in others.
fn sources(config: &Config) -> Vec<IpNet> {
    let all: Vec<_> =
        config.tenants.iter().flat_map(|tenant| tenant.sources.iter().map(IpNet::trunc)).collect();
    IpNet::aggregate(&all)
}

/// Networks of all pools. Adjacent ones with the same ports are merged, because each packet of the host is compared
/// with every one.
pub(super) fn steered<'a>(pools: impl Iterator<Item = (PortRange, &'a [IpNet])>) -> Vec<SteeredPool> {
    let mut by_ports: Vec<(PortRange, Vec<IpNet>)> = Vec::new();
    for (ports, addresses) in pools {
        match by_ports.iter_mut().find(|(others, _)| *others == ports) {
            Some((_, networks)) => networks.extend(addresses),
            None => by_ports.push((ports, addresses.to_vec())),
        }
    }
    let merged = |(ports, networks): (PortRange, Vec<IpNet>)| {
        IpNet::aggregate(&networks).into_iter().map(move |network| SteeredPool { network, ports })
    };
    by_ports.into_iter().flat_map(merged).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_interface_steers_once() {
        let interfaces = ["c0", "veth+", "c0", "veth*", "c*"].map(|name| Interface::parse(name).unwrap());
        let unique: Vec<_> = unique(&interfaces).iter().map(ToString::to_string).collect();
        assert_eq!(unique, ["c0", "veth*", "c*"]);
    }

    #[test]
    fn adjacent_addresses_steer_as_one_network() {
        let networks =
            |list: &[&str]| list.iter().map(|network| network.parse().unwrap()).collect::<Vec<_>>();
        let low = PortRange::new(1024, 9999).unwrap();
        let high = PortRange::new(10_000, 65_535).unwrap();
        let one = networks(&["10.0.0.1/32", "10.0.0.0/32", "2001:db8::/128"]);
        let another = networks(&["10.0.0.2/31", "2001:db8::1/128", "10.0.0.9/32"]);
        let apart = networks(&["10.0.0.4/30"]);
        let steered = steered([(low, &*one), (high, &*apart), (low, &*another)].into_iter());
        let shown: Vec<_> = steered.iter().map(|pool| format!("{} {}", pool.network, pool.ports)).collect();
        assert_eq!(
            shown,
            [
                "10.0.0.0/30 1024-9999",
                "10.0.0.9/32 1024-9999",
                "2001:db8::/127 1024-9999",
                "10.0.0.4/30 10000-65535"
            ]
        );
    }
}
