//! Comparison with a naive model that counts by scanning every port.

use super::{SETUPS, TENANTS, client, dial, source};
use crate::addr::SourceAddr;
use crate::egress::share::LeaseError;
use crate::egress::{Lease, Ledger, PairUse, PortHold, SourceState};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Debug, Clone)]
enum ShareStep {
    /// Tenant, client, destination.
    Lease(usize, u8, u8),
    /// Index of the lease, and the milliseconds for which its port rests.
    GiveBack(usize, u64),
    Pass(u64),
    Reload(usize),
    State(u8, SourceState),
}

fn steps(changes: bool) -> impl Strategy<Value = Vec<ShareStep>> {
    let rest = prop_oneof![3 => Just(0u64), 1 => 1u64..20, 1 => Just(60_000)];
    let state =
        prop_oneof![Just(SourceState::Available), Just(SourceState::Draining), Just(SourceState::Withdrawn)];
    let step = prop_oneof![
        24 => (0..4usize, 0..4u8, 0..2u8).prop_map(|(tenant, client, to)| ShareStep::Lease(tenant, client, to)),
        10 => (any::<usize>(), rest).prop_map(|(which, rest)| ShareStep::GiveBack(which, rest)),
        2 => prop_oneof![0u64..10, Just(60_000)].prop_map(ShareStep::Pass),
        u32::from(changes) => (0..SETUPS.len()).prop_map(ShareStep::Reload),
        u32::from(changes) => (1..4u8, state).prop_map(|(n, state)| ShareStep::State(n, state)),
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

struct ShareModel {
    setup: usize,
    used: Vec<Used>,
    /// Drained and withdrawn by hand.
    out: BTreeMap<u8, (bool, bool)>,
}

impl ShareModel {
    fn available(&self, n: u8) -> bool {
        let setup = &SETUPS[self.setup];
        let (drained, withdrawn) = self.out.get(&n).copied().unwrap_or_default();
        setup.addresses.contains(&n) && !setup.drain.contains(&n) && !drained && !withdrawn
    }

    fn of(&self, tenant: usize, to: u8) -> u32 {
        let his = self.used.iter().filter(|used| used.tenant == Some(tenant) && used.to == to);
        u32::try_from(his.count()).unwrap()
    }

    /// Ports that can be leased towards the destination, and those of them reserved for other tenants.
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

fn behaves_like_the_model(setup: usize, changes: bool, steps: Vec<ShareStep>) -> Result<(), TestCaseError> {
    let mut now = crate::clock::now();
    let ledger = Arc::new(Ledger::new());
    let mut pools = SETUPS[setup].pools(&ledger);
    let mut model = ShareModel { setup, used: Vec::new(), out: BTreeMap::new() };
    let mut hands: Vec<Lease> = Vec::new();
    let mut tables = Vec::new();
    for step in steps {
        let pool = Arc::clone(pools.pool("acme").unwrap());
        tables.extend(pool.share(&"a".into()).table().map(Arc::downgrade));
        match step {
            ShareStep::Lease(tenant, who, to) => {
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
            ShareStep::GiveBack(which, rest) if !hands.is_empty() => {
                let mut lease = hands.swap_remove(which % hands.len());
                let (rest, at) = (Duration::from_millis(rest), lease.source());
                let to = (0..2).find(|&n| dial(n) == lease.destination()).unwrap();
                let is_it = |used: &Used| {
                    used.until.is_none() && (used.source.ip(), used.port, used.to) == (at.ip(), at.port(), to)
                };
                let place = model.used.iter().position(is_it).unwrap();
                if rest.is_zero() {
                    model.used.swap_remove(place);
                } else {
                    model.used[place].until = Some(now + rest);
                }
                lease.set_hold(if rest.is_zero() { PortHold::Free } else { PortHold::For(rest) });
                lease.give_back(now);
            }
            ShareStep::GiveBack(..) => {}
            ShareStep::Pass(milliseconds) => {
                now += Duration::from_millis(milliseconds);
                if changes {
                    // addresses that are no longer listed get their ports freed by nothing else
                    ledger.sweep(now);
                }
                model.used.retain(|used| used.until.is_none_or(|until| until > now));
            }
            ShareStep::Reload(setup) => {
                // The state's lifetime for addresses that are no longer listed is not tested here.
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
            ShareStep::State(n, state) => {
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
    let later = now + Duration::from_secs(3600);
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
    fn floors_and_ceilings_hold(setup in 0..3usize, steps in steps(false)) {
        behaves_like_the_model(setup, false, steps)?;
    }

    #[test]
    fn model_follows_reloads_and_drains(setup in 0..SETUPS.len(), steps in steps(true)) {
        behaves_like_the_model(setup, true, steps)?;
    }
}
