//! Against a scripted kernel, and against the real one under churn.

use super::*;
use crate::addr::{ClientAddr, PortRange};
use crate::egress::{Lease, Ledger, PoolSpec, PortHold, Reaper, Share, SourceSelection};
use crate::sys::sock_diag::{self, Inquirer, SocketPresence};
use crate::sys::traffic_class::TrafficClass;
use crate::sys::{limits, stream, upstream};
use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

fn pools(source: Ipv4Addr, ports: PortRange, ledger: &Arc<Ledger>) -> Pools {
    let spec = PoolSpec {
        name: "pool".into(),
        addresses: vec![IpAddr::V4(source).into()],
        ports,
        select: SourceSelection::Paired,
        drain: Vec::new(),
        public: BTreeMap::new(),
        rest: Duration::ZERO,
        shares: Vec::new(),
    };
    Pools::new(&[spec], &[], ledger)
}

fn lease(pools: &Pools, to: SocketAddr, now: Instant) -> Option<Lease> {
    let client = ClientAddr::new(([10, 0, 0, 1], 1).into());
    pools.pool("pool").unwrap().lease(client, DialAddr::tcp(to), &Share::NONE, now).ok()
}

const SOURCE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SERVER: (Ipv4Addr, u16) = (Ipv4Addr::new(198, 51, 100, 1), 443);

/// Pools with four ports.
fn small() -> Pools {
    small_over(&Arc::new(Ledger::new()))
}

fn small_over(ledger: &Arc<Ledger>) -> Pools {
    pools(SOURCE, PortRange::new(1000, 1003).unwrap(), ledger)
}

fn socket(port: u16, state: TcpState, cookie: u64) -> KernelSocket {
    let (source, destination) = ((SOURCE, port).into(), SERVER.into());
    KernelSocket { source, destination, state, expires: None, uid: 0, inode: 9, cookie }
}

/// Returns scripted listings one after the other, and then repeats the last.
struct ScriptedKernel(VecDeque<Vec<KernelSocket>>);

impl ScriptedKernel {
    fn new(lists: impl IntoIterator<Item = Vec<KernelSocket>>) -> Self {
        Self(lists.into_iter().collect())
    }
}

impl KernelSockets for ScriptedKernel {
    fn sockets(
        &mut self,
        waiting: bool,
        keep: &dyn Fn(&KernelSocket) -> bool,
    ) -> io::Result<Vec<KernelSocket>> {
        let list = if self.0.len() > 1 { self.0.pop_front() } else { self.0.front().cloned() };
        let mut list = list.unwrap_or_default();
        list.retain(|socket| waiting || socket.state != TcpState::TimeWait);
        assert!(list.iter().all(|socket| keep(socket) || socket.state == TcpState::TimeWait));
        list.retain(keep);
        Ok(list)
    }
    fn lists_bound(&self) -> bool {
        true
    }
    fn pause(&mut self) {}
}

/// Live, held and free ports towards the server.
fn used(pools: &Pools, now: Instant) -> (u16, u16, u16) {
    let pair =
        pools.ledger().pair(SourceAddr::new(SOURCE.into()), DialAddr::tcp(SERVER.into()), now).unwrap();
    (pair.live, pair.held, pair.free())
}

/// Has the kernel forget these ports, and answer as before about all others.
fn let_go(reaper: &mut Reaper, gone: &[u16], now: Instant) {
    reaper.reap(now, |pairs| {
        let is_gone = |&(source, _): &(SocketAddr, _)| gone.contains(&source.port());
        let of = |pair| Some(if is_gone(pair) { SocketPresence::Gone } else { SocketPresence::Socket });
        pairs.iter().map(of).collect()
    });
}

