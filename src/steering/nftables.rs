//! Packet rules for `nft -f`: a table of its own, replaced in one transaction.
//!
//! Written as `nft list` prints them, so that `egret steering status` compares line by line.

use super::params::LOG_PREFIX;
use super::{PacketCounter, SteeredPool, SteeringParams, UdpTreatment};
use crate::addr::listed;
use crate::interface::Interface;
use std::fmt::Write as _;

/// Family and name of our table.
pub(super) const TABLE: &str = "inet egret";

pub(super) fn render(params: &SteeringParams) -> String {
    // `add` comes first, because deleting a missing table fails.
    let mut text = format!("add table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\n");
    for counted in PacketCounter::ALL {
        let _ = writeln!(text, "\tcounter {} {{\n\t}}", counted.as_str());
    }
    for (name, hook, rules) in [
        ("untrack_in", Some("prerouting priority raw"), untrack_in(params)),
        ("untrack_out", Some("output priority raw"), untrack_out(params)),
        ("steer", Some("prerouting priority mangle"), steer(params)),
        ("refuse", Some("forward priority filter"), refuse(params)),
        ("input", Some("input priority filter"), input(params)),
        ("tracked", Some("postrouting priority mangle"), tracked(params)),
        ("refuse_ports", None, refuse_ports(params)),
        ("unsteered", None, unsteered(params)),
    ] {
        let _ = writeln!(text, "\tchain {name} {{");
        if let Some(hook) = hook {
            let _ = writeln!(text, "\t\ttype filter hook {hook}; policy accept;");
        }
        for rule in rules {
            let _ = writeln!(text, "\t\t{rule}");
        }
        text += "\t}\n";
    }
    text + "}\n"
}

/// Matches for the ICMP errors that TCP acts on (`tcp_v4_err()`, `tcp_v6_err()`).
const ERRORS: [&str; 2] = [
    "icmp type { destination-unreachable, time-exceeded, parameter-problem }",
    "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem }",
];

fn steer(params: &SteeringParams) -> Vec<String> {
    let (transport, ports) = (params.transport, intercepted_ports(params));
    let mark = format!("meta mark set meta mark | {:#010x}", params.mark);
    let port = params.listen_port;
    let ours = format!("socket transparent 1 socket wildcard 0 {mark} accept");
    vec![
        format!("{} accept", other_interfaces(&params.interfaces)),
        format!("meta l4proto {transport} {ours}"),
        // ICMP errors about the client's leg have the server's address as destination.
        format!("{} {ours}", ERRORS[0]),
        format!("{} {ours}", ERRORS[1]),
        format!("meta l4proto {transport} fib saddr type local {} drop", counted(PacketCounter::OwnSource)),
        "fib daddr type { local, broadcast, multicast } accept".to_owned(),
        format!("meta nfproto ipv4 {ports} tproxy ip to :{port} {mark} accept"),
        format!("meta nfproto ipv6 {ports} tproxy ip6 to :{port} {mark} accept"),
        // Without a listener `tproxy` does not match. Without this rule the packet would be forwarded.
        format!("{ports} {} drop", counted(PacketCounter::NoListener)),
        "jump unsteered".to_owned(),
        format!("{} {}", destination_ports(params, "udp"), udp(params)),
    ]
}

/// Keeps what should be intercepted from being forwarded: neither from the steered interfaces, nor from tenants whose packets
/// arrive on others.
fn refuse(params: &SteeringParams) -> Vec<String> {
    let sources = params.sources.iter().map(|source| {
        let v4 = source.addr().is_ipv4();
        match (source.prefix_len(), v4) {
            (0, true) => "meta nfproto ipv4".to_owned(),
            (0, false) => "meta nfproto ipv6".to_owned(),
            (_, true) => format!("ip saddr {}", listed(*source)),
            (_, false) => format!("ip6 saddr {}", listed(*source)),
        }
    });
    // A rule for each, by which the gateway sees that they are there.
    let (patterns, names) = quoted(&params.interfaces);
    let steered = patterns.into_iter().chain(names).map(|name| format!("iifname {name}"));
    steered.chain(sources).map(|matched| format!("{matched} jump refuse_ports")).collect()
}

