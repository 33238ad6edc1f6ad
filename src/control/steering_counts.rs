//! Packets that steering has dropped or not intercepted, for the metrics.

use crate::steering::{COUNTED_CHAINS, NFT_TABLE, PacketCounter};
use crate::sys::packet_rules::TableFamily;
use crate::sys::packet_rules::counts::{of_chain, of_table};
use std::io;

type Counts = Vec<(String, u64)>;

/// Packets of each kind; empty if the rules are not in nf_tables, or some of them cannot be read. A sum without those would
/// look like a restart of the counter.
pub(crate) fn counts() -> Vec<(&'static str, u64)> {
    let table = std::iter::once_with(|| of_table(TableFamily::Inet, NFT_TABLE));
    let chains = [TableFamily::Ip, TableFamily::Ip6].into_iter().flat_map(|family| {
        COUNTED_CHAINS.into_iter().map(move |(table, chain)| of_chain(family, table, chain))
    });
    sums(table.chain(chains)).unwrap_or_default()
}

/// Sums by kind. A chain that does not exist has counted nothing; any other error is that of the sum.
fn sums(read: impl Iterator<Item = io::Result<Counts>>) -> io::Result<Vec<(&'static str, u64)>> {
    let mut all = Counts::new();
    for counts in read {
        match counts {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            counts => all.extend(counts?),
        }
    }
    if all.is_empty() {
        return Ok(Vec::new());
    }
    let sum = |kind: &str| all.iter().filter(|(name, _)| name == kind).map(|(_, packets)| packets).sum();
    Ok(PacketCounter::ALL.iter().map(|kind| (kind.as_str(), sum(kind.as_str()))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sum_without_a_chain_is_none() {
        let kind = PacketCounter::ALL[0].as_str();
        let counted = |packets| Ok(vec![(kind.to_owned(), packets)]);
        let fails = |errno| Err(io::Error::from_raw_os_error(errno));
        let sum = |read: Vec<io::Result<Counts>>| sums(read.into_iter());
        assert_eq!(sum(vec![counted(3), fails(libc::ENOENT), counted(4)]).unwrap()[0], (kind, 7));
        assert_eq!(
            sum(vec![counted(3), fails(libc::EINTR), counted(4)]).unwrap_err().raw_os_error(),
            Some(libc::EINTR)
        );
        assert_eq!(sum(vec![fails(libc::ENOENT)]).unwrap(), []);
    }
}
