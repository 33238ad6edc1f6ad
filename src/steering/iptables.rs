//! Packet rules for `iptables-restore --noflush`, for each family.
//!
//! Written exactly as `iptables-save` prints them, so that `egret steering status` compares line by line.

use super::{Params, Pool, Udp};
use crate::addr::PortRange;
use std::fmt::Write as _;

/// What differs between the families.
#[derive(Debug, Clone, Copy)]
pub(super) struct Family {
    v4: bool,
    any: &'static str,
    unreachable: &'static str,
    /// Destinations that never are a tenant's: our own, and groups of hosts. A rule for each, because a list means
    /// "any of them" to IPv4 and "all of them at once" to IPv6 (`match_type6()` in `xt_addrtype.c`).
    not_steered: &'static [&'static str],
}

/// For `iptables-restore`.
pub(super) const V4: Family = Family {
    v4: true,
    any: "0.0.0.0",
    unreachable: "icmp-port-unreachable",
    not_steered: &["LOCAL", "BROADCAST", "MULTICAST"],
};
/// For `ip6tables-restore`.
pub(super) const V6: Family = Family {
    v4: false,
    any: "::",
    unreachable: "icmp6-port-unreachable",
    not_steered: &["LOCAL", "MULTICAST"],
};

pub(super) fn render(params: &Params, family: Family) -> String {
    // The filter table comes first: each table is one transaction, and in between nothing may leak.
    let tables = [
        table("filter", &[("FORWARD", "EGRET_FORWARD")], &filter(params, family)),
        table("raw", &[("PREROUTING", "EGRET_PREROUTING"), ("OUTPUT", "EGRET_OUTPUT")], &raw(params, family)),
        table("mangle", &[("PREROUTING", "EGRET_PREROUTING")], &mangle(params, family)),
    ];
    tables.concat()
}

