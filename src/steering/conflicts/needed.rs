//! Pool addresses of hosts that the machine needs, which steering must not make local.

use super::conflict::{Conflict, ConflictSeverity, of_others};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Conflicts of a pool with next hops and DNS servers other than the machine itself: all that are
/// [`ConflictSeverity::Refused`].
pub(in crate::steering) fn of_needed_hosts(
    pool: IpNet,
    next_hops: &BTreeSet<IpAddr>,
    resolvers: &[IpAddr],
    is_own: impl Fn(IpAddr) -> bool,
) -> Vec<Conflict> {
    let refused = |what: &str, hosts: &mut dyn Iterator<Item = &IpAddr>| {
        let elsewhere = hosts.filter(|host| pool.contains(*host) && !is_own(**host));
        let shown: Vec<_> = elsewhere.map(ToString::to_string).collect();
        of_others(ConflictSeverity::Refused, pool, what, &shown)
    };
    let next_hops = refused("the next hop of a route", &mut next_hops.iter());
    next_hops.into_iter().chain(refused("a DNS server", &mut resolvers.iter())).collect()
}
