//! Holders of the ports of a source address towards a destination.

use super::record::FlowRecord;
use super::table::FlowTable;
use crate::addr::{DialAddr, SourceAddr};
use crate::hostname::Hostname;
use hashbrown::HashMap;
use std::cmp::Reverse;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

/// A client that holds ports of a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortHolder {
    /// Tenant of the flows.
    pub tenant: Arc<str>,
    /// Client's address.
    pub client: IpAddr,
    /// Number of ports.
    pub ports: u32,
}

/// The live flows from one source address to one destination.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PairFlows {
    /// Tenants with the ports they hold, the largest first.
    pub tenants: Vec<(Arc<str>, u32)>,
    /// Clients with the ports they hold, the largest first.
    pub holders: Vec<PortHolder>,
    /// The name that most of the flows asked for.
    pub hostname: Option<Hostname>,
}

/// A source address and a destination.
pub type SourceDestination = (SourceAddr, DialAddr);

impl FlowTable {
    /// Returns the flows of each pair, with at most `most` tenants and clients each, in one pass over all live flows;
    /// with a tenant, only its flows. Memory is bounded by the ports of the pairs.
    pub fn towards(&self, pairs: &[SourceDestination], tenant: Option<&str>, most: usize) -> Vec<PairFlows> {
        if pairs.is_empty() {
            return Vec::new();
        }
        let mut tallies: HashMap<SourceDestination, PairTally> =
            pairs.iter().map(|&pair| (pair, PairTally::default())).collect();
        for entry in self.entries() {
            entry.if_listed(|record| count(record, tenant, &mut tallies));
        }
        pairs.iter().map(|pair| tallies.get(pair).map(|tally| tally.sum(most)).unwrap_or_default()).collect()
    }
}

/// Counts a flow that holds a lease towards its pair, if that is one of these.
fn count(record: &FlowRecord, only: Option<&str>, tallies: &mut HashMap<SourceDestination, PairTally>) {
    let (Some(tenant), Some(source), Some(dialled)) = (&record.tenant, record.source, record.dialled) else {
        return;
    };
    if only.is_some_and(|only| *only != **tenant) {
        return;
    }
    if let Some(tally) = tallies.get_mut(&(SourceAddr::new(source.ip()), dialled)) {
        tally.count(tenant, record);
    }
}

/// Counts of one pair's flows.
#[derive(Debug, Default)]
struct PairTally {
    tenants: HashMap<Arc<str>, u32>,
    clients: HashMap<(Arc<str>, IpAddr), u32>,
    hostnames: HashMap<Hostname, u32>,
}

impl PairTally {
    fn count(&mut self, tenant: &Arc<str>, record: &FlowRecord) {
        *self.tenants.entry(Arc::clone(tenant)).or_default() += 1;
        *self.clients.entry((Arc::clone(tenant), record.client.ip())).or_default() += 1;
        if let Some(hostname) = &record.hostname {
            *self.hostnames.entry(hostname.clone()).or_default() += 1;
        }
    }

    fn sum(&self, most: usize) -> PairFlows {
        let holder = |((tenant, client), ports)| PortHolder { tenant, client, ports };
        PairFlows {
            tenants: largest(&self.tenants, most),
            holders: largest(&self.clients, most).into_iter().map(holder).collect(),
            hostname: largest(&self.hostnames, 1).pop().map(|(hostname, _)| hostname),
        }
    }
}

/// The `most` with the largest counts, equal ones in their own order.
fn largest<K: Hash + Ord + Clone>(counts: &HashMap<K, u32>, most: usize) -> Vec<(K, u32)> {
    let mut all: Vec<_> = counts.iter().collect();
    all.sort_unstable_by_key(|&(key, count)| (Reverse(*count), key));
    all.into_iter().take(most).map(|(key, count)| (key.clone(), *count)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::leased;
    use super::super::handle::FlowOpener;
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    const SERVER: &str = "198.51.100.9:443";
    const SOURCE: &str = "203.0.113.16:5000";

    fn pair(source: &str, to: &str) -> SourceDestination {
        (SourceAddr::new(source.parse().unwrap()), DialAddr::tcp(to.parse().unwrap()))
    }

    fn of(table: &FlowTable, pair: SourceDestination, tenant: Option<&str>, most: usize) -> PairFlows {
        table.towards(&[pair], tenant, most).pop().unwrap()
    }

    #[test]
    fn largest_holders_of_pair_come_first() {
        let table = Arc::new(FlowTable::default());
        let opener = FlowOpener::new(Arc::clone(&table));
        let mut listed = Vec::new();
        for (number, tenant, client, to, hostname) in [
            (0, "acme", "10.0.1.7:1", SERVER, Some("api.example.com")),
            (1, "acme", "10.0.1.7:2", SERVER, Some("api.example.com")),
            (1024, "acme", "10.0.1.8:1", SERVER, Some("a.example.com")),
            (2, "beta", "10.0.2.1:1", SERVER, None),
            (3, "acme", "10.0.1.7:3", "198.51.100.9:80", None),
        ] {
            listed.push(leased(&table, &opener, (number, tenant, client), (SOURCE, to), hostname));
        }
        let towards = pair("203.0.113.16", SERVER);
        let holder = |tenant: &str, client: &str, ports| PortHolder {
            tenant: tenant.into(),
            client: client.parse().unwrap(),
            ports,
        };
        let all = of(&table, towards, None, 9);
        assert_eq!(
            all.holders,
            [holder("acme", "10.0.1.7", 2), holder("acme", "10.0.1.8", 1), holder("beta", "10.0.2.1", 1)]
        );
        assert_eq!(all.tenants, [("acme".into(), 3), ("beta".into(), 1)]);
        assert_eq!(all.hostname.unwrap().to_string(), "api.example.com");
        assert_eq!(table.towards(&[towards], None, 1)[0].holders, [holder("acme", "10.0.1.7", 2)]);
        assert_eq!(of(&table, towards, Some("beta"), 9).holders, [holder("beta", "10.0.2.1", 1)]);
        assert_eq!(of(&table, pair("203.0.113.17", SERVER), None, 9), PairFlows::default());

        drop(listed);
        assert_eq!(of(&table, towards, None, 9), PairFlows::default());
    }

    #[test]
    fn concurrent_pair_counts_are_exact() {
        const PER_WORKER: u64 = 2000;
        let table = Arc::new(FlowTable::default());
        let numbers = AtomicU64::new(0);
        let towards = pair("203.0.113.16", SERVER);
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let (table, numbers) = (&table, &numbers);
                let client = format!("10.0.0.{worker}:1");
                scope.spawn(move || {
                    let opener = FlowOpener::new(Arc::clone(table));
                    let lease = |tenant| {
                        let number = numbers.fetch_add(1, Ordering::Relaxed);
                        leased(table, &opener, (number, tenant, &client), (SOURCE, SERVER), None)
                    };
                    let _stays = lease("stays");
                    for _ in 0..PER_WORKER {
                        drop(lease("goes"));
                        assert!(of(table, pair("203.0.113.16", SERVER), Some("goes"), 9).tenants.len() <= 1);
                    }
                });
            }
            let reader = scope.spawn(|| {
                for _ in 0..200 {
                    // each worker has at most one of either kind at a time
                    for holder in &table.towards(&[towards], None, usize::MAX)[0].holders {
                        assert!(holder.ports == 1, "{holder:?}");
                    }
                }
            });
            reader.join().unwrap();
        });
        assert_eq!(of(&table, towards, None, 9), PairFlows::default());
    }
}
