//! Which rules of a tenant have which host patterns.

use crate::hostname::HostPattern;
use crate::policy::RuleSpec;
use hashbrown::HashMap;

/// A rule that has a pattern. Of rules that have it with the same reach, and decide alike, the first is enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PatternHolder {
    /// 0: any name.
    pattern: u32,
    reach: u32,
    kind: u8,
    rule: u32,
}

impl PatternHolder {
    pub(super) fn reach(&self) -> usize {
        self.reach as usize
    }

    pub(super) fn rule(&self) -> usize {
        self.rule as usize
    }
}

/// Index from host patterns to the rules of a tenant that contain them.
pub(super) struct HostIndex<'a> {
    /// Numbers a name, and true if its subdomains are meant, from 1, with the last rule that has the pattern.
    patterns: HashMap<(&'a str, bool), (u32, u32)>,
    /// In order.
    holders: Vec<PatternHolder>,
    /// Where the holders of each pattern begin, and where the last ones end.
    starts: Vec<u32>,
    /// By rule: number of its duplicate names, and one of them.
    duplicates: HashMap<u32, (usize, &'a HostPattern)>,
}

impl<'a> HostIndex<'a> {
    /// `of` returns the number of a rule's reach, and a number for how it decides.
    pub(super) fn new(rules: &'a [RuleSpec], of: impl Fn(usize) -> (usize, u8)) -> Self {
        let total = rules.iter().map(|rule| rule.hosts.len().max(1)).sum();
        let mut index = Self {
            patterns: HashMap::with_capacity(total),
            holders: Vec::with_capacity(total),
            starts: Vec::new(),
            duplicates: HashMap::new(),
        };
        for (number, rule) in rules.iter().enumerate() {
            let (reach, kind) = of(number);
            let holder = PatternHolder { pattern: 0, reach: small(reach), kind, rule: small(number) };
            if rule.hosts.is_empty() {
                index.holders.push(holder);
            }
            for pattern in &rule.hosts {
                index.add(holder, pattern);
            }
        }
        index.holders.sort_unstable();
        index.holders.dedup_by_key(|holder| (holder.pattern, holder.reach, holder.kind));
        for (at, holder) in index.holders.iter().enumerate() {
            while index.starts.len() <= holder.pattern as usize {
                index.starts.push(small(at));
            }
        }
        index.starts.push(small(index.holders.len()));
        index
    }

    fn add(&mut self, holder: PatternHolder, pattern: &'a HostPattern) {
        let next = small(self.patterns.len() + 1);
        let (number, last) = self.patterns.entry(key(pattern)).or_insert((next, u32::MAX));
        if std::mem::replace(last, holder.rule) == holder.rule {
            self.duplicates.entry(holder.rule).or_insert((0, pattern)).0 += 1;
        } else {
            self.holders.push(PatternHolder { pattern: *number, ..holder });
        }
    }

    /// Number of a rule's duplicate names, and one of them.
    pub(super) fn duplicates(&self, rule: usize) -> Option<&(usize, &'a HostPattern)> {
        self.duplicates.get(&small(rule))
    }

    /// Holders of any name, by their reach.
    pub(super) fn nameless(&self) -> &[PatternHolder] {
        self.of(0)
    }

    /// Holders of each pattern that covers the whole given one, by their reach.
    pub(super) fn covering<'s>(
        &'s self,
        pattern: &'s HostPattern,
    ) -> impl Iterator<Item = &'s [PatternHolder]> {
        let (HostPattern::Exact(name) | HostPattern::Subdomains(name)) = pattern;
        let keys = std::iter::once(key(pattern)).chain(name.parents().map(|parent| (parent, true)));
        keys.filter_map(|key| self.patterns.get(&key)).map(|(number, _)| self.of(*number))
    }

    fn of(&self, pattern: u32) -> &[PatternHolder] {
        let at = |number: usize| self.starts.get(number).map_or(self.holders.len(), |start| *start as usize);
        self.holders.get(at(pattern as usize)..at(pattern as usize + 1)).unwrap_or_default()
    }
}

fn key(pattern: &HostPattern) -> (&str, bool) {
    match pattern {
        HostPattern::Exact(name) => (name.as_str(), false),
        HostPattern::Subdomains(apex) => (apex.as_str(), true),
    }
}

/// Numbers of rules and names fit: what a load reads is bounded.
fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