#[test]
fn ports_of_earlier_process_are_held() {
    let (pools, start) = (small(), crate::clock::now());
    let at = |seconds| start + Duration::from_secs(seconds);
    let waiting = |port, left| {
        let expires = Some(Duration::from_secs(left));
        KernelSocket { expires, inode: 0, ..socket(port, TcpState::TimeWait, port.into()) }
    };
    let established = socket(1001, TcpState::Established, 1);
    let elsewhere = KernelSocket { source: (SOURCE, 999).into(), ..established };
    let mut kernel = ScriptedKernel::new([vec![
        waiting(1000, 30),
        established,
        elsewhere,
        socket(1003, TcpState::Bound, 3),
    ]]);
    assert_eq!(Reconciler::default().seed(&pools, &mut kernel, start).unwrap(), 2);
    assert_eq!(used(&pools, start), (0, 2, 2));
    let (mut reaper, _stop) = Reaper::new(pools.ledger());
    let mut asked = Vec::new();
    for seconds in [1, 29, 30, 90] {
        reaper.reap(at(seconds), |pairs| {
            asked.extend(pairs.iter().map(|(source, _)| (seconds, source.port())));
            vec![Some(if seconds < 90 { SocketPresence::Socket } else { SocketPresence::Gone }); pairs.len()]
        });
        assert_eq!(used(&pools, at(seconds)).1, if seconds < 90 { 2 } else { 0 });
    }
    let of = |port| asked.iter().filter(move |(_, asked)| *asked == port).map(|(seconds, _)| *seconds);
    assert_eq!(of(1000).collect::<Vec<_>>(), [30, 90], "not before its time is over");
    assert_eq!(of(1001).collect::<Vec<_>>(), [1, 29, 30, 90]);
}

#[test]
fn foreign_socket_is_held_at_second_sight() {
    let (pools, now) = (small(), crate::clock::now());
    let mut reconciler = Reconciler::default();
    let network = IpAddr::V4(SOURCE).into();
    let foreign = socket(1000, TcpState::Established, 1);
    // another socket in the second listing, none, or one that no longer blocks: flows of ours
    for second in
        [vec![socket(1000, TcpState::Established, 2)], vec![], vec![socket(1000, TcpState::TimeWait, 1)]]
    {
        let report =
            reconciler.compare(&pools, &mut ScriptedKernel::new([vec![foreign], second]), now).unwrap();
        assert_eq!((report.difference(network), used_or_new(&pools, now)), (0, (0, 0, 4)));
    }
    let mut kernel = ScriptedKernel::new([vec![foreign]]);
    let report = reconciler.compare(&pools, &mut kernel, now).unwrap();
    assert_eq!((report.foreign.as_slice(), report.difference(network)), ([foreign].as_slice(), 1));
    assert_eq!(used(&pools, now), (0, 1, 3));
    let report = reconciler.compare(&pools, &mut kernel, now).unwrap();
    assert_eq!(report.difference(network), 0, "the ledger knows it now");
    let (mut reaper, _stop) = Reaper::new(pools.ledger());
    for (gone, expected) in [(&[][..], (0, 1, 3)), (&[1000][..], (0, 0, 4))] {
        let later = now + Duration::from_secs(1 + gone.len() as u64);
        let_go(&mut reaper, gone, later);
        assert_eq!(used(&pools, later), expected);
    }
}

fn used_or_new(pools: &Pools, now: Instant) -> (u16, u16, u16) {
    pools.open(SourceAddr::new(SOURCE.into())).unwrap();
    used(pools, now)
}

#[test]
fn lease_without_socket_is_confirmed_twice() {
    let (pools, now) = (small(), crate::clock::now());
    let network = IpAddr::V4(SOURCE).into();
    let leased = lease(&pools, SERVER.into(), now).unwrap();
    let port = leased.source().port();
    let about_to_connect =
        KernelSocket { destination: (Ipv4Addr::UNSPECIFIED, 0).into(), ..socket(port, TcpState::Bound, 1) };
    let mut reconciler = Reconciler::default();
    for known in [socket(port, TcpState::SynSent, 1), socket(port, TcpState::Bound, 1), about_to_connect] {
        for _ in 0..3 {
            let report = reconciler.compare(&pools, &mut ScriptedKernel::new([vec![known]]), now).unwrap();
            assert_eq!(report.difference(network), 0, "{known:?}");
        }
    }
    let mut nothing = ScriptedKernel::new([vec![]]);
    assert_eq!(reconciler.compare(&pools, &mut nothing, now).unwrap().difference(network), 0);
    let report = reconciler.compare(&pools, &mut nothing, now).unwrap();
    assert_eq!(report.unseen, [(leased.source(), DialAddr::tcp(SERVER.into()))]);
    assert_eq!(report.difference(network), 1);
    drop(leased);
    assert_eq!(reconciler.compare(&pools, &mut nothing, now).unwrap().difference(network), 0);
}

