use super::super::{Lease, Ledger, PoolSpec, Share, SourceSelection};
use super::*;
use crate::addr::{ClientAddr, PortRange};

fn spec(network: &str, ports: u16) -> PoolSpec {
    PoolSpec {
        name: "acme".into(),
        addresses: vec![network.parse().unwrap()],
        ports: PortRange::new(2000, 1999 + ports).unwrap(),
        select: SourceSelection::Paired,
        drain: Vec::new(),
        public: BTreeMap::new(),
        rest: Duration::ZERO,
        shares: Vec::new(),
    }
}

fn pools(network: &str, ports: u16) -> Pools {
    Pools::new(&[spec(network, ports)], &[], &Arc::new(Ledger::new()))
}

fn destination(n: u16) -> DialAddr {
    DialAddr::tcp(([192, 0, 2, 1], 1000 + n).into())
}

fn open(pools: &Pools, to: DialAddr, flows: u16, now: Instant) -> Vec<Lease> {
    let client = ClientAddr::new(([10, 0, 1, 1], 40_000).into());
    let lease = |_| pools.pool("acme").unwrap().lease(client, to, &Share::NONE, now).unwrap();
    (0..flows).map(lease).collect()
}

fn second(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[test]
fn five_hottest_rows_in_order() {
    let now = crate::clock::now();
    let pools = pools("203.0.113.1/32", 1000);
    let mut forecaster = Forecaster::new();
    let mut leases: Vec<_> = (1..=60).flat_map(|n| open(&pools, destination(n), n, now)).collect();
    forecaster.observe(&pools, now);
    let rows = forecaster.rows(&pools, now);
    let shown: Vec<_> = rows.iter().map(|row| (row.destination.port(), row.live, row.capacity)).collect();
    assert_eq!(
        shown,
        [(1060, 60, 1000), (1059, 59, 1000), (1058, 58, 1000), (1057, 57, 1000), (1056, 56, 1000)]
    );
    assert!(forecaster.followed.len() <= FOLLOWED);
    leases.truncate(55); // the first ten destinations, of up to ten ports: none is hot
    assert!(forecaster.rows(&pools, now).is_empty(), "cold ones have no row");
    forecaster.observe(&pools, now + second(1));
    assert!(forecaster.followed.len() <= 1, "{:?}", forecaster.followed.keys());
}

#[test]
fn small_pools_are_forecast_too() {
    let now = crate::clock::now();
    let pools = pools("203.0.113.1/32", 16);
    let mut forecaster = Forecaster::new();
    let mut leases = open(&pools, destination(1), 3, now);
    assert!(forecaster.observe(&pools, now).is_empty() && forecaster.rows(&pools, now).is_empty());
    leases.extend(open(&pools, destination(1), 13, now));
    let events = forecaster.observe(&pools, now + second(1));
    let levels: Vec<_> =
        events.iter().map(|event| (event.level.as_str(), event.used, event.rising)).collect();
    assert_eq!(levels, [("70 %", 16, true), ("85 %", 16, true), ("95 %", 16, true)]);
    let full = forecaster.observe(&pools, now + second(2));
    assert_eq!(full[0].level, UsageLevel::ExhaustedSoon);
    assert_eq!(full[0].exhausted_in, Some(Duration::ZERO));
    assert_eq!(forecaster.exhaustion().values().collect::<Vec<_>>(), [&Duration::ZERO]);
    drop(leases);
    let calm = (3..200).flat_map(|n| forecaster.observe(&pools, now + second(n))).collect::<Vec<_>>();
    assert_eq!(calm.len(), 4, "each level is left once: {calm:?}");
    assert!(calm.iter().all(|event| !event.rising && event.used == 0));
    assert!(forecaster.followed.is_empty(), "and then it is forgotten");
}

#[test]
fn derived_network_is_one_exhaustion_row() {
    let now = crate::clock::now();
    let pools = pools("2001:db8:100::/64", 100);
    let mut forecaster = Forecaster::new();
    let to = DialAddr::tcp("[2001:db8::1]:443".parse().unwrap());
    let leases = open(&pools, to, 150, now);
    forecaster.observe(&pools, now);
    forecaster.observe(&pools, now + second(1));
    let rows = forecaster.rows(&pools, now);
    assert_eq!(rows.iter().map(|row| row.live).collect::<Vec<_>>(), [100, 50]);
    let network: IpNet = "2001:db8:100::/64".parse().unwrap();
    assert!(rows.iter().all(|row| row.network == network && network.contains(&row.source.ip())));
    assert_eq!(forecaster.exhaustion().get(&network), Some(&Duration::ZERO));
    drop(leases);
}

#[test]
fn sampling_survives_missed_seconds_and_gaps() {
    let start = crate::clock::now();
    let pools = pools("203.0.113.1/32", 10_000);
    let (mut forecaster, mut leases) = (Forecaster::new(), Vec::new());
    let mut at = |n: u64, leases: &mut Vec<Lease>| {
        let missing = usize::try_from(n * 100).unwrap() - leases.len();
        leases.extend(open(&pools, destination(1), u16::try_from(missing).unwrap(), start + second(n)));
        forecaster.observe(&pools, start + second(n));
        forecaster.rows(&pools, start + second(n))[0].growth_per_second
    };
    let mut growth = 0.0;
    for n in (3..=60).step_by(3) {
        growth = at(n, &mut leases); // every third second only
    }
    assert!((growth - 100.0).abs() < 1.0, "{growth}");
    let growth = at(71, &mut leases);
    assert!((growth - 100.0).abs() < 10.0, "it grew on while nobody looked: {growth}");
    drop(leases);
    forecaster.observe(&pools, start + second(90));
    assert_eq!(forecaster.exhaustion().len(), 0, "it is gone");
}

#[test]
fn addresses_removed_by_reload_are_dropped() {
    let now = crate::clock::now();
    let ledger = Arc::new(Ledger::new());
    let old = Pools::new(&[spec("203.0.113.1/32", 16)], &[], &ledger);
    let new = Pools::new(&[spec("203.0.113.2/32", 16)], &[], &ledger);
    let mut forecaster = Forecaster::new();
    let _leases = open(&old, destination(1), 16, now);
    assert!(!forecaster.observe(&old, now).is_empty());
    assert!(forecaster.rows(&new, now).is_empty());
    assert!(forecaster.observe(&new, now + second(1)).is_empty());
    assert!(forecaster.followed.is_empty());
}
