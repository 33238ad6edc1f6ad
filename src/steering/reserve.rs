//! Ports that the kernel must not choose by itself.

use crate::addr::PortRange;

/// The default of `net.ipv4.ip_local_port_range`: 32768 to 60999.
#[expect(clippy::missing_panics_doc, reason = "the range is not empty")]
pub fn default_ephemeral() -> PortRange {
    PortRange::new(32768, 60999).expect("not empty")
}

/// Ports at the upper end of the ephemeral range that stay free for the machine's own programs.
const HOST_PORTS: u16 = 4096;

/// The pools' ports without the host's own; disjoint ranges in order.
///
/// Automatic choice skips every port that is bound explicitly on any address, so that it is slow and fails where pools are
/// busy: those ports are reserved. A pool of 1024 to 65535 would reserve everything, and the host could not even query its
/// DNS server: hence its own ports. Pools hand those out too, without collisions, because the host's sockets have other
/// addresses.
pub fn reserved_ports(pools: &[PortRange], ephemeral: PortRange) -> Vec<PortRange> {
    let host_first = ephemeral.last().saturating_sub(HOST_PORTS - 1).max(ephemeral.first());
    let mut reserved = Vec::new();
    for range in PortRange::merged(pools) {
        let below = PortRange::new(range.first(), range.last().min(host_first - 1));
        let above_first = range.first().max(ephemeral.last().saturating_add(1));
        let above = PortRange::new(above_first, range.last()).filter(|_| ephemeral.last() < u16::MAX);
        reserved.extend(below.into_iter().chain(above));
    }
    reserved
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(first: u16, last: u16) -> PortRange {
        PortRange::new(first, last).unwrap()
    }

    #[test]
    fn host_keeps_own_ports() {
        let all = reserved_ports(&[range(1024, 65535)], default_ephemeral());
        assert_eq!(all, [range(1024, 56903), range(61000, 65535)]);
        let whole = reserved_ports(&[range(1024, 65535)], range(1024, 65535));
        assert_eq!(whole, [range(1024, 61439)]);
        let tiny = reserved_ports(&[range(1024, 65535)], range(2000, 2001));
        assert_eq!(tiny, [range(1024, 1999), range(2002, 65535)]);
        let low = reserved_ports(&[range(1, 9)], range(1, 9));
        assert_eq!(low, []);
    }

    #[test]
    fn separate_pool_is_reserved_whole() {
        assert_eq!(reserved_ports(&[range(10000, 20000)], default_ephemeral()), [range(10000, 20000)]);
        assert_eq!(reserved_ports(&[range(57000, 58000)], default_ephemeral()), []);
    }
}