fn refuse_ports(params: &SteeringParams) -> Vec<String> {
    let count = counted(PacketCounter::NotForwarded);
    vec![
        format!("{} {count} drop", intercepted_ports(params)),
        format!("{} {count} {}", destination_ports(params, "udp"), udp(params)),
    ]
}

/// Rejects connections of the machine's own to the listener: they could only make the gateway dial itself.
fn input(params: &SteeringParams) -> Vec<String> {
    vec![format!("iifname \"lo\" tcp dport {} reject with tcp reset", params.listen_port)]
}

/// Counts packets that are not intercepted, and logs a sample. The kernel then forwards them if it may, else drops
/// them.
fn unsteered(params: &SteeringParams) -> Vec<String> {
    let udp = destination_ports(params, "udp");
    let mut rules = vec![format!("limit rate 6/minute log prefix \"{LOG_PREFIX}\" level info")];
    let counts = [
        (PacketCounter::Dns, "udp dport 53"),
        (PacketCounter::Dns, "tcp dport 53"),
        (PacketCounter::Ntp, "udp dport 123"),
        (PacketCounter::UdpRefused, &*udp),
        (PacketCounter::Tcp, "meta l4proto tcp"),
        (PacketCounter::Udp, "meta l4proto udp"),
        (PacketCounter::Icmp, "meta l4proto { icmp, ipv6-icmp }"),
    ];
    rules.extend(counts.map(|(kind, matched)| format!("{matched} {} return", counted(kind))));
    rules.push(counted(PacketCounter::Other));
    rules
}

fn counted(counted: PacketCounter) -> String {
    format!("counter name \"{}\"", counted.as_str())
}

fn untrack_in(params: &SteeringParams) -> Vec<String> {
    let ports = intercepted_ports(params);
    let steered = interfaces(&params.interfaces, "iifname").into_iter();
    let mut rules: Vec<_> =
        steered.map(|matched| format!("{matched} {ports} fib daddr type != local notrack")).collect();
    rules.extend(params.pools.iter().map(|pool| format!("{} notrack", pool_match(params, pool, 'd'))));
    // Conntrack calls an error about what it does not know invalid, which many firewalls drop.
    rules.extend(ERRORS.map(|errors| format!("{errors} socket transparent 1 socket wildcard 0 notrack")));
    rules.extend(params.pools.iter().map(|pool| {
        let network = pool.network.trunc();
        let (family, errors) = if network.addr().is_ipv4() { ("ip", ERRORS[0]) } else { ("ip6", ERRORS[1]) };
        format!("{family} daddr {} {errors} socket wildcard 0 notrack", listed(network))
    }));
    rules
}

fn untrack_out(params: &SteeringParams) -> Vec<String> {
    let ports = ports(params, params.transport.as_str(), "sport");
    let steered = interfaces(&params.interfaces, "oifname").into_iter();
    let mut rules: Vec<_> =
        steered.map(|matched| format!("{matched} {ports} fib saddr type != local notrack")).collect();
    rules.extend(params.pools.iter().map(|pool| format!("{} notrack", pool_match(params, pool, 's'))));
    rules
}

/// Drops what conntrack tracks of the pools, which it does once `untrack_out` is lost: NAT would have it leave from another
/// address.
fn tracked(params: &SteeringParams) -> Vec<String> {
    let of_pool = |pool| format!("{} ct state != untracked drop", pool_match(params, pool, 's'));
    params.pools.iter().map(of_pool).collect()
}

/// Matches a pool as destination (`side` is `d`) or source (`s`).
fn pool_match(params: &SteeringParams, pool: &SteeredPool, side: char) -> String {
    let (network, ports) = (pool.network.trunc(), pool.ports);
    let family = if network.addr().is_ipv4() { "ip" } else { "ip6" };
    format!("{family} {side}addr {} {} {side}port {ports}", listed(network), params.transport)
}

