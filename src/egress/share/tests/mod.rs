//! Several tenants in one pool.

mod model;

use super::super::{Ledger, Pool, PoolSpec, Pools, PortHold, ShareSpec, SourceSelection, SourceState};
use super::*;
use crate::addr::{ClientAddr, DialAddr, PortRange, SourceAddr};
use crate::egress::Lease;
use crate::outcome::Outcome;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const TENANTS: [&str; 4] = ["a", "b", "c", "d"];

/// A pool's configuration: addresses, ports, drained addresses, floor and ceiling of each tenant.
struct Setup {
    addresses: &'static [u8],
    ports: (u16, u16),
    drain: &'static [u8],
    tenants: [(u32, Option<u32>); 4],
}

/// The first three have no address drained and keep every floor; reloads go through all of them.
const SETUPS: [Setup; 6] = [
    Setup {
        addresses: &[1],
        ports: (2000, 2015),
        drain: &[],
        tenants: [(4, None), (4, Some(6)), (0, Some(10)), (0, None)],
    },
    Setup {
        addresses: &[1, 2],
        ports: (2000, 2007),
        drain: &[],
        tenants: [(0, None), (8, None), (1, Some(1)), (0, None)],
    },
    Setup {
        addresses: &[1, 2, 3],
        ports: (2000, 2003),
        drain: &[],
        tenants: [(3, Some(5)), (3, Some(5)), (3, Some(5)), (3, None)],
    },
    Setup {
        addresses: &[1, 2],
        ports: (2000, 2007),
        drain: &[2],
        tenants: [(2, None), (0, None), (2, None), (0, None)],
    },
    Setup {
        addresses: &[2, 3],
        ports: (2004, 2011),
        drain: &[],
        tenants: [(0, Some(3)), (0, None), (0, None), (5, None)],
    },
    // nothing is counted
    Setup { addresses: &[1, 2], ports: (2000, 2007), drain: &[], tenants: [(0, None); 4] },
];

fn source(n: u8) -> SourceAddr {
    SourceAddr::new([203, 0, 113, n].into())
}

fn dial(n: u8) -> DialAddr {
    DialAddr::tcp(([192, 0, 2, n], 443).into())
}

fn client(n: u8) -> ClientAddr {
    ClientAddr::new(([10, 0, 1, n], 40000).into())
}

impl Setup {
    fn is_shared(&self) -> bool {
        self.tenants != [(0, None); 4]
    }

    fn pools(&self, ledger: &Arc<Ledger>) -> Pools {
        let share = |(name, (floor, ceiling)): (&&str, &(u32, Option<u32>))| ShareSpec {
            tenant: (*name).into(),
            floor: *floor,
            ceiling: *ceiling,
        };
        let shares = TENANTS.iter().zip(&self.tenants).map(share).collect();
        let spec = PoolSpec {
            name: "acme".into(),
            addresses: self.addresses.iter().map(|&n| source(n).ip().into()).collect(),
            ports: PortRange::new(self.ports.0, self.ports.1).unwrap(),
            select: SourceSelection::Paired,
            drain: self.drain.iter().map(|&n| source(n)).collect(),
            public: BTreeMap::new(),
            rest: Duration::ZERO,
            shares: if self.is_shared() { shares } else { Vec::new() },
        };
        Pools::new(&[spec], &[], ledger)
    }
}

fn lease(pools: &Pools, tenant: &str, now: Instant) -> Result<Lease, LeaseError> {
    let pool: &Arc<Pool> = pools.pool("acme").unwrap();
    // each tenant has its own client, with different preferred addresses
    pool.lease(client(tenant.as_bytes()[0]), dial(1), &pool.share(&tenant.into()), now)
}

fn leases(pools: &Pools, tenant: &str, now: Instant) -> (Vec<Lease>, LeaseError) {
    let mut got = Vec::new();
    loop {
        match lease(pools, tenant, now) {
            Ok(lease) => got.push(lease),
            Err(error) => return (got, error),
        }
    }
}

#[test]
fn noisy_tenant_is_refused_first() {
    let now = crate::clock::now();
    let ledger = Arc::new(Ledger::new());
    // 16 ports: a and b are guaranteed 4 each
    let pools = SETUPS[0].pools(&ledger);
    let (noisy, why) = leases(&pools, "d", now);
    assert_eq!((noisy.len(), why, why.outcome()), (8, LeaseError::KeptForFloors, Outcome::TenantPortCeiling));
    assert!(why.detail().is_some());
    let refusal = |tenant: &str| pools.pool("acme")?.share(&tenant.into()).refusal(dial(1));
    assert_eq!((refusal("d"), refusal("a")), (Some(LeaseError::KeptForFloors), None));
    let (a, why) = leases(&pools, "a", now);
    assert_eq!((a.len(), why), (4, LeaseError::KeptForFloors));
    let (b, why) = leases(&pools, "b", now);
    assert_eq!((b.len(), why, why.outcome()), (4, LeaseError::Exhausted, Outcome::PortsExhausted));
    // ports that d returns go to any tenant, up to its ceiling
    drop(noisy);
    let (more, why) = leases(&pools, "b", now);
    assert_eq!((more.len(), why), (2, LeaseError::Ceiling));
}