#[test]
fn smaller_range_keeps_held_ports_until_gone() {
    let (ledger, now) = (Arc::new(Ledger::new()), crate::clock::now());
    let before = small_over(&ledger);
    let sockets = vec![socket(1000, TcpState::Established, 1), socket(1003, TcpState::Established, 2)];
    Reconciler::default().seed(&before, &mut ScriptedKernel::new([sockets]), now).unwrap();
    let smaller = pools(SOURCE, PortRange::new(1000, 1001).unwrap(), &ledger);
    let total = |pools: &Pools| pools.usage(now)[0].sources[0].held;
    assert_eq!((total(&smaller), used(&smaller, now)), (2, (0, 1, 1)));
    let (mut reaper, _stop) = Reaper::new(&ledger);
    for (seconds, gone, left) in [(1, &[][..], (2, 1)), (2, &[1000][..], (1, 0)), (3, &[1003][..], (0, 0))] {
        let now = now + Duration::from_secs(seconds);
        let_go(&mut reaper, gone, now);
        assert_eq!((total(&smaller), used(&smaller, now).1), left);
    }
}

/// The kernel of this machine.
struct RealKernel;

impl KernelSockets for RealKernel {
    fn sockets(
        &mut self,
        waiting: bool,
        keep: &dyn Fn(&KernelSocket) -> bool,
    ) -> io::Result<Vec<KernelSocket>> {
        sock_diag::connections(waiting, Duration::from_secs(30), keep)
    }
    fn lists_bound(&self) -> bool {
        sock_diag::lists_bound(Duration::from_secs(30)).unwrap()
    }
    fn pause(&mut self) {
        thread::sleep(Duration::from_millis(500));
    }
}

/// A loopback address that no concurrent test run uses, so that its ports are not shared.
fn own_loopback(test: u8) -> Ipv4Addr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 | test << 4 | high & 15, middle, low)
}

fn connect(lease: &Lease, to: SocketAddr) -> Option<TcpStream> {
    let stream = upstream::connect(lease.source().socket(), to, TrafficClass::default(), None).ok()?;
    stream.set_nonblocking(false).unwrap();
    Some(stream)
}

#[test]
fn restart_during_flows_never_collides() {
    let flows = if limits::raise_open_files().unwrap() > 16_000 { 10_000 } else { 400 };
    let range = PortRange::new(10_001, 10_000 + flows + flows / 10).unwrap();
    let source = own_loopback(1);
    let listener = TcpListener::bind((source, 0)).unwrap();
    let to = listener.local_addr().unwrap();
    let (before, now) = (pools(source, range, &Arc::new(Ledger::new())), crate::clock::now());
    let mut open = Vec::new();
    for n in 0..flows {
        let lease = lease(&before, to, now).unwrap();
        let stream = connect(&lease, to).expect("a port of the first process");
        let (served, _) = listener.accept().unwrap();
        // in turn, everything that can be found: TIME_WAIT, nothing, FIN_WAIT2 without a program, CLOSE_WAIT,
        // ESTABLISHED
        let (stream, served) = match n % 10 {
            0 => {
                drop(stream);
                (None, None)
            }
            1 => {
                drop(served);
                (None, None)
            }
            2 => (None, Some(served)),
            3..=6 => (Some(stream), None),
            _ => (Some(stream), Some(served)),
        };
        open.push((stream, served));
        std::mem::forget(lease); // as a process that is killed
    }
    let after = pools(source, range, &Arc::new(Ledger::new()));
    let mut reconciler = Reconciler::default();
    let started = crate::clock::now();
    let seeded = reconciler.seed(&after, &mut RealKernel, now).unwrap();
    println!("{seeded} of {flows} flows in {:?}", started.elapsed());
    assert!(seeded >= usize::from(flows / 10 * 7), "{seeded}");
    let mut fresh = Vec::new();
    while let Some(lease) = lease(&after, to, now) {
        let stream = connect(&lease, to).unwrap_or_else(|| panic!("{lease:?} collided"));
        fresh.push((stream, lease));
        drop(listener.accept().unwrap());
    }
    assert!(fresh.len() >= usize::from(flows / 10), "{}", fresh.len());
    let report = reconciler.compare(&after, &mut RealKernel, now).unwrap();
    assert_eq!(report.difference(IpAddr::V4(source).into()), 0, "{:?}", report.foreign.first());
    drop((open, fresh));
}

