//! Rules of policy routing that keep intercepted ports from being routed on if packet rules are flushed.
//!
//! They work like a function in a program. Rules at [`SELECT`] send what clients send into it, and every other packet skips
//! it. Inside, packets to intercepted ports are refused; then fragments are, in which the kernel sees no ports.

use super::params::{SteeringParams, UdpTreatment};
use crate::addr::{PortRange, listed};
use crate::interface::Interface;
use ipnet::IpNet;
use std::fmt;

/// Packets of the machine itself go to the end.
const OWN_PACKETS: u32 = 101;
/// Packets that come in by a steered interface, or from a tenant's network by any other, go to [`REFUSE`].
const SELECT: u32 = 102;
/// All others go to the end, unless every address is a tenant's.
const OTHER_PACKETS: u32 = 103;
/// Refuses intercepted ports.
const REFUSE: u32 = 104;
/// Packets with ports go to the end.
const HAS_PORTS: u32 = 105;
/// Refuses packets without ports, and those from port 65535 to port 65535, which no rule can name.
const NO_PORTS: u32 = 106;
/// The end.
pub(super) const LAST: u32 = 107;

/// True for a priority among those of the rules, where nearly all packets skip the rules of others.
pub(super) fn is_among(priority: u32) -> bool {
    (SELECT..LAST).contains(&priority)
}

/// The last port that a rule can name: the kernel takes no range that ends with 65535 (`fib_rule_port_range_valid()`).
const LAST_NAMED: u16 = u16::MAX - 1;
const UDP: u8 = 17;
/// IPv6 headers that hide the ports from the kernel's rules: routing and destination options. It reads past fifteen of them
/// (`MAX_FLOW_DISSECT_HDRS`), and a receiver past any number.
const OPTION_HEADERS: [u8; 2] = [43, 60];

/// One rule of policy routing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRule {
    /// The position among the rules of `ip rule`.
    pub priority: u32,
    /// The packets that it is about.
    pub packets: RulePackets,
    /// The rest, in the syntax of `ip rule`.
    pub rest: String,
}

/// The packets that a rule is about, as far as their way in decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RulePackets {
    /// All of them.
    Any,
    /// Packets of the machine itself.
    Own,
    /// Packets that come in by an interface, or by those that a pattern covers.
    Interface(Interface),
    /// Packets from a network.
    Source(IpNet),
}

/// Displays as `ip rule add pref` takes the rule.
impl fmt::Display for PortRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { priority, packets, rest } = self;
        match packets {
            RulePackets::Any => write!(f, "{priority} {rest}"),
            RulePackets::Own => write!(f, "{priority} iif lo {rest}"),
            RulePackets::Interface(name) => write!(f, "{priority} iif {name} {rest}"),
            RulePackets::Source(network) => write!(f, "{priority} from {} {rest}", listed(*network)),
        }
    }
}

