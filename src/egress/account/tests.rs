//! The account compared with a naive model, through random takes, returns, passing time and reloads.

use super::super::hot;
use super::*;
use crate::addr::DialAddr;
use crate::addr::PortRange;
use proptest::collection::vec;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::BTreeMap;

/// Ranges and reserved ports between which reloads switch.
const CONFIGURATIONS: [(u16, u16, &[u16]); 6] = [
    (1000, 1000, &[]),
    (1000, 1015, &[]),
    (1000, 1015, &[1003, 1015, 9999]),
    (1008, 1023, &[1020]),
    (1000, 1001, &[1000, 1001]),
    (1025, 65535, &[]),
];

fn space(configuration: usize, generation: u64) -> Arc<PortSpace> {
    let (first, last, reserved) = CONFIGURATIONS[configuration];
    Arc::new(PortSpace::new(PortRange::new(first, last).unwrap(), reserved, generation))
}

/// Address of the account; nothing here depends on it.
fn source() -> SourceAddr {
    SourceAddr::new([203, 0, 113, 1].into())
}

fn destination(n: u8) -> DestinationKey {
    DialAddr::tcp(([192, 0, 2, n], 443).into()).into()
}

#[derive(Debug, Clone)]
enum AccountStep {
    Take(u8),
    /// Index among the live leases, and the milliseconds for which the port rests.
    GiveBack(usize, u64),
    Pass(u64),
    Look,
    Reload(usize),
}

fn steps(reloads: bool) -> impl Strategy<Value = Vec<AccountStep>> {
    let reload = u32::from(reloads);
    let rest = prop_oneof![Just(0u64), 1u64..20, Just(60_000)];
    let step = prop_oneof![
        12 => (0u8..3).prop_map(AccountStep::Take),
        6 => (any::<usize>(), rest).prop_map(|(which, rest)| AccountStep::GiveBack(which, rest)),
        2 => prop_oneof![0u64..10, Just(60_000)].prop_map(AccountStep::Pass),
        3 => Just(AccountStep::Look),
        reload => (0..CONFIGURATIONS.len()).prop_map(AccountStep::Reload),
    ];
    vec(step, 1..250)
}

/// `None`: live; else the time when it becomes free.
type Busy = BTreeMap<(DestinationKey, u16), Option<Instant>>;

struct AccountModel {
    configuration: usize,
    capacity: usize,
    busy: Busy,
}

impl AccountModel {
    fn hands_out(&self, port: u16) -> bool {
        let (first, last, reserved) = CONFIGURATIONS[self.configuration];
        (first..=last).contains(&port) && !reserved.contains(&port)
    }
    fn configure(&mut self, configuration: usize) {
        self.configuration = configuration;
        let (first, last, reserved) = CONFIGURATIONS[configuration];
        let kept = reserved.iter().filter(|port| (first..=last).contains(port)).count();
        self.capacity = usize::from(last - first) + 1 - kept;
    }
    fn pass(&mut self, now: Instant) {
        self.busy.retain(|_, until| until.is_none_or(|until| until > now));
    }
    /// Live and held ports towards a destination, of those handed out now.
    fn pair(&self, to: DestinationKey) -> (usize, usize) {
        let here = || self.busy.iter().filter(|((d, port), _)| *d == to && self.hands_out(*port));
        (
            here().filter(|(_, until)| until.is_none()).count(),
            here().filter(|(_, until)| until.is_some()).count(),
        )
    }
    fn live(&self) -> Vec<(DestinationKey, u16)> {
        self.busy.iter().filter(|(_, until)| until.is_none()).map(|(key, _)| *key).collect()
    }
}

