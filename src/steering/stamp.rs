//! The stamp: a rule of policy routing that does nothing, and whose ports are a digest of what the rules of steering were made
//! from. By it the running gateway knows rules of other files from those of the files in force, whatever the two have in common.

use super::port_rules::LAST;
use super::{PortRule, Routing, RulePackets};
use crate::sys::routing::RoutingRule;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};

/// Ports that a rule can name: 1 to 65534.
const PORTS: u64 = 65_534;

/// The stamp of packet rules of iptables and of policy routing, the last rule to be added. It is the same in both families and
/// formats, and may be another in another version of Egret: then steering is renewed once.
pub(super) fn of(texts: &[String; 2], routing: &[Routing; 2]) -> PortRule {
    let mut hasher = DefaultHasher::new();
    for text in texts {
        text.hash(&mut hasher);
    }
    for Routing { mark, table, pools, port_rules, .. } in routing {
        let rules: Vec<_> = port_rules.iter().map(ToString::to_string).collect();
        (mark, table, pools, rules).hash(&mut hasher);
    }
    let digest = hasher.finish();
    let ports = [digest, digest >> 32].map(|half| (half & u64::from(u32::MAX)) % PORTS + 1);
    let rest = format!("sport {} dport {} nop", ports[0], ports[1]);
    PortRule { priority: LAST, packets: RulePackets::Any, rest }
}

/// True for what [`of`] made, of whatever parameters.
pub(super) fn is_stamp(rest: &str) -> bool {
    rest.starts_with("sport ") && rest.ends_with(" nop")
}

/// The stamp among the rules of a family, if there is one.
pub(super) fn found(rules: &[RoutingRule]) -> Option<&str> {
    let ours = rules.iter().filter(|rule| rule.protocol == super::origin::UP && rule.priority == LAST);
    ours.map(|rule| &*rule.rest).find(|rest| is_stamp(rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PortRange;
    use crate::steering::tests::params;
    use crate::steering::{InterceptedPorts, SteeredPool, SteeringParams, UdpTreatment, iptables, nftables};

    #[test]
    fn stamp_tells_parameters_apart() {
        let port = |port| PortRange::new(port, port).unwrap();
        let others = [
            SteeringParams { ports: InterceptedPorts::List(vec![port(80)]), ..params() },
            SteeringParams { udp: UdpTreatment::Drop, ..params() },
            SteeringParams { sources: vec!["10.0.2.0/24".parse().unwrap()], ..params() },
            SteeringParams {
                pools: vec![SteeredPool { network: "203.0.113.17/28".parse().unwrap(), ports: port(2000) }],
                ..params()
            },
        ];
        let stamps = |params: &SteeringParams| {
            [iptables(params), nftables(params)].map(|plan| {
                let [v4, v6] = plan.routing.map(|routing| routing.port_rules.last().cloned());
                assert_eq!(v4, v6);
                v4.unwrap().rest
            })
        };
        let [stamp, of_nftables] = stamps(&params());
        assert!(stamp == of_nftables && is_stamp(&stamp), "{stamp} {of_nftables}");
        for other in &others {
            assert_ne!(stamps(other)[0], stamp, "{other:?}");
        }
        // The kernel's ephemeral ports may change by themselves.
        assert_eq!(stamps(&SteeringParams { ephemeral: port(40_000), ..params() })[0], stamp);
    }
}
