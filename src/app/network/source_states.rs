//! Which of the pools' addresses the machine has.

use crate::addr::SourceAddr;
use crate::app::truth::list;
use crate::egress::{Pools, SourceState};
use crate::steering::REMEDY;
use crate::sys::routing::LocalTable;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Addresses that one check looks at, at most: the routing table answers within some microseconds each. It goes on
/// from there the next time.
const PER_CHECK: usize = 4096;

/// Takes addresses out of use that the machine does not have, and puts them back.
pub(super) struct SourceStates {
    /// Those that the last checks were about.
    pools: Arc<Pools>,
    withdrawn: BTreeSet<SourceAddr>,
    cursor: usize,
}

impl SourceStates {
    pub(super) fn new(pools: &Arc<Pools>) -> Self {
        Self { pools: Arc::clone(pools), withdrawn: BTreeSet::new(), cursor: 0 }
    }

    /// `thorough`: those that are withdrawn are looked up as all tables have them, and not in the local table alone.
    pub(super) fn check(&mut self, pools: &Arc<Pools>, thorough: bool) {
        if !Arc::ptr_eq(&self.pools, pools) {
            // an address that the configuration before did not list has begun anew
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
                tracing::warn!(%error, "cannot ask the routing table for source addresses");
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
                    tracing::warn!(%source, %error, "cannot ask the routing table for a source address");
                    break;
                }
            }
        }
        self.cursor = from + PER_CHECK;
        if !lost.is_empty() {
            tracing::warn!(
                addresses = %list(&lost),
                "source addresses are not local to this machine, so no flow leaves from them until they return; \
                 assign them, or run {REMEDY}"
            );
        }
        if !found.is_empty() {
            tracing::info!(addresses = %list(&found), "source addresses have returned");
        }
    }
}
