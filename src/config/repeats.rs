//! Entries of one list that another entry of it makes superfluous.

use crate::addr::PortRange;
use ipnet::IpNet;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::hash::Hash;

/// An entry of a list, and the entry that covers it, by index. Of equal entries the first covers the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Repeat {
    pub(super) entry: usize,
    pub(super) by: usize,
}

/// Entries equal to an earlier one.
pub(super) fn equal<T: Eq + Hash>(list: &[&T]) -> Vec<Repeat> {
    let mut first = HashMap::new();
    let again = list.iter().enumerate().filter_map(|(entry, value)| {
        let by = *first.entry(value).or_insert(entry);
        (by != entry).then_some(Repeat { entry, by })
    });
    again.collect()
}

/// Longest list of which all pairs are compared.
const SHORT: usize = 1000;

/// Entries that another covers by `covers`; none of a list that is not short.
pub(super) fn covered<T>(list: &[&T], covers: impl Fn(&T, &T) -> bool) -> Vec<Repeat> {
    if list.len() > SHORT {
        return Vec::new();
    }
    let repeat = |(entry, value): (usize, &&T)| {
        let by = list.iter().enumerate().position(|(other, outer)| {
            other != entry && covers(outer, value) && (other < entry || !covers(value, outer))
        })?;
        Some(Repeat { entry, by })
    };
    list.iter().enumerate().filter_map(repeat).collect()
}

/// Ranges that lie within another.
pub(super) fn ranges(list: &[&PortRange]) -> Vec<Repeat> {
    let mut order: Vec<_> = list.iter().map(|range| **range).enumerate().collect();
    order.sort_by_key(|(_, range)| (range.first(), Reverse(range.last())));
    let (mut repeats, mut widest): (_, Option<(usize, PortRange)>) = (Vec::new(), None);
    for (entry, range) in order {
        match widest {
            Some((by, outer)) if range.last() <= outer.last() => repeats.push(Repeat { entry, by }),
            _ => widest = Some((entry, range)),
        }
    }
    repeats
}

/// Networks that lie within another.
pub(super) fn networks(list: &[&IpNet]) -> Vec<Repeat> {
    let entries = list.iter().map(|network| **network).enumerate().collect();
    let found = overlaps(entries, |(_, network)| *network).into_iter();
    found.map(|((by, _), (entry, _))| Repeat { entry, by }).collect()
}

/// Returns each entry whose network lies within another's, with the nearest such other; of equal ones the later in the
/// list counts as the inner. One pass over the sorted networks.
pub(super) fn overlaps<T: Copy>(mut entries: Vec<T>, network: impl Fn(&T) -> IpNet) -> Vec<(T, T)> {
    entries.sort_by_key(|entry| (network(entry).network(), network(entry).prefix_len()));
    let mut found = Vec::new();
    // A stack: each network lies within the one below.
    let mut enclosing: Vec<T> = Vec::new();
    for entry in entries {
        while enclosing.pop_if(|outer| !network(outer).contains(&network(&entry))).is_some() {}
        if let Some(outer) = enclosing.last() {
            found.push((*outer, entry));
        }
        enclosing.push(entry);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn small_network() -> impl Strategy<Value = IpNet> {
        (0..16_u8, 26..=32_u8).prop_map(|(last, prefix)| {
            IpNet::new(std::net::Ipv4Addr::new(192, 0, 2, last * 16).into(), prefix).unwrap().trunc()
        })
    }

    fn small_range() -> impl Strategy<Value = PortRange> {
        (1..6_u16, 0..4_u16).prop_map(|(first, more)| PortRange::new(first, first + more).unwrap())
    }

    /// The entries found, which must be those that a search of all pairs finds.
    fn is_exact<T>(list: &[&T], found: &[Repeat], covers: impl Fn(&T, &T) -> bool) -> bool {
        let entries = |repeats: &[Repeat]| {
            let mut entries: Vec<_> = repeats.iter().map(|repeat| repeat.entry).collect();
            entries.sort_unstable();
            entries
        };
        found.iter().all(|Repeat { entry, by }| covers(list[*by], list[*entry]))
            && entries(found) == entries(&covered(list, covers))
    }

    proptest! {
        #[test]
        fn repeats_match_naive_search(
            networks in proptest::collection::vec(small_network(), 0..12),
            ranges in proptest::collection::vec(small_range(), 0..8),
        ) {
            let networks: Vec<_> = networks.iter().collect();
            prop_assert!(is_exact(&networks, &super::networks(&networks), |outer, inner| outer.contains(inner)));
            let ranges: Vec<_> = ranges.iter().collect();
            let covers = |outer: &PortRange, inner: &PortRange| {
                outer.contains(inner.first()) && outer.contains(inner.last())
            };
            prop_assert!(is_exact(&ranges, &super::ranges(&ranges), covers));
            prop_assert!(is_exact(&ranges, &equal(&ranges), |a, b| a == b));
        }
    }
}
