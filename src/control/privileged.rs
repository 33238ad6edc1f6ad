//! Ports that a process without `CAP_NET_BIND_SERVICE` cannot bind.

use crate::addr::PortRange;
use std::fs;

/// `CAP_NET_BIND_SERVICE` in `linux/capability.h`.
const NET_BIND_SERVICE: u32 = 10;

/// Ports of the ranges that this process may not bind, in order.
pub(crate) fn privileged(ranges: &[PortRange]) -> Vec<u16> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    if may_bind_all(&status) { Vec::new() } else { below(first_of_all(&first), ranges) }
}

fn may_bind_all(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    bits.is_some_and(|bits| bits >> NET_BIND_SERVICE & 1 == 1)
}

/// The kernel's default is 1024.
fn first_of_all(setting: &str) -> u16 {
    setting.trim().parse().unwrap_or(1024)
}

fn below(first: u16, ranges: &[PortRange]) -> Vec<u16> {
    (1..first).filter(|port| ranges.iter().any(|range| range.contains(*port))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capability_is_read_from_the_effective_set() {
        assert!(may_bind_all("CapInh:\t0000000000000000\nCapEff:\t0000000000000400\n"));
        assert!(!may_bind_all("CapPrm:\t0000000000000400\nCapEff:\t0000000000001000\n"));
        assert!(!may_bind_all(""));
    }

    #[test]
    fn privileged_ports_are_left_out() {
        let ranges = [(1000, 1040), (5, 6)].map(|(first, last)| PortRange::new(first, last).unwrap());
        assert_eq!(below(1002, &ranges), [5, 6, 1000, 1001]);
        assert!(below(0, &ranges).is_empty());
        assert_eq!((first_of_all("80\n"), first_of_all("")), (80, 1024));
    }
}