#[test]
fn ledger_matches_kernel_under_churn() {
    let source = own_loopback(2);
    let listener = TcpListener::bind((source, 0)).unwrap();
    let to = listener.local_addr().unwrap();
    let range = PortRange::new(10_001, 10_200).unwrap();
    let pools = Arc::new(pools(source, range, &Arc::new(Ledger::new())));
    let (stop, flows) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let server = thread::spawn(move || {
        // each client sends one byte that says which end closes first; 0 ends the server
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut how = [0];
            if stream.read_exact(&mut how).is_err() {
                continue;
            }
            match how[0] {
                b'q' => return,
                b'c' => drop(stream.read(&mut how)), // until the client's FIN
                _ => drop(stream),
            }
        }
    });
    let clients: Vec<_> = (0..3)
        .map(|_| {
            let (pools, stop, flows) = (Arc::clone(&pools), Arc::clone(&stop), Arc::clone(&flows));
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    one_flow(&pools, to, flows.fetch_add(1, Ordering::Relaxed));
                }
            })
        })
        .collect();
    let (mut reaper, reaper_stop) = Reaper::new(pools.ledger());
    let reaper = thread::spawn(move || {
        let inquirer = Inquirer::open(Duration::from_secs(10)).unwrap();
        while reaper.wait() {
            reaper.reap(crate::clock::now(), |pairs| {
                let found = inquirer.ask(pairs, Duration::from_secs(30)).unwrap();
                found.into_iter().map(Some).collect()
            });
        }
    });
    let mut reconciler = Reconciler::default();
    let mut reports = Vec::new();
    while reports.len() < 4 || flows.load(Ordering::Relaxed) < 100 {
        assert!(!clients.iter().any(thread::JoinHandle::is_finished), "a client failed");
        let report = reconciler.compare(&pools, &mut RealKernel, crate::clock::now()).unwrap();
        reports.push(report);
        thread::sleep(Duration::from_millis(100));
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().unwrap();
    }
    io::Write::write_all(&mut TcpStream::connect(to).unwrap(), b"q").unwrap();
    server.join().unwrap();
    drop(reaper_stop);
    reaper.join().unwrap();
    println!("{} flows", flows.load(Ordering::Relaxed));
    for report in reports {
        assert_eq!(report.difference(IpAddr::V4(source).into()), 0, "{report:?}");
    }
}

/// Runs a flow that ends according to `n`.
fn one_flow(pools: &Pools, to: SocketAddr, n: u32) {
    let Some(mut lease) = lease(pools, to, crate::clock::now()) else { return };
    let mut stream = connect(&lease, to).unwrap_or_else(|| panic!("{lease:?} collided"));
    let mut rest = Vec::new();
    match n % 3 {
        0 => {
            io::Write::write_all(&mut stream, b"s").unwrap();
            stream.read_to_end(&mut rest).unwrap();
        }
        1 => {
            io::Write::write_all(&mut stream, b"c").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            stream.read_to_end(&mut rest).unwrap();
        }
        _ => {
            io::Write::write_all(&mut stream, b"c").unwrap();
            stream::reset_on_close(&stream).unwrap();
        }
    }
    let timestamps = stream::connection(&stream).unwrap().timestamps;
    lease.set_hold(match n % 3 {
        0 => PortHold::UntilGone { first_look: Duration::ZERO, timestamps },
        1 if !timestamps => PortHold::UNKNOWN,
        _ => PortHold::Free,
    });
    drop(stream);
}
