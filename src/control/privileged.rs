//! Ports that a process without `CAP_NET_BIND_SERVICE` cannot bind.

use crate::addr::PortRange;
use crate::sys::privileges::{Capability, first_unprivileged_port};
use std::fs;

/// Ports of the ranges that this process may not bind, in order.
pub(crate) fn privileged(ranges: &[PortRange]) -> Vec<u16> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let may_bind_all = Capability::NetBindService.is_effective(&status);
    if may_bind_all { Vec::new() } else { below(first_unprivileged_port(), ranges) }
}

fn below(first: u16, ranges: &[PortRange]) -> Vec<u16> {
    (1..first).filter(|port| ranges.iter().any(|range| range.contains(*port))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privileged_ports_are_left_out() {
        let ranges = [(1000, 1040), (5, 6)].map(|(first, last)| PortRange::new(first, last).unwrap());
        assert_eq!(below(1002, &ranges), [5, 6, 1000, 1001]);
        assert!(below(0, &ranges).is_empty());
    }
}
