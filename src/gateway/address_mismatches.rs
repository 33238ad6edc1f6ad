//! Sample of flows whose address was not one of their name's, to be read before verification is enforced.

use crate::addr::DialAddr;
use crate::hostname::Hostname;
use hashbrown::HashMap;
use serde::Serialize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

/// Most different mismatches that are kept; a new one replaces the least recently seen of the tenant that has most.
const MOST: usize = 256;

/// Bounded sample of mismatches, shared by all workers.
#[derive(Debug, Default)]
pub struct AddressMismatchLog(Mutex<HashMap<AddressMismatch, MismatchCount>>);

/// A name that a client asked for, and the address that it dialled.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct AddressMismatch {
    /// Tenant of the client.
    pub tenant: Arc<str>,
    /// The rule that allows the name.
    pub rule: Option<Arc<str>>,
    /// The name.
    pub name: Hostname,
    /// The address, which is not one of the name's.
    pub address: DialAddr,
}

/// Number of flows with a mismatch, and the time of the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MismatchCount {
    /// Number of flows.
    pub flows: u64,
    /// Time of the last one.
    pub last: SystemTime,
}

impl AddressMismatchLog {
    /// Counts a mismatch.
    pub fn note(&self, mismatch: AddressMismatch, now: SystemTime) {
        let mut seen = self.lock();
        if seen.len() >= MOST && !seen.contains_key(&mismatch) {
            let mut of_each: HashMap<&Arc<str>, usize> = HashMap::new();
            for kept in seen.keys() {
                *of_each.entry(&kept.tenant).or_default() += 1;
            }
            let most = of_each.into_iter().max_by_key(|(_, count)| *count).map(|(tenant, _)| tenant);
            let of_most = seen.iter().filter(|(kept, _)| Some(&kept.tenant) == most);
            let oldest = of_most.min_by_key(|(_, seen)| seen.last).map(|(oldest, _)| oldest.clone());
            oldest.map(|oldest| seen.remove(&oldest));
        }
        let entry = seen.entry(mismatch).or_insert(MismatchCount { flows: 0, last: now });
        entry.flows += 1;
        entry.last = now;
    }

    /// Returns all that are kept, the latest first.
    pub fn sample(&self) -> Vec<(AddressMismatch, MismatchCount)> {
        let mut all: Vec<_> = self.lock().iter().map(|(mismatch, seen)| (mismatch.clone(), *seen)).collect();
        all.sort_by_key(|(_, seen)| std::cmp::Reverse(seen.last));
        all
    }

    /// Ignores poisoning: the map is consistent between calls.
    fn lock(&self) -> MutexGuard<'_, HashMap<AddressMismatch, MismatchCount>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn latest_mismatches_are_kept_and_counted() {
        let mismatches = AddressMismatchLog::default();
        let of = |n: u8, m: u8| AddressMismatch {
            tenant: "acme".into(),
            rule: Some("names".into()),
            name: "api.example.com".parse().unwrap(),
            address: DialAddr::tcp(([192, 0, n, m], 443).into()),
        };
        let start = SystemTime::UNIX_EPOCH;
        for n in 0..=255 {
            mismatches.note(of(0, n), start + Duration::from_secs(n.into()));
        }
        mismatches.note(of(0, 0), start + Duration::from_secs(1000));
        mismatches.note(of(1, 0), start + Duration::from_secs(1001));
        let sample = mismatches.sample();
        assert_eq!(sample.len(), MOST);
        assert_eq!(sample[0].0, of(1, 0));
        assert_eq!((&sample[1].0, sample[1].1.flows), (&of(0, 0), 2));
        assert!(!sample.iter().any(|(mismatch, _)| *mismatch == of(0, 1)), "the oldest is gone");
    }

    #[test]
    fn hostile_tenants_mismatches_replace_its_own() {
        let mismatches = AddressMismatchLog::default();
        let of = |tenant: &str, n: u16| AddressMismatch {
            tenant: tenant.into(),
            rule: None,
            name: "api.example.com".parse().unwrap(),
            address: DialAddr::tcp(([192, 0, 2, 1], n).into()),
        };
        let start = SystemTime::UNIX_EPOCH;
        mismatches.note(of("good", 0), start);
        for n in 0..1000 {
            mismatches.note(of("hostile", n), start + Duration::from_secs(1));
        }
        let sample = mismatches.sample();
        assert_eq!(sample.len(), MOST);
        assert!(sample.iter().any(|(mismatch, _)| *mismatch == of("good", 0)));
    }
}
