use super::super::{PairUse, PortHold, Reaper};
use super::*;
use crate::addr::{LeasedSource, PortRange};
use crate::outcome::Outcome;
use crate::sys::sock_diag::SocketPresence;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

fn spec(addresses: &[&str], ports: (u16, u16), select: SourceSelection) -> PoolSpec {
    PoolSpec {
        name: "acme".into(),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        ports: PortRange::new(ports.0, ports.1).unwrap(),
        select,
        drain: Vec::new(),
        public: BTreeMap::new(),
        rest: Duration::ZERO,
        shares: Vec::new(),
    }
}

fn pools(addresses: &[&str], ports: (u16, u16), select: SourceSelection) -> Pools {
    Pools::new(&[spec(addresses, ports, select)], &[], &Arc::new(Ledger::new()))
}

fn acme(pools: &Pools) -> &Arc<Pool> {
    pools.pool("acme").unwrap()
}

fn client(n: u8) -> ClientAddr {
    ClientAddr::new(([10, 0, 1, n], 40000).into())
}

fn dial(text: &str) -> DialAddr {
    DialAddr::tcp(text.parse().unwrap())
}

fn ip(lease: &Lease) -> IpAddr {
    lease.source().ip()
}

const SERVER: &str = "192.0.2.1:443";

#[test]
fn refused_flow_searches_few_addresses() {
    const ADDRESSES: u32 = 128;
    let now = crate::clock::now();
    let share = ShareSpec { tenant: "a".into(), floor: 0, ceiling: Some(ADDRESSES) };
    let one_port = spec(&["203.0.113.0/25"], (2000, 2000), SourceSelection::LeastUsed);
    let spec = PoolSpec { shares: vec![share], ..one_port };
    let pools = Pools::new(&[spec], &[], &Arc::new(Ledger::new()));
    let (pool, to) = (acme(&pools), dial(SERVER));
    let share = pool.share(&"a".into());
    let lease = |now| pool.lease(client(1), to, &share, now);
    let rest = Duration::from_secs(1);
    for mut held in (0..ADDRESSES).map(|_| lease(now).unwrap()).collect::<Vec<_>>() {
        held.set_hold(PortHold::For(rest));
        held.give_back(now);
    }
    assert_eq!(lease(now).map(drop), Err(LeaseError::Ceiling));
    let _lease = lease(now + rest).unwrap();
    let busy: usize = pool.v4.listed().map(|book| usize::from(book.in_use(to.into()))).sum();
    assert_eq!(busy, ADDRESSES as usize - SEARCHED + 1);
}

#[test]
fn client_spills_from_full_address() {
    let now = crate::clock::now();
    let pools = pools(&["203.0.113.16/30"], (2000, 2007), SourceSelection::Paired);
    let pool = acme(&pools);
    let first = pool.preferred(client(7), Family::V4).unwrap();
    let leases: Vec<_> =
        (0..32).map(|_| pool.lease(client(7), dial(SERVER), &Share::NONE, now).unwrap()).collect();
    let order: Vec<_> = leases.iter().map(ip).collect();
    assert!(order[..8].iter().all(|&a| a == first.ip()), "{order:?}");
    for eight in order.chunks(8) {
        assert!(
            eight.iter().all(|a| a == &eight[0]),
            "the next address is taken only when one is full: {order:?}"
        );
    }
    assert_eq!(leases.iter().map(Lease::source).collect::<HashSet<_>>().len(), 32);
    let refused = pool.lease(client(8), dial(SERVER), &Share::NONE, now).unwrap_err();
    assert_eq!((refused, refused.outcome()), (LeaseError::Exhausted, Outcome::PortsExhausted));
    assert!(
        pool.lease(client(8), dial("192.0.2.1:80"), &Share::NONE, now).is_ok(),
        "another port is another destination"
    );
    drop(leases);
    assert_eq!(ip(&pool.lease(client(7), dial(SERVER), &Share::NONE, now).unwrap()), first.ip());
}

#[test]
fn pool_without_family_is_refused() {
    let pools = pools(&["203.0.113.16/30"], (2000, 2007), SourceSelection::Paired);
    let now = crate::clock::now();
    let refused = acme(&pools).lease(client(1), dial("[2001:db8::1]:443"), &Share::NONE, now).unwrap_err();
    assert_eq!((refused, refused.outcome()), (LeaseError::NoAddress, Outcome::NoSourceAddress));
    assert_eq!(acme(&pools).preferred(client(1), Family::V6), None);
    assert!(pools.pool("other").is_none());
}

