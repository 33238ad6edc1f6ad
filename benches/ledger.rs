//! Cost of leasing and returning a port, from an empty destination to the last free ports, on one thread and on two
//! that contend for the same address. The line should be flat. Beside it, the cost of connecting from a port chosen by
//! the ledger, and from one chosen by the kernel (`IP_BIND_ADDRESS_NO_PORT`): that line bends.
//!
//! Runs in its own network namespace, because of the kernel's port range.

use criterion::{BenchmarkId, Criterion, Throughput};
use egret::addr::{ClientAddr, DialAddr, PortRange};
use egret::egress::{Lease, Ledger, Pool, PoolSpec, Pools, Share, SourceSelection};
use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use socket2::{Domain, Socket, Type};
use std::hint::black_box;
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

/// Ports 1024 to 65535.
const CAPACITY: u32 = 64_512;

/// Ports of the kernel, and of a pool, for connected sockets.
const SMALL: (u16, u16) = (40_000, 44_095);

fn main() -> std::process::ExitCode {
    if std::env::var_os(INSIDE).is_none() {
        return enter();
    }
    let mut criterion = Criterion::default().configure_from_args();
    take_and_return(&mut criterion);
    take_and_return_by_addresses(&mut criterion);
    connect(&mut criterion);
    criterion.final_summary();
    std::process::ExitCode::SUCCESS
}

/// Environment variable set in the namespace.
const INSIDE: &str = "EGRET_BENCH_INSIDE";

/// Runs this program again in a namespace.
fn enter() -> std::process::ExitCode {
    let program = std::env::current_exe().expect("this program");
    let set_up = format!(
        "ip link set lo up && echo {} {} > /proc/sys/net/ipv4/ip_local_port_range && exec \"$0\" \"$@\"",
        SMALL.0, SMALL.1
    );
    let status = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "sh", "-c", &set_up])
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .status()
        .expect("unshare, of util-linux");
    if status.success() { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE }
}

/// Measures from the choice of a port to the established connection, on loopback.
fn connect(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ledger/connect");
    for chooser in ["ledger", "kernel"] {
        for full in [0, 500, 900, 990, 999] {
            let server = TcpListener::bind("127.0.0.1:0").expect("a listener");
            let to = server.local_addr().expect("its address");
            let pools = pools_of("127.0.0.3/32", SMALL);
            let connect = || match chooser {
                "ledger" => from_the_ledger(pool(&pools), to),
                _ => (from_the_kernel(to), None),
            };
            let held: Vec<_> = (0..(u32::from(SMALL.1 - SMALL.0) + 1) * full / 1000)
                .map(|_| (connect(), server.accept().expect("the other end")))
                .collect();
            let name = format!("{} % full", f64::from(full) / 10.0);
            group.bench_function(BenchmarkId::new(chooser, name), |bench| {
                bench.iter_custom(|rounds| {
                    let mut total = Duration::ZERO;
                    for _ in 0..rounds {
                        let began = egret::clock::now();
                        let (socket, lease) = connect();
                        total += began.elapsed();
                        let other = server.accept().expect("the other end");
                        reset(&socket);
                        drop((socket, lease, other));
                    }
                    total
                });
            });
            for ((socket, _), _) in &held {
                reset(socket);
            }
        }
    }
    group.finish();
}

fn from_the_ledger(pool: &Arc<Pool>, to: SocketAddr) -> (Socket, Option<Lease>) {
    let lease =
        pool.lease(client(1), DialAddr::tcp(to), &Share::NONE, egret::clock::now()).expect("a free port");
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("SO_REUSEADDR");
    socket.bind(&lease.source().socket().into()).expect("the leased port");
    socket.connect(&to.into()).expect("a connection");
    (socket, Some(lease))
}

fn from_the_kernel(to: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    setsockopt(&socket, IpBindAddressNoPort, &true).expect("IP_BIND_ADDRESS_NO_PORT");
    socket.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).expect("the address");
    socket.connect(&to.into()).expect("a connection");
    socket
}

/// Leaves no TIME_WAIT behind.
fn reset(socket: &Socket) {
    socket.set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
}

/// One source address and one destination, filled to a level in per mille.
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

/// Returns the time that `rounds` take+return need per thread, with all threads starting together.
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
    pools_of(network, (1024, 65535))
}

fn pools_of(network: &str, (first, last): (u16, u16)) -> Pools {
    let spec = PoolSpec {
        name: "bench".into(),
        addresses: vec![network.parse().expect("a network")],
        ports: PortRange::new(first, last).expect("a range"),
        select: SourceSelection::Paired,
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
    DialAddr::tcp(text.parse().expect("an address"))
}
