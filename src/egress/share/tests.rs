//! Several tenants on one pool, against a naive model that counts by looking at every port.

use super::super::{Ledger, PairUse, Pool, PoolSpec, Pools, Rest, Select, SourceState};
use super::*;
use crate::addr::{ClientAddr, DialAddr, PortRange, SourceAddr};
use crate::egress::Lease;
use crate::outcome::Outcome;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const TENANTS: [&str; 4] = ["a", "b", "c", "d"];

/// A configuration of the pool: addresses, ports, those drained, floor and ceiling of each tenant.
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
    DialAddr::new(([192, 0, 2, n], 443).into())
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
            select: Select::Paired,
            drain: self.drain.iter().map(|&n| source(n)).collect(),
            public: BTreeMap::new(),
            rest: Duration::ZERO,
            shares: if self.is_shared() { shares } else { Vec::new() },
        };
        Pools::new(&[spec], &[], ledger)
    }
}

#[derive(Debug, Clone)]
enum Step {
    /// Tenant, client, destination.
    Lease(usize, u8, u8),
    /// The lease at this place, and for how many milliseconds its port rests.
    GiveBack(usize, u64),
    Pass(u64),
    Reload(usize),
    State(u8, SourceState),
}

fn steps(changes: bool) -> impl Strategy<Value = Vec<Step>> {
    let rest = prop_oneof![3 => Just(0u64), 1 => 1u64..20, 1 => Just(60_000)];
    let state =
        prop_oneof![Just(SourceState::Available), Just(SourceState::Draining), Just(SourceState::Withdrawn)];
    let step = prop_oneof![
        24 => (0..4usize, 0..4u8, 0..2u8).prop_map(|(tenant, client, to)| Step::Lease(tenant, client, to)),
        10 => (any::<usize>(), rest).prop_map(|(which, rest)| Step::GiveBack(which, rest)),
        2 => prop_oneof![0u64..10, Just(60_000)].prop_map(Step::Pass),
        u32::from(changes) => (0..SETUPS.len()).prop_map(Step::Reload),
        u32::from(changes) => (1..4u8, state).prop_map(|(n, state)| Step::State(n, state)),
    ];
    vec(step, 1..300)
}

/// A port in use.
struct Used {
    /// `None`: leased while nothing was counted.
    tenant: Option<usize>,
    source: SourceAddr,
    port: u16,
    to: u8,
    /// `None`: live.
    until: Option<Instant>,
}

struct Model {
    setup: usize,
    used: Vec<Used>,
    /// Drained and withdrawn by hand.
    out: BTreeMap<u8, (bool, bool)>,
}

impl Model {
    fn available(&self, n: u8) -> bool {
        let setup = &SETUPS[self.setup];
        let (drained, withdrawn) = self.out.get(&n).copied().unwrap_or_default();
        setup.addresses.contains(&n) && !setup.drain.contains(&n) && !drained && !withdrawn
    }

    fn of(&self, tenant: usize, to: u8) -> u32 {
        let his = self.used.iter().filter(|used| used.tenant == Some(tenant) && used.to == to);
        u32::try_from(his.count()).unwrap()
    }

    /// Ports that can be leased towards the destination, and what other tenants are due of them.
    fn free_and_due(&self, tenant: usize, to: u8) -> (u32, u32) {
        let setup = &SETUPS[self.setup];
        let ports = setup.ports.0..=setup.ports.1;
        let available = (1..4).filter(|&n| self.available(n)).map(source).collect::<Vec<_>>();
        let busy = self
            .used
            .iter()
            .filter(|used| used.to == to && ports.contains(&used.port) && available.contains(&used.source));
        let all = available.len() * ports.len();
        let due = (0..TENANTS.len()).filter(|&other| other != tenant);
        let due = due.map(|other| setup.tenants[other].0.saturating_sub(self.of(other, to))).sum();
        (u32::try_from(all - busy.count()).unwrap(), due)
    }

    fn expected(&self, tenant: usize, to: u8) -> Result<(), LeaseError> {
        let setup = &SETUPS[self.setup];
        let (floor, ceiling) = setup.tenants[tenant];
        let (free, due) = self.free_and_due(tenant, to);
        let has = self.of(tenant, to);
        if ceiling.is_some_and(|ceiling| has >= ceiling) {
            Err(LeaseError::Ceiling)
        } else if !(1..4).any(|n| self.available(n)) {
            Err(LeaseError::NoAddress)
        } else if free == 0 {
            Err(LeaseError::Exhausted)
        } else if has >= floor && free <= due {
            Err(LeaseError::KeptForFloors)
        } else {
            Ok(())
        }
    }
}

