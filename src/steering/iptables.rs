//! Packet rules for `iptables-restore --noflush`, for each family.
//!
//! Written exactly as `iptables-save` prints them, so that `egret steering status` compares line by line.

use super::params::LOG_PREFIX;
use super::{PacketCounter, SteeredPool, SteeringParams, UdpTreatment};
use crate::addr::PortRange;
use std::collections::BTreeSet;
use std::fmt::Write as _;

/// The differences between the families.
#[derive(Debug, Clone, Copy)]
pub(super) struct FamilyTools {
    v4: bool,
    any: &'static str,
    unreachable: &'static str,
    /// Types of destinations that are not steered: our own, and groups of hosts. A rule for each, because a list means
    /// "any of them" to IPv4 and "all of them at once" to IPv6 (`match_type6()` in `xt_addrtype.c`).
    not_steered: &'static [&'static str],
    icmp: &'static str,
    /// The errors that TCP acts on (`tcp_v4_err()`, `tcp_v6_err()`), as matches.
    errors: &'static [&'static str],
}

/// For `iptables-restore`.
pub(super) const V4: FamilyTools = FamilyTools {
    v4: true,
    any: "0.0.0.0",
    unreachable: "icmp-port-unreachable",
    not_steered: &["LOCAL", "BROADCAST", "MULTICAST"],
    icmp: "icmp",
    errors: &[
        "-p icmp -m icmp --icmp-type 3", // destination unreachable, fragmentation needed among them
        "-p icmp -m icmp --icmp-type 11", // time exceeded
        "-p icmp -m icmp --icmp-type 12", // parameter problem
    ],
};
/// For `ip6tables-restore`.
pub(super) const V6: FamilyTools = FamilyTools {
    v4: false,
    any: "::",
    unreachable: "icmp6-port-unreachable",
    not_steered: &["LOCAL", "MULTICAST"],
    icmp: "ipv6-icmp",
    errors: &[
        "-p ipv6-icmp -m icmp6 --icmpv6-type 1", // destination unreachable
        "-p ipv6-icmp -m icmp6 --icmpv6-type 2", // packet too big
        "-p ipv6-icmp -m icmp6 --icmpv6-type 3", // time exceeded
        "-p ipv6-icmp -m icmp6 --icmpv6-type 4", // parameter problem
    ],
};

pub(super) fn render(params: &SteeringParams, family: FamilyTools) -> String {
    // The filter table comes first: each table is one transaction, and in between nothing may leak.
    let hooks = [("FORWARD", "EGRET_FORWARD"), ("INPUT", "EGRET_INPUT")];
    let tables = [
        table("filter", &hooks, &filter(params, family)),
        table("raw", &[("PREROUTING", "EGRET_PREROUTING"), ("OUTPUT", "EGRET_OUTPUT")], &raw(params, family)),
        table(
            "mangle",
            &[("PREROUTING", "EGRET_PREROUTING"), ("POSTROUTING", "EGRET_POSTROUTING")],
            &mangle(params, family),
        ),
    ];
    tables.concat()
}