#[test]
fn added_address_moves_few_clients() {
    let three =
        pools(&["203.0.113.1/32", "203.0.113.2/32", "203.0.113.3/32"], (1, 9), SourceSelection::Paired);
    let four = pools(
        &["203.0.113.0/32", "203.0.113.1/32", "203.0.113.2/32", "203.0.113.3/32"],
        (1, 9),
        SourceSelection::Paired,
    );
    let (mut moved, mut per_address) = (0, HashMap::<_, u32>::new());
    for n in 0..4000u16 {
        let [high, low] = n.to_be_bytes();
        let client = ClientAddr::new(([10, 9, high, low], 1).into());
        let before = acme(&three).preferred(client, Family::V4).unwrap();
        let after = acme(&four).preferred(client, Family::V4).unwrap();
        *per_address.entry(after).or_default() += 1;
        if before != after {
            assert_eq!(after.to_string(), "203.0.113.0", "a client moved between old addresses");
            moved += 1;
        }
    }
    // 1000 expected, a standard deviation of 27
    assert!((860..1140).contains(&moved), "{moved} of 4000 moved");
    assert!(per_address.values().all(|n| (860..1140).contains(n)), "{per_address:?}");
}

#[test]
fn least_used_levels_the_addresses_for_each_destination() {
    let now = crate::clock::now();
    let pools = pools(&["203.0.113.16/30"], (2000, 2009), SourceSelection::LeastUsed);
    let pool = acme(&pools);
    let mut leases = Vec::new();
    for n in 1..=40 {
        leases.push(pool.lease(client(1), dial(SERVER), &Share::NONE, now).unwrap());
        let mut used = HashMap::<_, u32>::new();
        for lease in &leases {
            *used.entry(ip(lease)).or_default() += 1;
        }
        let most = used.values().max().unwrap();
        assert_eq!(*most, u32::div_ceil(n, 4), "{used:?}");
    }
    assert_eq!(pool.lease(client(1), dial(SERVER), &Share::NONE, now).unwrap_err(), LeaseError::Exhausted);
}

#[test]
fn least_used_finds_last_free_port() {
    let now = crate::clock::now();
    let pools = pools(&["203.0.113.0/24"], (2000, 2000), SourceSelection::LeastUsed);
    let leases: Vec<_> =
        (0..256).map(|_| acme(&pools).lease(client(1), dial(SERVER), &Share::NONE, now).unwrap()).collect();
    assert_eq!(leases.iter().map(ip).collect::<HashSet<_>>().len(), 256);
    assert!(acme(&pools).lease(client(1), dial(SERVER), &Share::NONE, now).is_err());
}

#[test]
fn derived_addresses_are_few_and_forgotten() {
    let now = crate::clock::now();
    let pools = pools(&["2001:db8:100::/64"], (2000, 2001), SourceSelection::Paired);
    let server = dial("[2001:db8::1]:443");
    let preferred = acme(&pools).preferred(client(1), Family::V6).unwrap();
    let mut leases: Vec<_> =
        (0..16).map(|_| acme(&pools).lease(client(1), server, &Share::NONE, now).unwrap()).collect();
    assert_eq!(ip(&leases[0]), preferred.ip());
    assert_eq!(leases.iter().map(ip).collect::<HashSet<_>>().len(), 8);
    assert_eq!(acme(&pools).lease(client(1), server, &Share::NONE, now).unwrap_err(), LeaseError::Exhausted);
    leases.push(acme(&pools).lease(client(2), server, &Share::NONE, now).unwrap());
    let usage = pools.usage(now);
    let row = &usage[0].sources[0];
    assert_eq!((row.source.to_string().as_str(), row.live, row.busiest), ("2001:db8:100::/64", 17, 2));
    pools.ledger().sweep(now);
    assert!(pools.ledger().pair(preferred, server, now).is_some(), "forgotten while in use");
    let mut first = leases.swap_remove(0);
    drop(leases);
    let held = Duration::from_secs(66);
    first.set_hold(PortHold::For(held));
    first.give_back(now);
    pools.ledger().sweep(now);
    assert_eq!(pools.ledger().pair(preferred, server, now).map(|p| p.held), Some(1), "forgotten while held");
    let later = now + held;
    pools.ledger().sweep(later);
    assert!(pools.ledger().pair(preferred, server, later).is_none(), "not forgotten");
}

