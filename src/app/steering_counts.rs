//! Packets that steering has dropped or not intercepted, for the metrics.

use crate::steering::{COUNTED_CHAINS, COUNTED_TABLE, Counted};
use crate::sys::packet_rules::TableFamily;
use crate::sys::packet_rules::counts::{of_chain, of_table};

/// Packets of each kind; empty if the rules are not in nf_tables or cannot be read.
pub(super) fn counts() -> Vec<(&'static str, u64)> {
    let mut all = of_table(TableFamily::Inet, COUNTED_TABLE).unwrap_or_default();
    for family in [TableFamily::Ip, TableFamily::Ip6] {
        for (table, chain) in COUNTED_CHAINS {
            all.extend(of_chain(family, table, chain).unwrap_or_default());
        }
    }
    if all.is_empty() {
        return Vec::new();
    }
    let sum = |kind: &str| all.iter().filter(|(name, _)| name == kind).map(|(_, packets)| packets).sum();
    Counted::ALL.iter().map(|kind| (kind.as_str(), sum(kind.as_str()))).collect()
}