/// The rules of a family, in an order in which they can be added: no packet is refused before those are there that it skips
/// them by.
pub(super) fn port_rules(params: &SteeringParams, v4: bool) -> Vec<PortRule> {
    let any = |priority, rest| PortRule { priority, packets: RulePackets::Any, rest };
    let to_end = format!("goto {LAST}");
    let sources = params.sources.iter().filter(|source| source.addr().is_ipv4() == v4);
    let sources = IpNet::aggregate(&sources.map(IpNet::trunc).collect());
    // Then nothing is selected: a rule for every source would be the same to the kernel as one for some
    // (`fib4_rule_compare()`).
    let everybody_is_a_tenant = sources.iter().any(|source| source.prefix_len() == 0);
    let mut rules = vec![
        any(LAST, "nop".to_owned()),
        // Another one, so that packets still skip to the end when one of the two is lost.
        PortRule { priority: LAST, packets: RulePackets::Own, rest: "nop".to_owned() },
        PortRule { priority: OWN_PACKETS, packets: RulePackets::Own, rest: to_end.clone() },
    ];
    if !everybody_is_a_tenant {
        rules.push(any(OTHER_PACKETS, to_end.clone()));
    }
    let udp = match params.udp {
        UdpTreatment::Reject => "prohibit",
        UdpTreatment::Drop => "blackhole",
    };
    match params.ports.ranges() {
        None => rules.extend(
            [(params.transport.number(), "blackhole"), (UDP, udp)]
                .map(|(protocol, action)| any(REFUSE, format!("ipproto {protocol} {action}"))),
        ),
        Some(ranges) => {
            let has_last_port = ranges.iter().any(|range| range.last() == u16::MAX);
            for (protocol, action) in [(params.transport.number(), "blackhole"), (UDP, udp)] {
                let named = ranges
                    .iter()
                    .filter_map(|range| PortRange::new(range.first(), range.last().min(LAST_NAMED)));
                rules.extend(
                    named.map(|ports| any(REFUSE, format!("ipproto {protocol} dport {ports} {action}"))),
                );
                let mut skip = |port| {
                    rules.push(any(HAS_PORTS, format!("ipproto {protocol} {port} 1-{LAST_NAMED} {to_end}")));
                };
                skip("dport");
                // Packets to the last port fit no rule above: where it is intercepted, they are to be refused below.
                if !has_last_port {
                    skip("sport");
                }
                rules.push(any(NO_PORTS, format!("ipproto {protocol} blackhole")));
            }
        }
    }
    if !v4 {
        rules.extend(OPTION_HEADERS.map(|header| any(NO_PORTS, format!("ipproto {header} blackhole"))));
    }
    let select = |packets| PortRule { priority: SELECT, packets, rest: format!("goto {REFUSE}") };
    rules.extend(params.interfaces.iter().cloned().map(RulePackets::Interface).map(select));
    if !everybody_is_a_tenant {
        rules.extend(sources.into_iter().map(RulePackets::Source).map(select));
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steering::tests::params;
    use crate::steering::{InterceptedPorts, Remedy, origin};

    /// The kernel takes a rule for every source for one for some, and refuses the second of them.
    #[test]
    fn tenant_of_everybody_needs_no_selection() {
        let sources = ["0.0.0.0/0", "10.0.1.0/24", "fd00:1::/64"].map(|network| network.parse().unwrap());
        let params = SteeringParams { sources: sources.into(), ..params() };
        let [v4, v6] = [true, false].map(|v4| port_rules(&params, v4));
        let count =
            |rules: &[PortRule], priority| rules.iter().filter(|rule| rule.priority == priority).count();
        assert_eq!((count(&v4, OTHER_PACKETS), count(&v4, SELECT)), (0, 3));
        assert_eq!((count(&v6, OTHER_PACKETS), count(&v6, SELECT)), (1, 4));
    }

    /// Scripts and messages cannot use the constants.
    #[test]
    fn numbers_agree_with_scripts_and_messages() {
        let (prelude, steer) = (include_str!("prelude.sh"), include_str!("../../scripts/steer.sh"));
        let before_skips = format!("for at in {SELECT} {REFUSE} {HAS_PORTS} {NO_PORTS};");
        for (text, words) in [
            (prelude, format!("\nproto={}\n", origin::UP)),
            (prelude, format!("\npref={}\n", OWN_PACKETS - 1)),
            (prelude, format!("$((pref + {}))", LAST - OWN_PACKETS + 1)),
            (prelude, before_skips),
            (steer, format!("\nguard_protocol={} ", origin::GUARD)),
            (Remedy::MoveRule.as_str(), format!("after {LAST}")),
            (Remedy::ClearPlace.as_str(), format!("above {LAST} (below {OWN_PACKETS} only")),
        ] {
            assert!(text.contains(&words), "{words}");
        }
    }

    #[test]
    fn last_port_is_refused_too() {
        let range = |first, last| PortRange::new(first, last).unwrap();
        for (ports, refused, skips) in [
            (vec![range(80, 80)], vec!["104 ipproto 6 dport 80 blackhole"], 2),
            (vec![range(8000, 65535)], vec!["104 ipproto 6 dport 8000-65534 blackhole"], 1),
            (vec![range(65535, 65535)], vec![], 1),
        ] {
            let params = SteeringParams { ports: InterceptedPorts::List(ports), ..params() };
            let rules: Vec<_> = port_rules(&params, true).iter().map(ToString::to_string).collect();
            let of = |start: &str| {
                rules.iter().filter(|rule| rule.starts_with(start)).cloned().collect::<Vec<_>>()
            };
            assert_eq!(of("104 ipproto 6 "), refused);
            assert_eq!(of("105 ipproto 6 ").len(), skips, "{rules:?}");
            assert_eq!(of("106 ipproto 6 "), ["106 ipproto 6 blackhole"]);
        }
    }
}