/// The chains of one table, each with its rules.
type Chains = Vec<(&'static str, Vec<String>)>;

/// Declaring a chain empties it; the hooks come last, when the chains are whole.
fn table(name: &str, hooks: &[(&str, &str)], chains: &Chains) -> String {
    let mut text = format!("*{name}\n");
    for (chain, _) in chains {
        let _ = writeln!(text, ":{chain} - [0:0]");
    }
    for (chain, rules) in chains {
        for rule in rules {
            let _ = writeln!(text, "-A {chain} {rule}");
        }
    }
    for (builtin, chain) in hooks {
        let _ = writeln!(text, "-I {builtin} -j {chain}");
    }
    text + "COMMIT\n"
}

/// Whatever becomes of the other tables and routes, what should be intercepted is not forwarded.
fn filter(params: &Params, family: Family) -> Chains {
    let refused = match params.udp {
        Udp::Reject => format!("REJECT --reject-with {}", family.unreachable),
        Udp::Drop => "DROP".to_owned(),
    };
    let mut refuse: Vec<_> =
        destination_ports(params, "tcp").into_iter().map(|ports| format!("{ports} -j DROP")).collect();
    refuse.extend(destination_ports(params, "udp").into_iter().map(|ports| format!("{ports} -j {refused}")));
    let interfaces = &params.interfaces;
    vec![
        ("EGRET_FORWARD", interfaces.iter().map(|i| format!("-i {i} -j EGRET_REFUSE")).collect()),
        ("EGRET_REFUSE", refuse),
    ]
}

/// Flows of the gateway need no conntrack entries, and no NAT rule may touch a leased address or port.
fn raw(params: &Params, family: Family) -> Chains {
    let mut incoming = Vec::new();
    let mut outgoing = Vec::new();
    for interface in &params.interfaces {
        for ports in destination_ports(params, "tcp") {
            incoming.push(format!("-i {interface} {ports} -m addrtype ! --dst-type LOCAL -j CT --notrack"));
        }
        for ports in source_ports(params) {
            outgoing.push(format!("-o {interface} {ports} -m addrtype ! --src-type LOCAL -j CT --notrack"));
        }
    }
    for Pool { network, ports } in
        params.pools.iter().filter(|pool| pool.network.addr().is_ipv4() == family.v4)
    {
        let (network, ports) = (network.trunc(), colon(*ports));
        incoming.push(format!("-d {network} -p tcp -m tcp --dport {ports} -j CT --notrack"));
        outgoing.push(format!("-s {network} -p tcp -m tcp --sport {ports} -j CT --notrack"));
    }
    vec![("EGRET_PREROUTING", incoming), ("EGRET_OUTPUT", outgoing)]
}

/// The first packet of a connection is for TPROXY alone: to the socket match, the TIME_WAIT that an earlier connection
/// from the same client port has left is a connection too. It would take the SYN, which then finds no listener on the
/// port that the client dialled; TPROXY gives it to ours (`tproxy_handle_time_wait4` in nf_tproxy_ipv4.c).
const NOT_SYN: &str = "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN";

fn mangle(params: &Params, family: Family) -> Chains {
    let mark = format!("{0:#x}/{0:#x}", params.mark);
    let mut steer = vec![format!("{NOT_SYN} -m socket --transparent -j EGRET_DIVERT")];
    steer.extend(family.not_steered.iter().map(|kind| format!("-m addrtype --dst-type {kind} -j RETURN")));
    for ports in destination_ports(params, "tcp") {
        let (port, any) = (params.listen_port, family.any);
        steer.push(format!("{ports} -j TPROXY --on-port {port} --on-ip {any} --tproxy-mark {mark}"));
        steer.push(format!("{ports} -j DROP"));
    }
    vec![
        ("EGRET_PREROUTING", params.interfaces.iter().map(|i| format!("-i {i} -j EGRET_STEER")).collect()),
        ("EGRET_STEER", steer),
        ("EGRET_DIVERT", vec![format!("-j MARK --set-xmark {mark}"), "-j ACCEPT".to_owned()]),
    ]
}

fn destination_ports(params: &Params, protocol: &str) -> Vec<String> {
    let Some(ranges) = params.ports.ranges() else { return vec![format!("-p {protocol}")] };
    ranges.into_iter().map(|range| format!("-p {protocol} -m {protocol} --dport {}", colon(range))).collect()
}

fn source_ports(params: &Params) -> Vec<String> {
    let Some(ranges) = params.ports.ranges() else { return vec!["-p tcp".to_owned()] };
    ranges.into_iter().map(|range| format!("-p tcp -m tcp --sport {}", colon(range))).collect()
}

fn colon(range: PortRange) -> String {
    range.to_string().replace('-', ":")
}

#[cfg(test)]
mod tests {
    use super::super::{Ports, tests::params};
    use super::*;

    #[test]
    fn every_intercepted_port_is_dropped_in_forward_too() {
        for family in [V4, V6] {
            let text = render(&params(), family);
            for ports in ["80", "443", "8000:8010"] {
                for rule in [
                    format!("-A EGRET_REFUSE -p tcp -m tcp --dport {ports} -j DROP\n"),
                    format!("-A EGRET_STEER -p tcp -m tcp --dport {ports} -j DROP\n"),
                    format!(
                        "-A EGRET_REFUSE -p udp -m udp --dport {ports} -j REJECT --reject-with {}\n",
                        family.unreachable
                    ),
                ] {
                    assert!(text.contains(&rule), "{rule}\nis missing in\n{text}");
                }
            }
            assert!(text.find("-I FORWARD").unwrap() < text.find("*mangle").unwrap());
        }
    }

    #[test]
    fn a_connection_from_a_port_used_a_moment_ago_is_new() {
        for family in [V4, V6] {
            let text = render(&params(), family);
            let socket_match = text.lines().find(|line| line.contains("-m socket")).unwrap();
            assert!(socket_match.contains("! --tcp-flags FIN,SYN,RST,ACK SYN"), "{socket_match}");
        }
    }

    #[test]
    fn all_ports_spare_the_gateway_itself_before_they_intercept() {
        let text = render(&Params { ports: Ports::All, udp: Udp::Drop, ..params() }, V4);
        let spared = text.find("-A EGRET_STEER -m addrtype --dst-type LOCAL -j RETURN").unwrap();
        let taken = text.find("-A EGRET_STEER -p tcp -j TPROXY --on-port 15001").unwrap();
        assert!(spared < taken);
        assert!(text.contains("-A EGRET_REFUSE -p udp -j DROP\n"), "{text}");
    }

    #[test]
    fn each_family_names_its_own_pools_only() {
        let (v4, v6) = (render(&params(), V4), render(&params(), V6));
        assert!(v4.contains("-d 203.0.113.16/28 -p tcp -m tcp --dport 1024:65535 -j CT --notrack"), "{v4}");
        assert!(v6.contains("-s 2001:db8:100::/64 -p tcp -m tcp --sport 1024:65535 -j CT --notrack"), "{v6}");
        assert!(!v4.contains("2001:") && !v6.contains("203.0"));
    }
}
