//! Keeps connection tracking off the flows of all pools that flows leave by: those in force, and former ones as long as flows
//! live that left by them. Steering's packet rules do so for the configuration that they were made from, which may be another.
//! NAT of other programs would have what is tracked leave from the machine's own address.

use super::failure_notice::FailureNotice;
use super::steered::steered;
use crate::addr::PortRange;
use crate::egress::PoolSpec;
use crate::steering::SteeredPool;
use crate::sys::untracked::{Untracked, UntrackedRange};
use crate::telemetry::StandingProblem;
use ipnet::IpNet;
use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Time for which former addresses and ports are kept after their last flow: the kernel may close connections meanwhile.
const CLOSING: Duration = Duration::from_secs(120);
/// Time between two looks at the flows of former addresses and ports.
const PAUSE: Duration = Duration::from_secs(10);

/// The addresses and ports whose flows are not tracked, in the control plane and in the kernel.
pub(crate) struct UntrackedPools {
    current: Vec<SteeredPool>,
    former: Vec<FormerPool>,
    /// Time of the last look at the flows.
    looked: Instant,
    /// `None` before the first attempt.
    kernel: Option<Untracked>,
    /// The last change is not in the kernel.
    is_due: bool,
    unsupported: FailureNotice,
}

/// Addresses and ports that are not in force any more.
struct FormerPool {
    pool: SteeredPool,
    /// The last time when a flow left by them.
    used: Instant,
}

impl UntrackedPools {
    /// Those of the first configuration, in the kernel if it can.
    pub(crate) fn new(pools: &[PoolSpec], now: Instant) -> Self {
        let mut untracked = Self {
            current: of_specs(pools),
            former: Vec::new(),
            looked: now,
            kernel: None,
            is_due: true,
            unsupported: FailureNotice::default(),
        };
        untracked.put();
        untracked
    }

    /// The reason why the last change is not in the kernel.
    pub(crate) fn problem(&self) -> StandingProblem {
        self.unsupported.problem()
    }

    /// Adds the pools of a configuration that is about to come into force, and keeps those before.
    pub(crate) fn expect(&mut self, pools: &[PoolSpec], now: Instant) {
        self.replace(of_specs(pools), now);
        self.put();
    }

    /// Removes former pools that no flow has left by for some time; `sources` lists where flows leave from. Tries again what the
    /// kernel refused.
    pub(crate) fn sweep(&mut self, now: Instant, sources: impl FnOnce() -> Vec<SocketAddr>) {
        if now.saturating_duration_since(self.looked) < PAUSE {
            return;
        }
        self.looked = now;
        if !self.former.is_empty() {
            self.forget(now, sources());
        }
        self.put();
    }

    fn replace(&mut self, pools: Vec<SteeredPool>, now: Instant) {
        if pools == self.current {
            return;
        }
        let before = std::mem::replace(&mut self.current, pools);
        self.former.extend(before.into_iter().map(|pool| FormerPool { pool, used: now }));
        let present: HashSet<_> = self.current.iter().collect();
        self.former.retain(|former| !present.contains(&former.pool));
        self.is_due = true;
    }

    fn forget(&mut self, now: Instant, mut sources: Vec<SocketAddr>) {
        sources.sort_unstable();
        let count = self.former.len();
        self.former.retain_mut(|FormerPool { pool: SteeredPool { network, ports }, used }| {
            let from = sources.partition_point(|source| source.ip() < network.network());
            let mut within = sources[from..].iter().take_while(|source| source.ip() <= network.broadcast());
            if within.any(|source| ports.contains(source.port())) {
                *used = now;
            }
            now.saturating_duration_since(*used) < CLOSING
        });
        self.is_due |= self.former.len() < count;
    }

    fn put(&mut self) {
        if !self.is_due {
            return;
        }
        let pools = self.current.iter().chain(self.former.iter().map(|former| &former.pool));
        let ranges = ranges(pools.copied());
        match self.apply(&ranges) {
            Ok(()) => {
                self.is_due = false;
                self.unsupported.clear();
            }
            Err(error) => self.unsupported.note(format!(
                "cannot keep connection tracking off the pools beside steering's rules (this needs Linux 5.12, nf_tables, and no other gateway here): \
                 {error}; beside a MASQUERADE or SNAT rule, flows leave from this machine's own address while those rules are not up to date"
            )),
        }
    }

