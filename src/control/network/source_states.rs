//! Presence of the pools' addresses on this machine.

use crate::addr::SourceAddr;
use crate::control::failure_notice::FailureNotice;
use crate::control::log_list::list;
use crate::egress::{Pools, SourceState};
use crate::steering::REMEDY;
use crate::sys::routing::LocalTable;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

/// Most questions to the kernel in one check; the next check goes on from there. Each takes microseconds. Addresses in the local
/// table, which are nearly all, take none.
const PER_CHECK: usize = 4096;

/// Withdraws addresses that are not local to the machine, and restores them when they are again.
pub(super) struct SourceStates {
    /// The pools of the last check.
    pools: Arc<Pools>,
    withdrawn: BTreeSet<SourceAddr>,
    /// The index at which the next check begins, where the last one was not finished.
    cursor: usize,
    is_behind: bool,
    /// Failures to read the local table, and to look an address up.
    unreadable: FailureNotice,
    unanswered: FailureNotice,
}

impl SourceStates {
    pub(super) fn new(pools: &Arc<Pools>) -> Self {
        Self {
            pools: Arc::clone(pools),
            withdrawn: BTreeSet::new(),
            cursor: 0,
            is_behind: false,
            unreadable: FailureNotice::default(),
            unanswered: FailureNotice::default(),
        }
    }

    /// True if the last check stopped early, so that the next one is due at once.
    pub(super) fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Text that readiness mentions without being affected.
    pub(super) fn notes(&self) -> impl Iterator<Item = String> {
        [&self.unreadable, &self.unanswered].into_iter().filter_map(FailureNotice::text)
    }

    /// Checks the next addresses. `thorough` looks up withdrawn ones in every routing table, not in the local table alone.
    pub(super) fn check(&mut self, pools: &Arc<Pools>, thorough: bool) {
        if !Arc::ptr_eq(&self.pools, pools) {
            // an address that is in no pool any more is forgotten
            self.withdrawn.retain(|&source| pools.set_state(source, SourceState::Withdrawn).is_some());
            self.pools = Arc::clone(pools);
        }
        self.is_behind = false;
        match LocalTable::read() {
            Ok(table) => {
                self.unreadable.clear();
                self.look_up(thorough, |address| table.lists(address), |address| table.is_local(address));
            }
            Err(error) => {
                self.unreadable.note(format!("cannot read the local routing table: {error}; the states of source addresses stay as they were"));
            }
        }
    }

    /// Looks the addresses up from where the last check stopped: in the local table, else in all tables.
    fn look_up(
        &mut self,
        thorough: bool,
        is_listed: impl Fn(IpAddr) -> bool,
        is_local: impl Fn(IpAddr) -> io::Result<bool>,
    ) {
        let pools = Arc::clone(&self.pools);
        let listed: Vec<_> = pools.listed().collect();
        let from = if self.cursor < listed.len() { self.cursor } else { 0 };
        let mut asked = 0;
        let (mut lost, mut found) = (Vec::new(), Vec::new());
        let mut failed = false;
        for at in (from..listed.len()).chain(0..from) {
            let source = listed[at];
            let answer = if is_listed(source.ip()) {
                Ok(true)
            } else {
                if !thorough && self.withdrawn.contains(&source) {
                    continue;
                }
                if asked == PER_CHECK {
                    (self.cursor, self.is_behind) = (at, true);
                    break;
                }
                asked += 1;
                // Another table may make it local.
                is_local(source.ip())
            };
            match answer {
                Ok(true) if self.withdrawn.remove(&source) => {
                    pools.set_state(source, SourceState::Available);
                    found.push(source);
                }
                Ok(false) if self.withdrawn.insert(source) => {
                    pools.set_state(source, SourceState::Withdrawn);
                    lost.push(source);
                }
                Ok(_) => {}
                Err(error) => {
                    failed = true;
                    // The next check begins with the others. It is not due at once: the kernel may refuse each lookup.
                    self.cursor = at + 1;
                    self.unanswered.note(format!("cannot look up the source address {source} in the routing table: {error}; its state stays as it was"));
                    break;
                }
            }
        }
        if !failed {
            self.unanswered.clear();
        }
        log_changes(&lost, &found);
    }
}

fn log_changes(lost: &[SourceAddr], found: &[SourceAddr]) {
    if !lost.is_empty() {
        tracing::warn!(
            addresses = %list(lost),
            "source addresses are not local to this machine and are withdrawn until they are; \
             assign them to an interface, or run {REMEDY}"
        );
    }
    if !found.is_empty() {
        tracing::info!(addresses = %list(found), "source addresses are local again and back in use");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PortRange;
    use crate::egress::{Ledger, PoolSpec, SourceSelection};
    use std::collections::BTreeMap;
    use std::time::Duration;

    fn pools(addresses: &[&str]) -> Arc<Pools> {
        let spec = PoolSpec {
            name: "pool".into(),
            addresses: addresses.iter().map(|network| network.parse().unwrap()).collect(),
            ports: PortRange::new(20_000, 20_001).unwrap(),
            select: SourceSelection::Paired,
            drain: Vec::new(),
            public: BTreeMap::new(),
            rest: Duration::ZERO,
            shares: Vec::new(),
        };
        Arc::new(Pools::new(&[spec], &[], &Arc::new(Ledger::new())))
    }

    #[test]
    fn lost_address_among_thousands_is_found() {
        let pools = pools(&["127.77.0.0/20", "127.77.16.0/20", "192.0.2.77/32"]);
        let mut states = SourceStates::new(&pools);
        states.check(&pools, false);
        let lost: Vec<_> = states.withdrawn.iter().map(|source| source.ip().to_string()).collect();
        assert_eq!((lost, states.is_behind()), (vec!["192.0.2.77".to_owned()], false));
    }

    #[test]
    fn failed_lookup_delays_only_its_address() {
        let pools = pools(&["192.0.2.76/32", "192.0.2.77/32", "192.0.2.78/32"]);
        let (lost, refused): (IpAddr, IpAddr) =
            ("192.0.2.76".parse().unwrap(), "192.0.2.77".parse().unwrap());
        let ask = |address| {
            if address == refused { Err(io::ErrorKind::TimedOut.into()) } else { Ok(address != lost) }
        };
        let mut states = SourceStates::new(&pools);
        states.cursor = 1;
        for withdrawn in [0, 1, 1] {
            states.look_up(false, |_| false, ask);
            assert_eq!((states.withdrawn.len(), states.is_behind()), (withdrawn, false));
        }
    }

    #[test]
    fn many_lost_addresses_take_several_checks() {
        let pools = pools(&["198.51.96.0/20", "198.51.112.0/20"]);
        let mut states = SourceStates::new(&pools);
        let all = pools.listed().count();
        assert!(all > PER_CHECK && all <= 2 * PER_CHECK, "{all}");
        for (lost, is_behind) in [(PER_CHECK, true), (all, false), (all, false)] {
            states.check(&pools, false);
            assert_eq!((states.withdrawn.len(), states.is_behind()), (lost, is_behind));
        }
        // Those that may be local by another table are asked about in turns.
        let before = states.cursor;
        states.check(&pools, true);
        assert_eq!((states.withdrawn.len(), states.is_behind()), (all, all > PER_CHECK));
        assert_ne!(states.cursor, before);
    }
}