#[test]
fn port_returns_when_kernel_releases_it() {
    let now = crate::clock::now();
    let pools = pools(&["203.0.113.1/32", "2001:db8:100::1/128"], (2000, 2000), SourceSelection::Paired);
    let pool = acme(&pools);
    let (mut reaper, _stop) = Reaper::new(pools.ledger());
    for server in [SERVER, "[2001:db8::1]:443"] {
        let lease = |now| pool.lease(client(1), dial(server), &Share::NONE, now);
        let mut first = lease(now).unwrap();
        let pair = (first.source().socket(), dial(server).socket());
        first.set_hold(PortHold::UntilGone { first_look: Duration::from_millis(80), timestamps: false });
        first.give_back(now);
        let waiting = SocketPresence::Waiting(Duration::from_secs(3));
        let mut said = vec![Some(SocketPresence::Socket), None, Some(waiting), Some(SocketPresence::Gone)];
        let mut at = now;
        while !said.is_empty() {
            at += Duration::from_millis(10);
            let left = said.len();
            reaper.reap(at, |pairs| {
                assert!(pairs == [pair] && at >= now + Duration::from_millis(80));
                vec![said.remove(0)]
            });
            assert_eq!(lease(at).is_ok(), said.is_empty(), "{left} answers were left");
        }
        assert!(at > now + Duration::from_secs(5), "it was asked when the TIME_WAIT was over");
        lease(at).unwrap().give_back(at); // never connected: free at once
    }
}

#[test]
fn pool_hold_is_minimum_for_connected_ports() {
    let now = crate::clock::now();
    let own = Duration::from_secs(1);
    let spec = PoolSpec { rest: own, ..spec(&["203.0.113.1/32"], (2000, 2000), SourceSelection::Paired) };
    let pools = Pools::new(&[spec], &[], &Arc::new(Ledger::new()));
    let lease = |now| acme(&pools).lease(client(1), dial(SERVER), &Share::NONE, now);
    lease(now).unwrap().give_back(now);
    let mut connected = lease(now).expect("what never connected is free at once");
    connected.connected();
    connected.give_back(now);
    assert!(lease(now + own / 2).is_err(), "too early");
    let mut connected = lease(now + own).expect("the pool's rest is over");
    connected.connected();
    connected.set_hold(PortHold::For(own * 2));
    connected.give_back(now + own);
    assert!(lease(now + own * 2).is_err(), "it asks for more");
    assert!(lease(now + own * 3).is_ok());
}

#[test]
fn collision_leases_another_port() {
    let now = crate::clock::now();
    let pools = pools(&["203.0.113.1/32"], (2000, 2001), SourceSelection::Paired);
    let lease = acme(&pools).lease(client(1), dial(SERVER), &Share::NONE, now).unwrap();
    let source = lease.source();
    let other = lease.collided(client(1), Duration::ZERO, now).unwrap();
    assert_ne!(other.source(), source);
    assert_eq!(other.collided(client(1), Duration::ZERO, now).unwrap_err(), LeaseError::Exhausted);
    assert_eq!(pools.ledger().collisions(), 2);
    let address = SourceAddr::new(source.ip());
    assert_eq!(
        pools.ledger().pair(address, dial(SERVER), now),
        Some(PairUse { capacity: 2, live: 0, held: 2 })
    );
    let later = now + Duration::from_secs(1);
    assert!(
        acme(&pools).lease(client(1), dial(SERVER), &Share::NONE, later).is_err(),
        "the kernel has said nothing"
    );
    let (mut reaper, _stop) = Reaper::new(pools.ledger());
    reaper.reap(later, |pairs| vec![Some(SocketPresence::Gone); pairs.len()]);
    assert!(acme(&pools).lease(client(1), dial(SERVER), &Share::NONE, later).is_ok());
}

#[test]
fn old_leases_count_after_reload() {
    let now = crate::clock::now();
    let ledger = Arc::new(Ledger::new());
    let old = Pools::new(&[spec(&["203.0.113.1/32"], (2000, 2015), SourceSelection::Paired)], &[], &ledger);
    let leases: Vec<_> =
        (0..16).map(|_| acme(&old).lease(client(1), dial(SERVER), &Share::NONE, now).unwrap()).collect();
    let new =
        Pools::new(&[spec(&["203.0.113.0/30"], (2000, 2007), SourceSelection::Paired)], &[2003], &ledger);
    let address = SourceAddr::new(ip(&leases[0]));
    let mut others = Vec::new();
    while let Ok(lease) = acme(&new).lease(client(1), dial(SERVER), &Share::NONE, now) {
        assert_ne!(ip(&lease), address.ip(), "its seven ports are all in use by old flows");
        assert!((2000..2008).contains(&lease.source().port()) && lease.source().port() != 2003);
        others.push(lease);
    }
    assert_eq!(others.len(), 21);
    assert_eq!(ledger.pair(address, dial(SERVER), now), Some(PairUse { capacity: 7, live: 7, held: 0 }));
    drop(leases);
    assert_eq!(ledger.pair(address, dial(SERVER), now), Some(PairUse { capacity: 7, live: 0, held: 0 }));
    drop((old, new, others));
    ledger.sweep(now);
    assert_eq!(ledger.pair(address, dial(SERVER), now), None, "no configuration names it any more");
}