    fn apply(&mut self, ranges: &[UntrackedRange]) -> io::Result<()> {
        let kernel = match &mut self.kernel {
            Some(kernel) => kernel,
            none => none.insert(Untracked::new()?),
        };
        kernel.put(ranges)
    }
}

fn of_specs(pools: &[PoolSpec]) -> Vec<SteeredPool> {
    steered(pools.iter().map(|pool| (pool.ports, &*pool.addresses)))
}

/// One entry for each range of ports.
fn ranges(pools: impl Iterator<Item = SteeredPool>) -> Vec<UntrackedRange> {
    let mut by_ports: Vec<(PortRange, Vec<IpNet>)> = Vec::new();
    for SteeredPool { network, ports } in pools {
        match by_ports.iter_mut().find(|(others, _)| *others == ports) {
            Some((_, networks)) => networks.push(network),
            None => by_ports.push((ports, vec![network])),
        }
    }
    let range = |(ports, networks): (PortRange, Vec<IpNet>)| {
        let networks = IpNet::aggregate(&networks);
        let addresses =
            [true, false].map(|v4| joined(networks.iter().filter(|one| one.addr().is_ipv4() == v4)));
        UntrackedRange { ports: (ports.first(), ports.last()), addresses }
    };
    by_ports.into_iter().map(range).collect()
}

/// Ranges of addresses in order that do not touch.
fn joined<'a>(networks: impl Iterator<Item = &'a IpNet>) -> Vec<(IpAddr, IpAddr)> {
    let mut ranges: Vec<_> = networks.map(|one| (one.network(), one.broadcast())).collect();
    ranges.sort_unstable();
    ranges.dedup_by(|next, before| {
        let touches = follows(before.1, next.0);
        if touches {
            before.1 = next.1;
        }
        touches
    });
    ranges
}

/// True if `next` is the address after `last`.
fn follows(last: IpAddr, next: IpAddr) -> bool {
    match (last, next) {
        (IpAddr::V4(last), IpAddr::V4(next)) => u32::from(last).checked_add(1) == Some(next.into()),
        (IpAddr::V6(last), IpAddr::V6(next)) => u128::from(last).checked_add(1) == Some(next.into()),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(network: &str, first: u16, last: u16) -> SteeredPool {
        SteeredPool { network: network.parse().unwrap(), ports: PortRange::new(first, last).unwrap() }
    }

    #[test]
    fn touching_addresses_become_one_range() {
        let found = ranges(
            [
                pool("203.0.113.2/31", 1024, 65535),
                pool("203.0.113.1/32", 1024, 65535),
                pool("203.0.113.9/32", 1024, 65535),
                pool("203.0.113.4/32", 2000, 2999),
                pool("2001:db8::/127", 1024, 65535),
            ]
            .into_iter(),
        );
        let shown: Vec<_> =
            found.iter().map(|range| format!("{:?} {:?}", range.ports, range.addresses)).collect();
        assert_eq!(
            shown,
            [
                "(1024, 65535) [[(203.0.113.1, 203.0.113.3), (203.0.113.9, 203.0.113.9)], [(2001:db8::, 2001:db8::1)]]",
                "(2000, 2999) [[(203.0.113.4, 203.0.113.4)], []]"
            ]
        );
    }

    #[test]
    fn former_pools_stay_while_flows_use_them() {
        let start = crate::clock::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let [old, new] = [pool("203.0.113.1/32", 2000, 2999), pool("203.0.113.1/32", 3000, 3999)];
        let mut pools = UntrackedPools {
            current: vec![old],
            former: Vec::new(),
            looked: start,
            kernel: None,
            is_due: false,
            unsupported: FailureNotice::default(),
        };
        pools.replace(vec![new], start);
        assert!(pools.is_due && pools.former.len() == 1);
        let flow = |port| vec![SocketAddr::new("203.0.113.1".parse().unwrap(), port)];
        for (second, source, left) in [(200, 2500, 1), (319, 3500, 1), (320, 3500, 0)] {
            pools.is_due = false;
            pools.forget(at(second), flow(source));
            assert_eq!((pools.former.len(), pools.is_due), (left, left == 0), "at {second}");
        }
        pools.replace(vec![old], at(400));
        pools.replace(vec![new], at(401));
        assert!(pools.former.len() == 1 && pools.former[0].pool == old, "each is there once");
    }
}
