//! The ports that an address hands out, numbered without gaps.

use super::share_table::ShareTable;
use crate::addr::{PortRange, SourceAddr};
use std::sync::Arc;

/// The ports of a range without the reserved ones; the n-th is slot n of a [`super::port_set::PortSet`].
#[derive(Debug)]
pub(super) struct PortSpace {
    range: PortRange,
    /// Reserved ports within the range, ascending, no duplicates.
    reserved: Box<[u16]>,
    /// For each reserved port, the first slot behind it. Ascending, perhaps with duplicates.
    behind: Box<[u16]>,
    capacity: u16,
    /// Sequence number of the configuration; an account follows the newest it has seen.
    pub(super) generation: u64,
    /// Addresses that the configuration drains.
    pub(super) drain: Vec<SourceAddr>,
    /// Counts of the tenants' busy ports; `None` if no tenant of the pool has a floor or a ceiling.
    pub(super) shares: Option<Arc<ShareTable>>,
}

impl PortSpace {
    pub(super) fn new(range: PortRange, reserved: &[u16], generation: u64) -> Self {
        let mut reserved: Vec<u16> = reserved.iter().copied().filter(|&p| range.contains(p)).collect();
        reserved.sort_unstable();
        reserved.dedup();
        let behind = (0u16..).zip(&reserved).map(|(n, &port)| port - range.first() - n).collect();
        // a range holds at most 65,535 ports, because it never contains port 0
        let capacity = u16::try_from(range.count()).unwrap_or(u16::MAX)
            - u16::try_from(reserved.len()).unwrap_or(u16::MAX);
        Self {
            range,
            reserved: reserved.into(),
            behind,
            capacity,
            generation,
            drain: Vec::new(),
            shares: None,
        }
    }

    /// Number of ports.
    pub(super) fn capacity(&self) -> u16 {
        self.capacity
    }

    /// Port of a slot below the capacity.
    pub(super) fn port(&self, slot: u16) -> u16 {
        let passed = self.behind.partition_point(|&behind| behind <= slot);
        self.range.first() + slot + u16::try_from(passed).unwrap_or(u16::MAX)
    }

    /// Slot of a port; `None` if it is outside the range or reserved.
    pub(super) fn slot(&self, port: u16) -> Option<u16> {
        if !self.range.contains(port) {
            return None;
        }
        let passed = self.reserved.binary_search(&port).err()?;
        Some(port - self.range.first() - u16::try_from(passed).ok()?)
    }

    /// True if both hold the same ports, whatever the generation.
    pub(super) fn same_ports(&self, other: &Self) -> bool {
        self.range == other.range && self.reserved == other.reserved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_number_the_ports_that_are_not_reserved() {
        for (first, last, reserved) in [
            (1, 65535, vec![]),
            (1024, 65535, vec![15001, 9915, 15001, 80]),
            (10, 20, vec![10, 11, 15, 20]),
            (10, 12, vec![10, 11, 12]),
            (7, 7, vec![]),
            (65535, 65535, vec![65535]),
        ] {
            let range = PortRange::new(first, last).unwrap();
            let space = PortSpace::new(range, &reserved, 0);
            let expected: Vec<u16> = (first..=last).filter(|p| !reserved.contains(p)).collect();
            let ports: Vec<u16> = (0..space.capacity()).map(|slot| space.port(slot)).collect();
            assert_eq!(ports, expected);
            for port in 0..=u16::MAX {
                let slot = expected.binary_search(&port).ok().map(|n| u16::try_from(n).unwrap());
                assert_eq!(space.slot(port), slot, "port {port} of {range}");
            }
        }
    }
}
