//! Leasing a port and giving it back, from an empty destination to the last free ports, on one thread and on two that
//! fight for the same address. The line should be flat.

use criterion::{BenchmarkId, Criterion, Throughput};
use egret::addr::{ClientAddr, DialAddr, PortRange};
use egret::egress::{Lease, Ledger, Pool, PoolSpec, Pools, Select, Share};
use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

/// 1024 to 65535.
const CAPACITY: u32 = 64_512;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    take_and_return(&mut criterion);
    take_and_return_by_addresses(&mut criterion);
    criterion.final_summary();
}

/// One source address, one destination, filled in per mille.
fn take_and_return(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ledger/take+return");
    group.throughput(Throughput::Elements(1));
    for full in [0, 500, 990, 999] {
        let pools = pools("203.0.113.1/32");
        let held = fill(pool(&pools), CAPACITY * full / 1000);
        for threads in [1u32, 2] {
            let name = format!("{} % full", f64::from(full) / 10.0);
            group.bench_function(BenchmarkId::new(format!("{threads} threads"), name), |bench| {
                bench.iter_custom(|rounds| all_at_once(pool(&pools), threads, rounds));
            });
        }
        drop(held);
    }
    group.finish();
}

/// Empty pools of 1 to 4,096 source addresses.
fn take_and_return_by_addresses(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ledger/addresses");
    for network in ["10.64.0.0/32", "10.64.0.0/28", "10.64.0.0/24", "10.64.0.0/20", "2001:db8:100::/64"] {
        let pools = pools(network);
        let (pool, to) = (pool(&pools), destination(network.contains(':')));
        let now = egret::clock::now();
        group.bench_function(network, |bench| {
            bench.iter(|| pool.lease(client(1), to, &Share::NONE, now).expect("a free port").give_back(now));
        });
    }
    group.finish();
}

/// The time that `rounds` take+return need per thread, all threads starting together.
fn all_at_once(pool: &Arc<Pool>, threads: u32, rounds: u64) -> Duration {
    let start = Barrier::new(threads as usize);
    let to = destination(false);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|n| {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    let began = egret::clock::now();
                    for _ in 0..rounds {
                        drop(black_box(pool.lease(client(n), to, &Share::NONE, began).expect("a free port")));
                    }
                    began.elapsed()
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("no panic")).max().expect("a thread")
    })
}

fn pools(network: &str) -> Pools {
    let spec = PoolSpec {
        name: "bench".into(),
        addresses: vec![network.parse().expect("a network")],
        ports: PortRange::new(1024, 65535).expect("a range"),
        select: Select::Paired,
        drain: Vec::new(),
        public: std::collections::BTreeMap::new(),
        rest: Duration::ZERO,
        shares: Vec::new(),
    };
    Pools::new(&[spec], &[], &Arc::new(Ledger::new()))
}

fn pool(pools: &Pools) -> &Arc<Pool> {
    pools.pool("bench").expect("the pool")
}

fn fill(pool: &Arc<Pool>, ports: u32) -> Vec<Lease> {
    let now: Instant = egret::clock::now();
    (0..ports)
        .map(|_| pool.lease(client(0), destination(false), &Share::NONE, now).expect("a free port"))
        .collect()
}

fn client(n: u32) -> ClientAddr {
    ClientAddr::new((std::net::Ipv4Addr::from_bits(0x0a00_0100 + n), 40_000).into())
}

fn destination(v6: bool) -> DialAddr {
    let text = if v6 { "[2001:db8::1]:443" } else { "192.0.2.1:443" };
    DialAddr::new(text.parse().expect("an address"))
}
