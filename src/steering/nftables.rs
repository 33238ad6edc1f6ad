//! Packet rules for `nft -f`: a table of its own, replaced in one transaction.
//!
//! Written as `nft list` prints them, so that `egret steering status` compares line by line.

use super::{Interface, Params, Pool, Udp};
use std::fmt::Write as _;

/// The table that is ours.
pub(super) const TABLE: &str = "inet egret";

pub(super) fn render(params: &Params) -> String {
    // Deleting fails where there is nothing, hence `add` before it.
    let mut text = format!("add table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\n");
    for (name, hook, rules) in [
        ("untrack_in", "prerouting priority raw", untrack_in(params)),
        ("untrack_out", "output priority raw", untrack_out(params)),
        ("steer", "prerouting priority mangle", steer(params)),
        ("refuse", "forward priority filter", refuse(params)),
    ] {
        let _ = writeln!(text, "\tchain {name} {{\n\t\ttype filter hook {hook}; policy accept;");
        for rule in rules {
            let _ = writeln!(text, "\t\t{rule}");
        }
        text += "\t}\n";
    }
    text + "}\n"
}

fn steer(params: &Params) -> Vec<String> {
    let tcp = destination_ports(params, "tcp");
    let mark = format!("meta mark set meta mark | {:#010x}", params.mark);
    let port = params.listen_port;
    vec![
        format!("iifname != {} accept", names(&params.interfaces)),
        format!("meta l4proto tcp socket transparent 1 socket wildcard 0 {mark} accept"),
        "fib daddr type { local, broadcast, multicast } accept".to_owned(),
        format!("meta nfproto ipv4 {tcp} tproxy ip to :{port} {mark} accept"),
        format!("meta nfproto ipv6 {tcp} tproxy ip6 to :{port} {mark} accept"),
        // Without a listener `tproxy` does not match and the packet comes here. Without this line it would be forwarded.
        format!("{tcp} drop"),
        format!("{} {}", destination_ports(params, "udp"), udp(params)),
    ]
}

fn refuse(params: &Params) -> Vec<String> {
    vec![
        format!("iifname != {} accept", names(&params.interfaces)),
        format!("{} drop", destination_ports(params, "tcp")),
        format!("{} {}", destination_ports(params, "udp"), udp(params)),
    ]
}

fn untrack_in(params: &Params) -> Vec<String> {
    let (interfaces, ports) = (names(&params.interfaces), destination_ports(params, "tcp"));
    let mut rules = vec![format!("iifname {interfaces} {ports} fib daddr type != local notrack")];
    rules.extend(params.pools.iter().map(|pool| format!("{} notrack", pool_match(pool, 'd'))));
    rules
}

fn untrack_out(params: &Params) -> Vec<String> {
    let interfaces = names(&params.interfaces);
    let ports = destination_ports(params, "tcp").replace("tcp dport", "tcp sport");
    let mut rules = vec![format!("oifname {interfaces} {ports} fib saddr type != local notrack")];
    rules.extend(params.pools.iter().map(|pool| format!("{} notrack", pool_match(pool, 's'))));
    rules
}

/// `side` is `d`estination or `s`ource. A single address is listed without its prefix length.
fn pool_match(pool: &Pool, side: char) -> String {
    let (network, ports) = (pool.network.trunc(), pool.ports);
    let family = if network.addr().is_ipv4() { "ip" } else { "ip6" };
    let single = network.prefix_len() == network.max_prefix_len();
    let network = if single { network.addr().to_string() } else { network.to_string() };
    format!("{family} {side}addr {network} tcp {side}port {ports}")
}

fn udp(params: &Params) -> &'static str {
    match params.udp {
        Udp::Reject => "reject", // in an inet table: ICMP or ICMPv6 port unreachable
        Udp::Drop => "drop",
    }
}

fn destination_ports(params: &Params, protocol: &str) -> String {
    match params.ports.ranges() {
        None => format!("meta l4proto {protocol}"),
        Some(ranges) => format!("{protocol} dport {}", set(&ranges)),
    }
}

fn names(interfaces: &[Interface]) -> String {
    let mut quoted: Vec<_> = interfaces.iter().map(|name| format!("\"{name}\"")).collect();
    quoted.sort_unstable();
    set(&quoted)
}

/// One element needs no braces, and `nft list` prints none.
fn set<T: ToString>(elements: &[T]) -> String {
    match elements {
        [one] => one.to_string(),
        many => format!("{{ {} }}", many.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Ports, tests::params};
    use super::*;

    #[test]
    fn what_tproxy_does_not_take_is_dropped_at_once() {
        for ports in [params().ports, Ports::All] {
            let text = render(&Params { ports, ..params() });
            let lines: Vec<_> = text.lines().map(str::trim).collect();
            let last = lines.iter().rposition(|line| line.contains("tproxy")).unwrap();
            assert!(lines[last + 1].ends_with(" drop"), "{text}");
            let forward = lines.iter().position(|line| line.contains("hook forward")).unwrap();
            assert!(lines[forward + 2].ends_with(" drop"), "{text}");
        }
    }

    #[test]
    fn the_table_is_replaced_in_one_transaction() {
        let text = render(&params());
        assert!(
            text.starts_with("add table inet egret\ndelete table inet egret\ntable inet egret {\n"),
            "{text}"
        );
        assert!(text.contains("iifname != { \"br-a.7\", \"ens6\" } accept"), "{text}");
        assert!(text.contains("ip saddr 203.0.113.99 tcp sport 1024-65535 notrack"), "{text}");
    }
}