fn behaves_like_the_model(
    configuration: usize,
    steps: Vec<AccountStep>,
    seed: u64,
) -> Result<(), TestCaseError> {
    let mut now = crate::clock::now();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut generation = 1;
    let mut account = PortAccount::new(space(configuration, generation), source());
    let mut model = AccountModel { configuration, capacity: 0, busy: Busy::new() };
    model.configure(configuration);
    for step in steps {
        match step {
            AccountStep::Take(n) => {
                let to = destination(n);
                let (live, held) = model.pair(to);
                if let Some(port) = account.take(to, now, &mut rng) {
                    prop_assert!(model.hands_out(port), "{} is not for use", port);
                    prop_assert!(model.busy.insert((to, port), None).is_none(), "{} is busy", port);
                } else {
                    prop_assert_eq!(live + held, model.capacity, "refused though a port was free");
                }
            }
            AccountStep::GiveBack(which, rest) => {
                let live = model.live();
                if live.is_empty() {
                    continue;
                }
                let (to, port) = live[which % live.len()];
                let rest = Duration::from_millis(rest);
                account.give_back(to, port, rest, Share::NONE, now);
                if rest.is_zero() {
                    model.busy.remove(&(to, port));
                } else {
                    model.busy.insert((to, port), Some(now + rest));
                }
            }
            AccountStep::Pass(milliseconds) => {
                now += Duration::from_millis(milliseconds);
                model.pass(now);
            }
            AccountStep::Look => {
                prop_assert!(!account.release_due(now, usize::MAX));
                account.shrink();
                prop_assert_eq!(account.live() + account.held(), model.busy.len());
                let busiest = (0..3).map(|n| model.pair(destination(n))).map(|(l, h)| l + h).max();
                prop_assert_eq!(Some(usize::from(account.busiest())), busiest);
                let least = usize::from(hot::threshold(account.space.capacity()));
                for n in 0..3 {
                    let in_use = usize::from(account.pair(destination(n)).in_use());
                    let found = account.hottest().any(|(to, _)| to == destination(n));
                    prop_assert!(found || in_use < least, "{} ports in use are not found", in_use);
                    prop_assert!(!found || in_use >= least / 2, "{} ports in use are not cold", in_use);
                }
                for n in 0..3 {
                    let used = account.pair(destination(n));
                    prop_assert_eq!((used.live.into(), used.held.into()), model.pair(destination(n)));
                }
            }
            AccountStep::Reload(configuration) => {
                generation += 1;
                account.adopt(&space(configuration, generation), source());
                model.configure(configuration);
                account.adopt(&space(0, 1), source()); // a flow that still follows the oldest configuration changes nothing
            }
        }
        prop_assert_eq!(account.live(), model.live().len());
        for n in 0..3 {
            let used = account.pair(destination(n));
            let (live, held) = model.pair(destination(n));
            prop_assert_eq!(usize::from(used.capacity), model.capacity);
            prop_assert_eq!(usize::from(used.live), live);
            prop_assert!(usize::from(used.held) >= held, "a port came back early");
            prop_assert_eq!(used.free() + used.live + used.held, used.capacity);
        }
    }
    now += Duration::from_secs(3600);
    for (to, port) in model.live() {
        account.give_back(to, port, Duration::ZERO, Share::NONE, now);
    }
    account.release_due(now, usize::MAX);
    prop_assert_eq!((account.live(), account.held(), account.busiest()), (0, 0, 0));
    prop_assert_eq!(account.hottest().count(), 0);
    prop_assert!(account.pairs.is_empty() && account.strays.is_empty(), "an idle pair was not forgotten");
    Ok(())
}

proptest! {
    #[test]
    fn account_conserves_ports(configuration in 0..CONFIGURATIONS.len(), steps in steps(false), seed: u64) {
        behaves_like_the_model(configuration, steps, seed)?;
    }

    #[test]
    fn account_conserves_ports_over_reloads(configuration in 0..CONFIGURATIONS.len(), steps in steps(true), seed: u64) {
        behaves_like_the_model(configuration, steps, seed)?;
    }
}

#[test]
fn every_port_is_leased_exactly_once() {
    let now = crate::clock::now();
    let mut rng = StdRng::seed_from_u64(5);
    let mut account = PortAccount::new(space(5, 1), source());
    let mut ports: Vec<_> = std::iter::from_fn(|| account.take(destination(1), now, &mut rng)).collect();
    assert_ne!(ports.iter().min(), ports.first(), "the order is predictable");
    assert_eq!(account.pair(destination(1)), PairUse { capacity: 64511, live: 64511, held: 0 });
    for &port in ports.iter().step_by(500) {
        account.give_back(destination(1), port, Duration::ZERO, Share::NONE, now);
        assert_eq!(account.take(destination(1), now, &mut rng), Some(port));
        assert_eq!(account.take(destination(1), now, &mut rng), None);
    }
    assert!(
        account.take(destination(2), now, &mut rng).is_some(),
        "another destination has ports of its own"
    );
    ports.sort_unstable();
    assert!(ports.into_iter().eq(1025..=65535));
}

#[test]
fn due_port_is_found_behind_others() {
    let now = crate::clock::now();
    let mut rng = StdRng::seed_from_u64(5);
    let mut account = PortAccount::new(space(0, 1), source());
    for n in 0..200 {
        let port = account.take(destination(n), now, &mut rng).unwrap();
        account.give_back(destination(n), port, Duration::from_secs(61), Share::NONE, now);
    }
    let (early, due) = (now + Duration::from_millis(60_999), now + Duration::from_secs(61));
    assert_eq!(account.take(destination(199), early, &mut rng), None);
    assert_eq!(account.take(destination(199), due, &mut rng), Some(1000));
}

#[test]
fn million_destinations_fit_200_mb() {
    let now = crate::clock::now();
    let mut rng = StdRng::seed_from_u64(6);
    let mut account = PortAccount::new(space(5, 1), source());
    let all = || (0..1_000_000).map(|n| DialAddr::tcp((std::net::Ipv4Addr::from_bits(n), 443).into()).into());
    let ports: Vec<u16> = all().map(|to| account.take(to, now, &mut rng).unwrap()).collect();
    // hashbrown: a power of two of slots, filled to 7/8 at most, a control byte each; while it grows, the half before
    // it too. A pair with one flow has no other memory.
    let slots = (account.pairs.capacity() * 8 / 7).next_power_of_two();
    let growing = slots * (size_of::<(DestinationKey, PairPorts)>() + 1) * 3 / 2;
    assert!(growing < 200_000_000, "{growing} bytes");
    assert_eq!(account.hottest().count(), 0, "a million cold destinations are not looked at");
    assert!(account.pairs.values().all(|pair| matches!(pair.ports, PortSet::Inline(_))));
    all().zip(ports).for_each(|(to, port)| account.give_back(to, port, Duration::ZERO, Share::NONE, now));
    account.shrink();
    assert!(account.pairs.capacity() < 1000);
}