/// The chains of one table, each with its rules.
type TableChains = Vec<(&'static str, Vec<String>)>;

/// The input for one table. Declaring a chain empties it; the hooks come last, when the chains are complete.
fn table(name: &str, hooks: &[(&str, &str)], chains: &TableChains) -> String {
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

fn counted(counted: PacketCounter) -> String {
    format!("-m comment --comment {}", counted.as_str())
}

/// Keeps what should be intercepted from being forwarded, without relying on the other tables and routes: neither from the
/// steered interfaces, nor from tenants whose packets arrive on others.
fn filter(params: &SteeringParams, family: FamilyTools) -> TableChains {
    let refused = match params.udp {
        UdpTreatment::Reject => format!("REJECT --reject-with {}", family.unreachable),
        UdpTreatment::Drop => "DROP".to_owned(),
    };
    let comment = counted(PacketCounter::NotForwarded);
    let mut refuse: Vec<_> =
        intercepted_ports(params).into_iter().map(|ports| format!("{ports} {comment} -j DROP")).collect();
    refuse.extend(
        destination_ports(params, "udp").into_iter().map(|ports| format!("{ports} {comment} -j {refused}")),
    );
    let interfaces = params.interfaces.iter().map(|i| format!("-i {} -j EGRET_REFUSE", i.iptables()));
    let sources = params.sources.iter().filter(|source| source.addr().is_ipv4() == family.v4);
    let sources = sources.map(|source| match source.prefix_len() {
        0 => "-j EGRET_REFUSE".to_owned(),
        _ => format!("-s {source} -j EGRET_REFUSE"),
    });
    vec![
        ("EGRET_FORWARD", interfaces.chain(sources).collect()),
        ("EGRET_REFUSE", refuse),
        ("EGRET_INPUT", input(params, family)),
        ("EGRET_ERRORS", family.errors.iter().map(|error| format!("{error} -j ACCEPT")).collect()),
    ]
}

/// Accepts intercepted packets and answers to the pools, which conntrack does not track and a stateful firewall would drop.
/// New connections to the pools' addresses are left to the firewall.
fn input(params: &SteeringParams, family: FamilyTools) -> Vec<String> {
    let port = params.listen_port;
    let mark = format!("-m mark --mark {0:#x}/{0:#x}", params.mark);
    // A connection of the machine's own to the listener could only make the gateway dial itself.
    let mut rules = vec![format!("-i lo -p tcp -m tcp --dport {port} -j REJECT --reject-with tcp-reset")];
    for interface in &params.interfaces {
        for protocol in ["tcp", family.icmp] {
            rules.push(format!("-i {} -p {protocol} {mark} -j ACCEPT", interface.iptables()));
        }
    }
    // To every port: flows may still live on ports that the pool does not have any more.
    let networks = pools(params, family).map(|pool| pool.network.trunc());
    for network in networks.collect::<BTreeSet<_>>() {
        rules.push(format!(
            "-d {network} -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack --ctstate UNTRACKED -j ACCEPT"
        ));
        rules.push(format!("-d {network} -p {} -j EGRET_ERRORS", family.icmp));
    }
    rules
}

fn pools(params: &SteeringParams, family: FamilyTools) -> impl Iterator<Item = &SteeredPool> {
    params.pools.iter().filter(move |pool| pool.network.addr().is_ipv4() == family.v4)
}

/// Flows of the gateway need no conntrack entries, and no NAT rule may touch a leased address or port.
fn raw(params: &SteeringParams, family: FamilyTools) -> TableChains {
    let transport = transport_match(params);
    let mut incoming = Vec::new();
    let mut outgoing = Vec::new();
    for interface in params.interfaces.iter().map(crate::interface::Interface::iptables) {
        for ports in intercepted_ports(params) {
            incoming.push(format!("-i {interface} {ports} -m addrtype ! --dst-type LOCAL -j CT --notrack"));
        }
        for ports in source_ports(params) {
            outgoing.push(format!("-o {interface} {ports} -m addrtype ! --src-type LOCAL -j CT --notrack"));
        }
    }
    for SteeredPool { network, ports } in pools(params, family) {
        let (network, ports) = (network.trunc(), colon(*ports));
        incoming.push(format!("-d {network} {transport} --dport {ports} -j CT --notrack"));
        outgoing.push(format!("-s {network} {transport} --sport {ports} -j CT --notrack"));
        incoming.push(format!("-d {network} -p {} -j EGRET_ERRORS", family.icmp));
    }
    // Conntrack calls an error about what it does not know invalid, which many firewalls drop.
    let of_clients =
        family.errors.iter().map(|error| format!("{error} -m socket --transparent -j CT --notrack"));
    incoming.extend(of_clients);
    let errors = family.errors.iter().map(|error| format!("{error} -m socket -j CT --notrack")).collect();
    vec![("EGRET_PREROUTING", incoming), ("EGRET_OUTPUT", outgoing), ("EGRET_ERRORS", errors)]
}

/// Excludes SYNs from the socket match, which also finds a socket in TIME_WAIT that an earlier connection from the same client
/// port has left. It would take the SYN, which then finds no listener on the port that the client dialled. TPROXY hands it
/// to ours (`tproxy_handle_time_wait4` in nf_tproxy_ipv4.c).
const NOT_SYN: &str = "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN";

fn mangle(params: &SteeringParams, family: FamilyTools) -> TableChains {
    let mark = format!("{0:#x}/{0:#x}", params.mark);
    let mut steer = vec![format!("{NOT_SYN} -m socket --transparent -j EGRET_DIVERT")];
    // ICMP errors about the client's leg have the server's address as destination.
    steer
        .extend(family.errors.iter().map(|error| format!("{error} -m socket --transparent -j EGRET_DIVERT")));
    steer.push(format!(
        "-p {} -m addrtype --src-type LOCAL {} -j DROP",
        params.transport,
        counted(PacketCounter::OwnSource)
    ));
    steer.extend(family.not_steered.iter().map(|kind| format!("-m addrtype --dst-type {kind} -j RETURN")));
    let comment = counted(PacketCounter::NoListener);
    for ports in intercepted_ports(params) {
        let (port, any) = (params.listen_port, family.any);
        steer.push(format!("{ports} -j TPROXY --on-port {port} --on-ip {any} --tproxy-mark {mark}"));
        steer.push(format!("{ports} {comment} -j DROP"));
    }
    steer.push("-j EGRET_UNSTEERED".to_owned());
    let interfaces = params.interfaces.iter().map(|i| format!("-i {} -j EGRET_STEER", i.iptables()));
    vec![
        ("EGRET_PREROUTING", interfaces.collect()),
        ("EGRET_STEER", steer),
        ("EGRET_DIVERT", vec![format!("-j MARK --set-xmark {mark}"), "-j ACCEPT".to_owned()]),
        ("EGRET_UNSTEERED", unsteered(params, family)),
        ("EGRET_POSTROUTING", tracked(params, family)),
    ]
}

/// Drops what conntrack tracks of the pools, which it does once the raw table has lost its rules: NAT would have it leave from
/// another address.
fn tracked(params: &SteeringParams, family: FamilyTools) -> Vec<String> {
    let transport = transport_match(params);
    let of_pool = |SteeredPool { network, ports }: &SteeredPool| {
        let (network, ports) = (network.trunc(), colon(*ports));
        format!("-s {network} {transport} --sport {ports} -m conntrack ! --ctstate UNTRACKED -j DROP")
    };
    pools(params, family).map(of_pool).collect()
}

/// Counts packets that are not intercepted, and logs a sample. The kernel then forwards them if it may, else drops
/// them.
fn unsteered(params: &SteeringParams, family: FamilyTools) -> Vec<String> {
    let mut rules =
        vec![format!("-m limit --limit 6/min -j LOG --log-prefix \"{LOG_PREFIX}\" --log-level 6")];
    let mut count = |kind, matched: &str| {
        let space = if matched.is_empty() { "" } else { " " };
        rules.push(format!("{matched}{space}{} -j RETURN", counted(kind)));
    };
    count(PacketCounter::Dns, "-p udp -m udp --dport 53");
    count(PacketCounter::Dns, "-p tcp -m tcp --dport 53");
    count(PacketCounter::Ntp, "-p udp -m udp --dport 123");
    for ports in destination_ports(params, "udp") {
        count(PacketCounter::UdpRefused, &ports);
    }
    count(PacketCounter::Tcp, "-p tcp");
    count(PacketCounter::Udp, "-p udp");
    count(PacketCounter::Icmp, &format!("-p {}", family.icmp));
    count(PacketCounter::Other, "");
    rules
}

fn intercepted_ports(params: &SteeringParams) -> Vec<String> {
    destination_ports(params, params.transport.as_str())
}

fn destination_ports(params: &SteeringParams, protocol: &str) -> Vec<String> {
    ports(params, protocol, "--dport")
}

/// Matches the intercepted ports as destination (`--dport`) or source (`--sport`).
fn ports(params: &SteeringParams, protocol: &str, side: &str) -> Vec<String> {
    let Some(ranges) = params.ports.ranges() else { return vec![format!("-p {protocol}")] };
    ranges.into_iter().map(|range| format!("-p {protocol} -m {protocol} {side} {}", colon(range))).collect()
}

/// Matches the intercepted protocol, to be followed by ports.
fn transport_match(params: &SteeringParams) -> String {
    format!("-p {0} -m {0}", params.transport)
}

fn source_ports(params: &SteeringParams) -> Vec<String> {
    ports(params, params.transport.as_str(), "--sport")
}

fn colon(range: PortRange) -> String {
    range.to_string().replace('-', ":")
}

#[cfg(test)]
mod tests {
    use super::super::{InterceptedPorts, tests::params};
    use super::*;

    #[test]
    fn every_intercepted_port_is_dropped_in_forward_too() {
        for family in [V4, V6] {
            let text = render(&params(), family);
            let [forward, listener] = [PacketCounter::NotForwarded, PacketCounter::NoListener].map(counted);
            for ports in ["80", "443", "8000:8010"] {
                for rule in [
                    format!("-A EGRET_REFUSE -p tcp -m tcp --dport {ports} {forward} -j DROP\n"),
                    format!("-A EGRET_STEER -p tcp -m tcp --dport {ports} {listener} -j DROP\n"),
                    format!(
                        "-A EGRET_REFUSE -p udp -m udp --dport {ports} {forward} -j REJECT --reject-with {}\n",
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
    fn reused_port_starts_new_connection() {
        for family in [V4, V6] {
            let text = render(&params(), family);
            let socket_match = text
                .lines()
                .find(|line| line.starts_with("-A EGRET_STEER") && line.contains("-m socket"))
                .unwrap();
            assert!(socket_match.contains("! --tcp-flags FIN,SYN,RST,ACK SYN"), "{socket_match}");
        }
    }

    #[test]
    fn gateway_is_exempt_from_all_ports() {
        let text =
            render(&SteeringParams { ports: InterceptedPorts::All, udp: UdpTreatment::Drop, ..params() }, V4);
        let spared = text.find("-A EGRET_STEER -m addrtype --dst-type LOCAL -j RETURN").unwrap();
        let taken = text.find("-A EGRET_STEER -p tcp -j TPROXY --on-port 15001").unwrap();
        assert!(spared < taken);
        assert!(
            text.contains("-A EGRET_REFUSE -p udp -m comment --comment not_forwarded -j DROP\n"),
            "{text}"
        );
    }

    #[test]
    fn each_family_names_its_own_pools_only() {
        let (v4, v6) = (render(&params(), V4), render(&params(), V6));
        assert!(v4.contains("-d 203.0.113.16/28 -p tcp -m tcp --dport 1024:65535 -j CT --notrack"), "{v4}");
        assert!(v6.contains("-s 2001:db8:100::/64 -p tcp -m tcp --sport 1024:65535 -j CT --notrack"), "{v6}");
        assert!(!v4.contains("2001:") && !v6.contains("203.0"));
    }

    #[test]
    fn tenants_are_not_forwarded_from_any_interface() {
        let (v4, v6) = (render(&params(), V4), render(&params(), V6));
        assert!(v4.contains(
            "-A EGRET_FORWARD -i veth+ -j EGRET_REFUSE\n-A EGRET_FORWARD -s 10.0.1.0/24 -j EGRET_REFUSE\n"
        ));
        assert!(v6.contains("-A EGRET_FORWARD -s fd00:1::7/128 -j EGRET_REFUSE\n"), "{v6}");
        let everybody = SteeringParams { sources: vec!["0.0.0.0/0".parse().unwrap()], ..params() };
        assert!(render(&everybody, V4).contains("-A EGRET_FORWARD -j EGRET_REFUSE\n"));
    }

    #[test]
    fn errors_about_a_connection_reach_its_socket() {
        for (family, types) in [(V4, &[3, 11, 12][..]), (V6, &[1, 2, 3, 4])] {
            let text = render(&params(), family);
            for kind in types {
                let option = if family.v4 { "icmp-type" } else { "icmpv6-type" };
                assert!(
                    text.contains(&format!("--{option} {kind} -m socket --transparent -j EGRET_DIVERT\n"))
                );
            }
        }
    }
}