fn udp(params: &SteeringParams) -> &'static str {
    match params.udp {
        UdpTreatment::Reject => "reject", // in an inet table: ICMP or ICMPv6 port unreachable
        UdpTreatment::Drop => "drop",
    }
}

fn intercepted_ports(params: &SteeringParams) -> String {
    destination_ports(params, params.transport.as_str())
}

fn destination_ports(params: &SteeringParams, protocol: &str) -> String {
    ports(params, protocol, "dport")
}

/// Matches the intercepted ports as destination (`dport`) or source (`sport`).
fn ports(params: &SteeringParams, protocol: &str, side: &str) -> String {
    match params.ports.ranges() {
        None => format!("meta l4proto {protocol}"),
        Some(ranges) => format!("{protocol} {side} {}", set(&ranges)),
    }
}

/// One match for all names, and one for each pattern, since nft before 1.0.2 allows no patterns in a set.
fn interfaces(interfaces: &[Interface], key: &str) -> Vec<String> {
    let (patterns, names) = quoted(interfaces);
    let names = (!names.is_empty()).then(|| format!("{key} {}", set(&names)));
    patterns.into_iter().map(|pattern| format!("{key} {pattern}")).chain(names).collect()
}

/// Matches packets that arrive on none of them.
fn other_interfaces(interfaces: &[Interface]) -> String {
    let (patterns, names) = quoted(interfaces);
    let names = (!names.is_empty()).then(|| format!("iifname != {}", set(&names)));
    let others = patterns.into_iter().map(|pattern| format!("iifname != {pattern}")).chain(names);
    others.collect::<Vec<_>>().join(" ")
}

/// Quoted patterns and names, each sorted.
fn quoted(interfaces: &[Interface]) -> (Vec<String>, Vec<String>) {
    let mut sorted: Vec<_> = interfaces.iter().collect();
    sorted.sort_unstable();
    sorted.dedup();
    let (patterns, names): (Vec<&Interface>, Vec<_>) = sorted.into_iter().partition(|one| one.is_pattern());
    let quote = |some: Vec<&Interface>| some.iter().map(|one| format!("\"{one}\"")).collect();
    (quote(patterns), quote(names))
}

/// An nft set; a single element without braces, as `nft list` prints it.
fn set<T: ToString>(elements: &[T]) -> String {
    match elements {
        [one] => one.to_string(),
        many => format!("{{ {} }}", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{InterceptedPorts, tests::params};
    use super::*;

    #[test]
    fn packets_tproxy_misses_are_dropped() {
        for ports in [params().ports, InterceptedPorts::All] {
            let text = render(&SteeringParams { ports, ..params() });
            let lines: Vec<_> = text.lines().map(str::trim).collect();
            let last = lines.iter().rposition(|line| line.contains("tproxy")).unwrap();
            assert!(lines[last + 1].ends_with(" drop"), "{text}");
            let forward = lines.iter().position(|line| line.contains("hook forward")).unwrap();
            assert!(lines[forward + 1].ends_with("iifname \"veth*\" jump refuse_ports"), "{text}");
            let refused = lines.iter().position(|line| *line == "chain refuse_ports {").unwrap();
            assert!(lines[refused + 1].ends_with(" drop"), "{text}");
        }
    }

    #[test]
    fn table_is_replaced_in_one_transaction() {
        let text = render(&params());
        assert!(
            text.starts_with("add table inet egret\ndelete table inet egret\ntable inet egret {\n"),
            "{text}"
        );
        assert!(text.contains("iifname != \"veth*\" iifname != { \"br-a.7\", \"ens6\" } accept"), "{text}");
        assert!(text.contains("ip saddr 203.0.113.99 tcp sport 1024-65535 notrack"), "{text}");
    }
}