#[test]
fn held_port_counts_for_its_tenant() {
    let now = crate::clock::now();
    let pools = SETUPS[0].pools(&Arc::new(Ledger::new()));
    let (b, why) = leases(&pools, "b", now);
    assert_eq!((b.len(), why), (6, LeaseError::Ceiling));
    let held = Duration::from_secs(66);
    for mut lease in b {
        lease.set_hold(PortHold::For(held));
        lease.give_back(now);
    }
    let free = now + held;
    let early = free.checked_sub(Duration::from_millis(1)).unwrap();
    assert_eq!(lease(&pools, "b", early).unwrap_err(), LeaseError::Ceiling);
    assert!(lease(&pools, "b", free).is_ok());
}

#[test]
fn collision_counts_for_its_tenant() {
    let now = crate::clock::now();
    let pools = SETUPS[0].pools(&Arc::new(Ledger::new()));
    let mut flow = lease(&pools, "b", now).unwrap();
    for _ in 0..5 {
        flow = flow.collided(client(b'b'), Duration::ZERO, now).unwrap();
    }
    assert_eq!(flow.collided(client(b'b'), Duration::ZERO, now).unwrap_err(), LeaseError::Ceiling);
}

#[test]
fn unavailable_addresses_leave_no_source_address() {
    let now = crate::clock::now();
    let ledger = Arc::new(Ledger::new());
    // In the first, c is guaranteed one port.
    for (setup, full) in [(&SETUPS[1], LeaseError::KeptForFloors), (&SETUPS[5], LeaseError::Exhausted)] {
        let pools = setup.pools(&ledger);
        let flow = lease(&pools, "b", now).unwrap();
        assert_eq!(pools.set_state(source(1), SourceState::Draining), Some(SourceState::Draining));
        let (eight, why) = leases(&pools, "b", now);
        assert!(eight.iter().all(|lease| lease.source().ip() == source(2).ip()), "{eight:?}");
        assert_eq!(why, full);
        assert_eq!(pools.set_state(source(2), SourceState::Withdrawn), Some(SourceState::Withdrawn));
        let why = lease(&pools, "b", now).unwrap_err();
        assert_eq!((why, why.outcome()), (LeaseError::NoAddress, Outcome::NoSourceAddress));
        let states: Vec<_> = pools.usage(now)[0].sources.iter().map(|source| source.state).collect();
        assert_eq!(states, [SourceState::Draining, SourceState::Withdrawn]);
        drop((flow, eight));
        // a reload keeps states set by hand, and a lost address that is found again still drains
        let pools = setup.pools(&ledger);
        assert_eq!(lease(&pools, "b", now).unwrap_err(), LeaseError::NoAddress);
        pools.set_state(source(1), SourceState::Withdrawn);
        assert_eq!(pools.set_state(source(1), SourceState::Available), Some(SourceState::Draining));
        assert_eq!(pools.set_state(source(1), SourceState::Available), Some(SourceState::Available));
        assert_eq!(pools.set_state(source(2), SourceState::Available), Some(SourceState::Available));
        assert!(lease(&pools, "b", now).is_ok());
    }
    assert_eq!(SETUPS[0].pools(&ledger).set_state(source(9), SourceState::Draining), None);
}

#[test]
fn reload_keeps_tenant_counts() {
    let now = crate::clock::now();
    let ledger = Arc::new(Ledger::new());
    let old = SETUPS[0].pools(&ledger);
    let (six, _) = leases(&old, "b", now);
    let (ten, why) = leases(&old, "c", now);
    assert_eq!((six.len(), ten.len(), why), (6, 6, LeaseError::KeptForFloors));
    // Now a is guaranteed nothing, b is guaranteed 8 and has 6, c may have 1.
    let new = SETUPS[1].pools(&ledger);
    assert_eq!(lease(&new, "c", now).unwrap_err(), LeaseError::Ceiling, "it has six");
    let (d, why) = leases(&new, "d", now);
    let left = d.len();
    assert_eq!(why, LeaseError::KeptForFloors);
    let (b, why) = leases(&new, "b", now);
    assert_eq!((b.len(), why), (2, LeaseError::Exhausted), "d took {left}");
    drop((old, new, six, ten, d, b));
}

/// Four tenants on four threads, each of them filling its floor; the floors add up to the whole pool.
#[test]
fn shares_hold_under_concurrency() {
    let ledger = Arc::new(Ledger::new());
    let pools = SETUPS[2].pools(&ledger);
    std::thread::scope(|scope| {
        for tenant in TENANTS {
            let pools = &pools;
            scope.spawn(move || {
                for round in 0..2000 {
                    // never above its floor, so never refused, whatever the others do
                    let flows: Vec<_> = (0..3)
                        .map(|_| lease(pools, tenant, crate::clock::now()).expect("below its floor"))
                        .collect();
                    let noisy = lease(pools, tenant, crate::clock::now());
                    assert_eq!(noisy.map(drop).ok(), None, "12 ports, 4 floors of 3: {round}");
                    drop(flows);
                }
            });
        }
    });
    assert!(pools.usage(crate::clock::now())[0].sources.iter().all(|source| source.live + source.held == 0));
}
