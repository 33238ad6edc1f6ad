//! Presence of the pools' addresses on this machine.

use crate::addr::SourceAddr;
use crate::app::truth::list;
use crate::egress::{Pools, SourceState};
use crate::steering::REMEDY;
use crate::sys::routing::LocalTable;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Most addresses in one check; the next check goes on from there. Each lookup in the routing table takes microseconds.
const PER_CHECK: usize = 4096;

/// Withdraws addresses that are not local to the machine, and restores them when they are again.
pub(super) struct SourceStates {
    /// The pools of the last check.
    pools: Arc<Pools>,
    withdrawn: BTreeSet<SourceAddr>,
    cursor: usize,
}

impl SourceStates {
    pub(super) fn new(pools: &Arc<Pools>) -> Self {
        Self { pools: Arc::clone(pools), withdrawn: BTreeSet::new(), cursor: 0 }
    }

    /// Checks the next addresses. `thorough` looks up withdrawn ones in every routing table, not in the local table alone.
    pub(super) fn check(&mut self, pools: &Arc<Pools>, thorough: bool) {
        if !Arc::ptr_eq(&self.pools, pools) {
            // an address that is in no pool any more is forgotten
            self.withdrawn.retain(|&source| pools.set_state(source, SourceState::Withdrawn).is_some());
            self.pools = Arc::clone(pools);
        }
        let listed: Vec<_> = pools.listed().collect();
        let from = if self.cursor < listed.len() { self.cursor } else { 0 };
        let mut lost = Vec::new();
        let mut found = Vec::new();
        let table = match LocalTable::read() {
            Ok(table) => table,
            Err(error) => {
                tracing::warn!(%error, "cannot read the local routing table; the states of source addresses stay as they were");
                return;
            }
        };
        for &source in listed.iter().skip(from).take(PER_CHECK) {
            if !thorough && self.withdrawn.contains(&source) && !table.lists(source.ip()) {
                continue;
            }
            match table.is_local(source.ip()) {
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
                    tracing::warn!(%source, %error, "cannot look up a source address in the routing table");
                    break;
                }
            }
        }
        self.cursor = from + PER_CHECK;
        if !lost.is_empty() {
            tracing::warn!(
                addresses = %list(&lost),
                "source addresses are not local to this machine and are withdrawn until they are; \
                 assign them to an interface, or run {REMEDY}"
            );
        }
        if !found.is_empty() {
            tracing::info!(addresses = %list(&found), "source addresses are local again and back in use");
        }
    }
}
