//! Index from hostnames to the rules that name them, for a million names.

use crate::hostname::{HostPattern, Hostname};
use hashbrown::DefaultHashBuilder;
use hashbrown::hash_table::{Entry, HashTable};
use std::hash::BuildHasher;

/// Lists of rules, each in ascending order, that share one allocation.
#[derive(Debug, Default)]
pub(super) struct RuleChains(Vec<ChainLink>);

/// A list of rules. Most names are in one rule, which is then the list: a value below [`LINK`] is that rule, others
/// are the position of its first link in [`RuleChains`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RuleChain(u32);

const LINK: u32 = 1 << 31;

#[derive(Debug)]
struct ChainLink {
    rule: u32,
    next: RuleChain,
}

/// A count has outgrown 32 bits.
#[derive(Debug)]
pub(super) struct CountOverflow;

impl RuleChain {
    /// No rule.
    pub(super) const EMPTY: Self = Self(u32::MAX);
}

impl RuleChains {
    /// Puts a rule in front. Rules come in descending order; a rule that is in front already is not added again.
    pub(super) fn prepend(&mut self, chain: &mut RuleChain, rule: u32) -> Result<(), CountOverflow> {
        if rule >= LINK {
            return Err(CountOverflow);
        }
        if *chain == RuleChain::EMPTY {
            *chain = RuleChain(rule);
        } else if self.iter(*chain).next() != Some(rule) {
            let link = u32::try_from(self.0.len()).ok().and_then(|at| LINK.checked_add(at));
            let head = RuleChain(link.ok_or(CountOverflow)?);
            if head == RuleChain::EMPTY {
                return Err(CountOverflow);
            }
            self.0.push(ChainLink { rule, next: *chain });
            *chain = head;
        }
        Ok(())
    }

    /// The rules of a list, in ascending order.
    pub(super) fn iter(&self, mut chain: RuleChain) -> impl Iterator<Item = u32> {
        std::iter::from_fn(move || {
            if chain.0 < LINK {
                return Some(std::mem::replace(&mut chain, RuleChain::EMPTY).0);
            }
            // `EMPTY` is beyond the last link.
            let link = self.0.get((chain.0 - LINK) as usize)?;
            chain = link.next;
            Some(link.rule)
        })
    }

    pub(super) fn shrink(&mut self) {
        self.0.shrink_to_fit();
    }
}

/// Maps names to the rules that name them or their subdomains. A name costs its own bytes once, 16 bytes and a slot of
/// the table, and 8 bytes for each rule beyond the first: no allocation of its own.
#[derive(Debug, Default)]
pub(super) struct NameIndex {
    table: HashTable<IndexedName>,
    /// Label counts of the names in exact patterns, and of those in subdomain patterns: at a million names each look-up
    /// waits for memory, and these spare most of them.
    exact: LabelDepths,
    subdomains: LabelDepths,
    /// All names, concatenated.
    text: String,
    /// Keyed at random for each index, so that names that collide cannot be chosen.
    hasher: DefaultHashBuilder,
}

/// A set of label counts. A name of 253 characters has at most 127 labels.
#[derive(Debug, Default, Clone, Copy)]
struct LabelDepths(u128);

impl LabelDepths {
    fn insert(&mut self, labels: usize) {
        self.0 |= 1 << labels;
    }

    fn contain(self, labels: usize) -> bool {
        self.0 >> labels & 1 == 1
    }
}

fn labels(name: &str) -> usize {
    1 + name.bytes().filter(|&b| b == b'.').count()
}

/// `start + len <= text.len()`; a canonical name has at most 253 characters.
#[derive(Debug)]
struct IndexedName {
    start: u32,
    len: u8,
    exact: RuleChain,
    subdomains: RuleChain,
}

impl IndexedName {
    fn of<'t>(&self, text: &'t str) -> &'t str {
        &text[self.start as usize..][..usize::from(self.len)]
    }
}

impl NameIndex {
    /// Creates an index with room for so many patterns.
    pub(super) fn with_capacity(patterns: usize) -> Self {
        Self { table: HashTable::with_capacity(patterns), ..Self::default() }
    }

    /// Adds a rule's pattern. Rules come in descending order.
    pub(super) fn insert(
        &mut self,
        pattern: &HostPattern,
        rule: u32,
        chains: &mut RuleChains,
    ) -> Result<(), CountOverflow> {
        let (name, exact) = match pattern {
            HostPattern::Exact(name) => (name.as_str(), true),
            HostPattern::Subdomains(apex) => (apex.as_str(), false),
        };
        let depths = if exact { &mut self.exact } else { &mut self.subdomains };
        depths.insert(labels(name));
        let Self { text, table, hasher, .. } = self;
        let same = |named: &IndexedName| named.of(text) == name;
        let rehash = |named: &IndexedName| hasher.hash_one(named.of(text));
        let mut entry = match table.entry(hasher.hash_one(name), same, rehash) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(entry) => {
                let start = u32::try_from(text.len()).map_err(|_| CountOverflow)?;
                let len = u8::try_from(name.len()).map_err(|_| CountOverflow)?;
                text.push_str(name);
                entry.insert(IndexedName {
                    start,
                    len,
                    exact: RuleChain::EMPTY,
                    subdomains: RuleChain::EMPTY,
                })
            }
        };
        let named = entry.get_mut();
        chains.prepend(if exact { &mut named.exact } else { &mut named.subdomains }, rule)
    }

    /// Calls `each` with the rules that have a pattern for the name: for itself, and for each of its parents.
    pub(super) fn each_covering(&self, name: &Hostname, mut each: impl FnMut(RuleChain)) {
        let name = name.as_str();
        // From the right, so that one pass finds the parents and counts the labels.
        let mut labels = 0;
        for (dot, _) in name.bytes().enumerate().rev().filter(|(_, byte)| *byte == b'.') {
            labels += 1;
            if self.subdomains.contain(labels)
                && let Some(named) = self.find(&name[dot + 1..])
            {
                each(named.subdomains);
            }
        }
        if self.exact.contain(labels + 1)
            && let Some(named) = self.find(name)
        {
            each(named.exact);
        }
    }

    fn find(&self, name: &str) -> Option<&IndexedName> {
        self.table.find(self.hasher.hash_one(name), |named| named.of(&self.text) == name)
    }

    /// Frees reserved memory that is not used.
    pub(super) fn shrink(&mut self) {
        let Self { text, table, hasher, .. } = self;
        text.shrink_to_fit();
        table.shrink_to_fit(|named| hasher.hash_one(named.of(text)));
    }
}
