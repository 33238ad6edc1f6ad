//! Order in which checks of live flows are made: tenants take turns, so that one with many checks delays no other.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Most checks in progress; each is bounded elsewhere too, with those of new flows.
const AT_ONCE: usize = 64;
/// Most checks in progress of one tenant.
const OF_ONE: usize = 16;

/// Checks that wait for their turn, and the number of those in progress.
#[derive(Debug)]
pub(super) struct CheckTurns<T> {
    /// Tenants with checks that wait, the next one first.
    turns: VecDeque<Arc<str>>,
    tenants: HashMap<Arc<str>, TenantChecks<T>>,
    running: usize,
}

#[derive(Debug)]
struct TenantChecks<T> {
    waiting: VecDeque<T>,
    running: usize,
}

impl<T> Default for CheckTurns<T> {
    fn default() -> Self {
        Self { turns: VecDeque::new(), tenants: HashMap::new(), running: 0 }
    }
}

impl<T> Default for TenantChecks<T> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), running: 0 }
    }
}

impl<T> CheckTurns<T> {
    /// Adds a check behind all others of its tenant.
    pub(super) fn push(&mut self, tenant: Arc<str>, check: T) {
        let checks = self.tenants.entry(Arc::clone(&tenant)).or_default();
        if checks.waiting.is_empty() {
            self.turns.push_back(tenant);
        }
        checks.waiting.push_back(check);
    }

    /// Begins the next check, if one may. Exactly one call of [`CheckTurns::ended`] must follow.
    pub(super) fn begin(&mut self) -> Option<T> {
        if self.running >= AT_ONCE {
            return None;
        }
        let has_room = |tenant| self.tenants.get(tenant).is_some_and(|checks| checks.running < OF_ONE);
        let next = self.turns.iter().position(has_room)?;
        let tenant = self.turns.remove(next)?;
        let checks = self.tenants.get_mut(&tenant)?;
        let check = checks.waiting.pop_front()?;
        checks.running += 1;
        self.running += 1;
        if !checks.waiting.is_empty() {
            self.turns.push_back(tenant);
        }
        Some(check)
    }

    /// Counts a check as no longer in progress.
    pub(super) fn ended(&mut self, tenant: &str) {
        let Some(checks) = self.tenants.get_mut(tenant) else { return };
        checks.running -= 1;
        self.running -= 1;
        if checks.running == 0 && checks.waiting.is_empty() {
            self.tenants.remove(tenant);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(turns: &mut CheckTurns<(&'static str, usize)>, tenant: &'static str, count: usize) {
        (0..count).for_each(|n| turns.push(tenant.into(), (tenant, n)));
    }

    fn begun<T>(turns: &mut CheckTurns<T>) -> Vec<T> {
        std::iter::from_fn(|| turns.begin()).collect()
    }

    #[test]
    fn many_checks_delay_no_other_tenant() {
        let mut turns = CheckTurns::default();
        push(&mut turns, "many", 600);
        assert_eq!(begun(&mut turns).len(), OF_ONE, "its part");
        push(&mut turns, "few", 2);
        assert_eq!(begun(&mut turns), [("few", 0), ("few", 1)]);
        turns.ended("few");
        assert!(turns.begin().is_none());
        turns.ended("many");
        assert_eq!(begun(&mut turns), [("many", OF_ONE)]);
    }

    #[test]
    fn tenants_take_turns_for_freed_places() {
        let mut turns = CheckTurns::default();
        for tenant in ["a", "b", "c", "d"] {
            push(&mut turns, tenant, OF_ONE + 1);
        }
        let first = begun(&mut turns);
        assert_eq!(first.len(), AT_ONCE);
        assert_eq!(first[..5], [("a", 0), ("b", 0), ("c", 0), ("d", 0), ("a", 1)]);
        push(&mut turns, "e", 1);
        turns.ended("d");
        turns.ended("a");
        assert_eq!(begun(&mut turns), [("a", OF_ONE), ("d", OF_ONE)], "they came before");
        turns.ended("b");
        turns.ended("c");
        assert_eq!(begun(&mut turns), [("b", OF_ONE), ("c", OF_ONE)]);
        turns.ended("c");
        assert_eq!(begun(&mut turns), [("e", 0)]);
    }

    #[test]
    fn repeated_check_waits_behind_others() {
        let mut turns = CheckTurns::default();
        push(&mut turns, "a", OF_ONE + 1);
        assert_eq!(begun(&mut turns).len(), OF_ONE);
        turns.ended("a");
        turns.push("a".into(), ("a", 0));
        assert_eq!(begun(&mut turns), [("a", OF_ONE)]);
        (0..OF_ONE).for_each(|_| turns.ended("a"));
        assert_eq!(begun(&mut turns), [("a", 0)]);
        turns.ended("a");
        assert!(turns.tenants.is_empty() && turns.turns.is_empty() && turns.running == 0);
    }
}
