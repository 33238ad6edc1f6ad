//! Renders the packet rules and routes that bring traffic to the listener, and checks that they are in place. Changes nothing
//! itself.
//!
//! `docs/steering.md` explains every rule. The rules fail closed: whichever part of them is missing, a packet that should
//! have been intercepted is dropped and never forwarded.

mod ahead;
mod compare;
mod conflicts;
mod counted;
mod iptables;
mod machine;
mod missing;
mod nftables;
pub mod origin;
mod overtaking;
mod own_rules;
mod params;
mod plan;
mod port_rules;
mod refused;
mod reserve;
mod script;
mod stamp;
mod watched;

pub use compare::{PartDifference, PlanPart, SteeringOutput, before_mark_rule, compare, not_reserved};
pub use conflicts::{Conflict, ConflictSeverity, conflicts, missing_interfaces};
pub use counted::{COUNTED_CHAINS, PacketCounter, counts};
pub use machine::{MachineNetwork, MachineOutput};
pub use missing::{RefusedInterfaces, are_absent, replace_interfaces, steered_interfaces};
pub use own_rules::{NFT_TABLE, is_own_chain};
pub use params::{InterceptedPorts, SteeredPool, SteeringParams, UdpTreatment};
pub use plan::{PacketRules, Routing, SteeringPlan};
pub use port_rules::{PortRule, RulePackets};
pub use refused::{RefusedSteering, replace};
pub use reserve::{default_ephemeral, reserved_ports};
pub use script::{SOMAXCONN, down};
pub use watched::{
    Ipv6Routing, Lost, Part, Remedy, SteeringLook, SteeringMonitor, drops_marked, ipv6_routing, is_strict,
};

use port_rules::port_rules;

/// The remedy for missing parts, on an installed machine and elsewhere. Restarting the unit removes nothing meanwhile, and
/// unlike a reload restores exemptions (docs/steering.md).
pub const REMEDY: &str = "`systemctl restart egret-steering`, or as root `egret steering print | sh` \
                          (with your --config and --format)";

/// The packet filter that rules are rendered for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum FilterFormat {
    /// `iptables-restore` and `ip6tables-restore`, with either backend.
    #[default]
    Iptables,
    /// `nft -f`, a table of its own.
    Nftables,
}

impl FilterFormat {
    /// The value on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        }
    }
}

/// Steering with iptables.
pub fn iptables(params: &SteeringParams) -> SteeringPlan {
    let texts = iptables_texts(params);
    let routing = routing(params, &texts);
    let [v4, v6] = texts;
    plan(params, routing, PacketRules::Iptables { v4, v6 })
}

/// Steering with nftables.
pub fn nftables(params: &SteeringParams) -> SteeringPlan {
    let routing = routing(params, &iptables_texts(params));
    plan(params, routing, PacketRules::Nftables(nftables::render(params)))
}

/// The packet rules of iptables, for IPv4 and IPv6.
fn iptables_texts(params: &SteeringParams) -> [String; 2] {
    [iptables::V4, iptables::V6].map(|family| iptables::render(params, family))
}

/// The policy routing of both families, with the stamp of these packet rules of iptables.
fn routing(params: &SteeringParams, texts: &[String; 2]) -> [Routing; 2] {
    let of_family = |family, everything, v4: bool| {
        let networks = params.pools.iter().map(|pool| pool.network.trunc());
        let mut pools: Vec<_> = networks.filter(|network| network.addr().is_ipv4() == v4).collect();
        pools.sort_unstable();
        pools.dedup();
        let port_rules = port_rules(params, v4);
        Routing { family, mark: params.mark, table: params.table, everything, pools, port_rules }
    };
    let mut routing = [of_family("-4", "0.0.0.0/0", true), of_family("-6", "::/0", false)];
    let stamp = stamp::of(texts, &routing);
    for family in &mut routing {
        family.port_rules.push(stamp.clone());
    }
    routing
}

fn plan(params: &SteeringParams, routing: [Routing; 2], packet_rules: PacketRules) -> SteeringPlan {
    let pool_ports: Vec<_> = params.pools.iter().map(|pool| pool.ports).collect();
    SteeringPlan {
        interfaces: params.interfaces.clone(),
        ports: params.ports.ranges(),
        sources: params.sources.clone(),
        packet_rules,
        routing,
        reserved_ports: reserved_ports(&pool_ports, params.ephemeral),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PortRange;
    use crate::interface::Interface;

    pub(super) fn params() -> SteeringParams {
        let range = |a, b| PortRange::new(a, b).unwrap();
        let pool =
            |network: &str| SteeredPool { network: network.parse().unwrap(), ports: range(1024, 65535) };
        SteeringParams {
            interfaces: ["ens6", "br-a.7", "veth*"].map(|name| Interface::parse(name).unwrap()).into(),
            sources: vec!["10.0.1.0/24".parse().unwrap(), "fd00:1::7/128".parse().unwrap()],
            transport: crate::transport::Transport::Tcp,
            ports: InterceptedPorts::List(vec![range(443, 443), range(80, 80), range(8000, 8010)]),
            udp: UdpTreatment::Reject,
            listen_port: 15001,
            mark: 1,
            table: 100,
            pools: vec![pool("203.0.113.17/28"), pool("2001:db8:100::/64"), pool("203.0.113.99/32")],
            resolvers: Vec::new(),
            ephemeral: default_ephemeral(),
        }
    }

    #[test]
    fn pools_are_split_by_family_and_masked() {
        let plan = iptables(&params());
        let shown = |routing: &Routing| routing.pools.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(shown(&plan.routing[0]), ["203.0.113.16/28", "203.0.113.99/32"]);
        assert_eq!(shown(&plan.routing[1]), ["2001:db8:100::/64"]);
    }
}