fn behaves_like_the_model(setup: usize, changes: bool, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut now = crate::clock::now();
    let ledger = Arc::new(Ledger::new());
    let mut pools = SETUPS[setup].pools(&ledger);
    let mut model = Model { setup, used: Vec::new(), out: BTreeMap::new() };
    let mut hands: Vec<Lease> = Vec::new();
    let mut tables = Vec::new();
    for step in steps {
        let pool = Arc::clone(pools.pool("acme").unwrap());
        tables.extend(pool.share(&"a".into()).table().map(Arc::downgrade));
        match step {
            Step::Lease(tenant, who, to) => {
                let expected = model.expected(tenant, to);
                let share = pool.share(&TENANTS[tenant].into());
                let got = pool.lease(client(who), dial(to), &share, now);
                prop_assert_eq!(got.as_ref().map(drop).map_err(|e| *e), expected, "{} to {}", tenant, to);
                if let Ok(lease) = got {
                    let tenant = SETUPS[model.setup].is_shared().then_some(tenant);
                    let (source, port) = (SourceAddr::new(lease.source().ip()), lease.source().port());
                    model.used.push(Used { tenant, source, port, to, until: None });
                    hands.push(lease);
                } else if !changes {
                    // A tenant below its floor always gets a port.
                    prop_assert!(model.of(tenant, to) >= SETUPS[model.setup].tenants[tenant].0);
                }
            }
            Step::GiveBack(which, rest) if !hands.is_empty() => {
                let mut lease = hands.swap_remove(which % hands.len());
                let (rest, at) = (Duration::from_millis(rest), lease.source());
                let to = (0..2).find(|&n| Destination::from(dial(n)) == lease.destination()).unwrap();
                let is_it = |used: &Used| {
                    used.until.is_none() && (used.source.ip(), used.port, used.to) == (at.ip(), at.port(), to)
                };
                let place = model.used.iter().position(is_it).unwrap();
                if rest.is_zero() {
                    model.used.swap_remove(place);
                } else {
                    model.used[place].until = Some(now + rest);
                }
                lease.set_rest(if rest.is_zero() { Rest::Free } else { Rest::For(rest) });
                lease.give_back(now);
            }
            Step::GiveBack(..) => {}
            Step::Pass(milliseconds) => {
                now += Duration::from_millis(milliseconds);
                if changes {
                    // an address that is not listed any more has nobody else to bring its ports back
                    ledger.sweep(now);
                }
                model.used.retain(|used| used.until.is_none_or(|until| until > now));
            }
            Step::Reload(setup) => {
                // How long the state of an address lasts that is not listed any more is not looked at here.
                model.out.retain(|&n, _| {
                    let stays = SETUPS[setup].addresses.contains(&n);
                    if !stays {
                        pools.set_state(source(n), SourceState::Available);
                        pools.set_state(source(n), SourceState::Available);
                    }
                    stays
                });
                pools = SETUPS[setup].pools(&ledger);
                model.setup = setup;
            }
            Step::State(n, state) => {
                let listed = SETUPS[model.setup].addresses.contains(&n);
                let follows = pools.set_state(source(n), state);
                prop_assert_eq!(follows.is_some(), listed);
                if listed {
                    let (drained, withdrawn) = model.out.entry(n).or_default();
                    match state {
                        SourceState::Draining => *drained = true,
                        SourceState::Withdrawn => *withdrawn = true,
                        SourceState::Available if *withdrawn => *withdrawn = false,
                        SourceState::Available => *drained = false,
                    }
                    prop_assert_eq!(follows == Some(SourceState::Available), model.available(n));
                }
            }
        }
        if !changes {
            for (tenant, to) in [(0, 0), (1, 0), (2, 1), (3, 1)] {
                let (floor, ceiling) = SETUPS[model.setup].tenants[tenant];
                let (free, others) = model.free_and_due(tenant, to);
                let (has, rest) = (model.of(tenant, to), floor.saturating_sub(model.of(tenant, to)));
                prop_assert!(free >= others + rest, "floors are not kept");
                prop_assert!(ceiling.is_none_or(|ceiling| has <= ceiling), "over the ceiling");
            }
        }
    }
    drop(hands);
    let later = now + Duration::from_hours(1);
    pools.usage(later);
    for to in 0..2 {
        for n in 1..4 {
            let used = ledger.pair(source(n), dial(to), later);
            prop_assert_eq!(used.map_or(0, PairUse::in_use), 0);
        }
    }
    ledger.sweep(later);
    for table in tables.iter().filter_map(std::sync::Weak::upgrade) {
        prop_assert!(table.is_idle(), "something is left: {:?}", table);
    }
    Ok(())
}