#[test]
fn panic_returns_the_port() {
    let pools = pools(&["203.0.113.1/32"], (2000, 2000), SourceSelection::Paired);
    let pool = Arc::clone(acme(&pools));
    let flow = std::thread::spawn(move || {
        let _lease = pool.lease(client(1), dial(SERVER), &Share::NONE, crate::clock::now()).unwrap();
        panic!("a flow's own");
    });
    assert!(flow.join().is_err());
    assert!(acme(&pools).lease(client(1), dial(SERVER), &Share::NONE, crate::clock::now()).is_ok());
}

#[test]
fn sweeps_keep_configured_idle_addresses() {
    let now = crate::clock::now();
    let ledger = Arc::new(Ledger::new());
    let specs = [spec(&["203.0.113.1/32"], (2000, 2000), SourceSelection::Paired)];
    let old = Pools::new(&specs, &[], &ledger);
    ledger.sweep(now);
    let lease = acme(&old).lease(client(1), dial(SERVER), &Share::NONE, now).unwrap();
    let new = Pools::new(&specs, &[], &ledger);
    assert!(
        acme(&new).lease(client(1), dial(SERVER), &Share::NONE, now).is_err(),
        "{} was leased twice",
        lease.source()
    );
}

/// Threads lease and return at random, while another sweeps and reads; a port leased twice shows as a second claim.
#[test]
fn concurrent_leases_never_share_ports() {
    for (addresses, select) in [
        (&["203.0.113.0/31", "203.0.113.2/32"][..], SourceSelection::Paired),
        (&["203.0.113.0/31", "203.0.113.2/32"], SourceSelection::LeastUsed),
        (&["10.0.0.0/8"], SourceSelection::Paired),
    ] {
        let pools = pools(addresses, (2000, 2004), select);
        let (claims, refused, sweeping) = (Claims::default(), AtomicU64::new(0), AtomicBool::new(true));
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4u8)
                .map(|thread| {
                    let (pool, claims, refused) = (acme(&pools), &claims, &refused);
                    scope.spawn(move || churn(pool, claims, refused, thread))
                })
                .collect();
            scope.spawn(|| {
                while sweeping.load(Ordering::Relaxed) {
                    pools.ledger().sweep(crate::clock::now());
                    for source in &pools.usage(crate::clock::now())[0].sources {
                        assert!(source.busiest <= source.capacity);
                    }
                }
            });
            let panicked = workers.into_iter().filter_map(|worker| worker.join().err()).count();
            sweeping.store(false, Ordering::Relaxed);
            assert_eq!(panicked, 0);
        });
        assert!(refused.load(Ordering::Relaxed) > 0, "the pool was never full: the test shows little");
        let later = crate::clock::now() + Duration::from_secs(3600);
        for source in &pools.usage(later)[0].sources {
            assert_eq!((source.live, source.held, source.busiest), (0, 0, 0));
        }
    }
}

type Claims = Mutex<HashSet<(LeasedSource, DialAddr)>>;

/// Two threads act as one client. Each opens up to 200 flows to two servers, closing some on the way, and then closes
/// all, repeatedly.
fn churn(pool: &Arc<Pool>, claims: &Claims, refused: &AtomicU64, thread: u8) {
    let mut rng = StdRng::seed_from_u64(thread.into());
    for _ in 0..150 {
        let mut hands: Vec<(Lease, DialAddr)> = Vec::new();
        for _ in 0..rng.random_range(1..200) {
            let to = dial(if rng.random() { SERVER } else { "192.0.2.2:443" });
            let Ok(mut lease) = pool.lease(client(thread / 2), to, &Share::NONE, crate::clock::now()) else {
                refused.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            assert!(claims.lock().unwrap().insert((lease.source(), to)), "{} twice", lease.source());
            if rng.random_ratio(1, 4) {
                lease.set_hold(PortHold::For(Duration::from_micros(rng.random_range(0..300))));
            }
            hands.push((lease, to));
            if rng.random_ratio(1, 3) {
                let at = rng.random_range(0..hands.len());
                release(claims, hands.swap_remove(at));
            }
        }
        for hand in hands {
            release(claims, hand);
        }
    }
}

fn release(claims: &Claims, (lease, to): (Lease, DialAddr)) {
    claims.lock().unwrap().remove(&(lease.source(), to));
    drop(lease);
}