proptest! {
    #[test]
    fn floors_are_kept_and_ceilings_hold(setup in 0..3usize, steps in steps(false)) {
        behaves_like_the_model(setup, false, steps)?;
    }

    #[test]
    fn reloads_and_drained_addresses_are_followed_exactly(setup in 0..SETUPS.len(), steps in steps(true)) {
        behaves_like_the_model(setup, true, steps)?;
    }
}

fn lease(pools: &Pools, tenant: &str, now: Instant) -> Result<Lease, LeaseError> {
    let pool: &Arc<Pool> = pools.pool("acme").unwrap();
    // each tenant has a client of its own, and these are drawn to different addresses
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
fn a_noisy_tenant_is_refused_before_its_neighbours() {
    let now = crate::clock::now();
    let ledger = Arc::new(Ledger::new());
    // 16 ports: a and b are assured of 4 each
    let pools = SETUPS[0].pools(&ledger);
    let (noisy, why) = leases(&pools, "d", now);
    assert_eq!((noisy.len(), why, why.outcome()), (8, LeaseError::KeptForFloors, Outcome::TenantPortCeiling));
    assert!(why.detail().is_some());
    let (a, why) = leases(&pools, "a", now);
    assert_eq!((a.len(), why), (4, LeaseError::KeptForFloors));
    let (b, why) = leases(&pools, "b", now);
    assert_eq!((b.len(), why, why.outcome()), (4, LeaseError::Exhausted, Outcome::PortsExhausted));
    // what d gives back goes to whoever asks, up to his ceiling
    drop(noisy);
    let (more, why) = leases(&pools, "b", now);
    assert_eq!((more.len(), why), (2, LeaseError::Ceiling));
}

#[test]
fn a_held_port_counts_for_its_tenant_until_it_is_free() {
    let now = crate::clock::now();
    let pools = SETUPS[0].pools(&Arc::new(Ledger::new()));
    let (b, why) = leases(&pools, "b", now);
    assert_eq!((b.len(), why), (6, LeaseError::Ceiling));
    for mut lease in b {
        lease.set_rest(Rest::TimeWait);
        lease.give_back(now);
    }
    let free = now + Rest::TimeWait.duration();
    let early = free.checked_sub(Duration::from_millis(1)).unwrap();
    assert_eq!(lease(&pools, "b", early).unwrap_err(), LeaseError::Ceiling);
    assert!(lease(&pools, "b", free).is_ok());
}

#[test]
fn a_collision_counts_for_the_tenant_whose_flow_met_it() {
    let now = crate::clock::now();
    let pools = SETUPS[0].pools(&Arc::new(Ledger::new()));
    let mut flow = lease(&pools, "b", now).unwrap();
    for _ in 0..5 {
        flow = flow.collided(client(b'b'), now).unwrap();
    }
    assert_eq!(flow.collided(client(b'b'), now).unwrap_err(), LeaseError::Ceiling);
}

#[test]
fn all_addresses_drained_is_no_source_address_and_one_is_not() {
    let now = crate::clock::now();
    let ledger = Arc::new(Ledger::new());
    // In the first, c is assured of one port.
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
        // a reload keeps what was set by hand, and a lost address that comes back still drains
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
fn a_reload_keeps_what_each_tenant_has() {
    let now = crate::clock::now();
    let ledger = Arc::new(Ledger::new());
    let old = SETUPS[0].pools(&ledger);
    let (six, _) = leases(&old, "b", now);
    let (ten, why) = leases(&old, "c", now);
    assert_eq!((six.len(), ten.len(), why), (6, 6, LeaseError::KeptForFloors));
    // Now a is assured of nothing, b of 8 and has 6, c may have 1.
    let new = SETUPS[1].pools(&ledger);
    assert_eq!(lease(&new, "c", now).unwrap_err(), LeaseError::Ceiling, "it has six");
    let (d, why) = leases(&new, "d", now);
    let left = d.len();
    assert_eq!(why, LeaseError::KeptForFloors);
    let (b, why) = leases(&new, "b", now);
    assert_eq!((b.len(), why), (2, LeaseError::Exhausted), "d took {left}");
    drop((old, new, six, ten, d, b));
}

/// Four tenants on four threads, each of them going up to its floor, which leaves nothing over.
#[test]
fn shares_hold_on_any_number_of_threads() {
    let ledger = Arc::new(Ledger::new());
    let pools = SETUPS[2].pools(&ledger);
    std::thread::scope(|scope| {
        for tenant in TENANTS {
            let pools = &pools;
            scope.spawn(move || {
                for round in 0..2000 {
                    // never above its floor: so never refused, whatever the others do
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
