//! Reconciles the ledger with the kernel: ports left by an earlier process, ports held by other programs, and the
//! causes of collisions. docs/ports.md explains it.

mod held_ports;

use super::active_config::ActiveConfig;
use super::failure_notice::FailureNotice;
use super::log_list::{LOGGED, list};
use super::pools::listeners_in_the_way;
use crate::addr::{DialAddr, LeasedSource, PortRange};
use crate::clock;
use crate::config::Config;
use crate::egress::{Discrepancies, KernelSockets, Ledger, Pools, ReaperStop, Reconciler};
use crate::steering;
use crate::sys::reserved_ports;
use crate::sys::sock_diag::{self, KernelSocket, States, TcpState};
use crate::telemetry::{SockDiagMeters, StandingProblem};
use crate::threads;
use arc_swap::ArcSwap;
use metrics::Counter;
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

/// Interval of explaining collisions.
const TICK: Duration = Duration::from_secs(2);
/// Ticks per comparison of the ledger with the kernel.
const TICKS_PER_COMPARISON: u64 = 5;
/// Pause between the two looks that confirm a difference.
const SECOND_LOOK: Duration = Duration::from_millis(500);
/// Timeout; a list of 15,000 sockets takes some 10 ms.
const PATIENCE: Duration = Duration::from_secs(5);

/// Report of the last comparison, shared with the metrics.
pub(crate) type LastReconciliation = Arc<ArcSwap<Discrepancies>>;

/// Reconciles until dropped.
pub(crate) struct ReconcilerThread {
    last: LastReconciliation,
    problem: StandingProblem,
    /// The threads end when these are dropped.
    _stop: Sender<()>,
    _reaper: ReaperStop,
}

impl ReconcilerThread {
    /// Seeds the ledger, before anybody leases from it, and goes on comparing on a thread of its own.
    pub(crate) fn start(
        config: &Config,
        in_force: &Arc<ActiveConfig>,
        ledger: &Arc<Ledger>,
        meters: &SockDiagMeters,
    ) -> io::Result<Self> {
        warn_of_ports_not_reserved(config);
        let pools = Arc::clone(&in_force.current().pools);
        let mut kernel = LiveKernel::new();
        let mut reconciler = Reconciler::default();
        match reconciler.seed(&pools, &mut kernel, clock::now()) {
            Ok(0) => {}
            Ok(ports) => tracing::info!(ports, "ports that are in use in the kernel are held"),
            Err(error) => tracing::warn!(
                %error,
                "cannot list the kernel's sockets, so what an earlier process left behind will collide"
            ),
        }
        let mut watch = ReconcileLoop {
            kernel,
            reconciler,
            listeners: BTreeSet::new(),
            in_force: Arc::clone(in_force),
            ledger: Arc::clone(ledger),
            last: LastReconciliation::default(),
            failures: meters.comparison.clone(),
            blind: FailureNotice::default(),
        };
        let (last, problem) = (Arc::clone(&watch.last), watch.blind.problem());
        let (stop, stopped) = mpsc::channel::<()>();
        threads::spawn("reconcile", move || {
            let mut tick = 0;
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                tick += 1;
                watch.tick(tick);
            }
        })?;
        Ok(Self { last, problem, _stop: stop, _reaper: held_ports::reap(ledger, meters.held_ports.clone())? })
    }

    /// The reason why the last comparison could not be made.
    pub(crate) fn problem(&self) -> StandingProblem {
        self.problem.clone()
    }

    pub(crate) fn last(&self) -> LastReconciliation {
        Arc::clone(&self.last)
    }
}

/// State of the thread.
struct ReconcileLoop {
    kernel: LiveKernel,
    reconciler: Reconciler,
    /// Listeners already reported.
    listeners: BTreeSet<SocketAddr>,
    in_force: Arc<ActiveConfig>,
    ledger: Arc<Ledger>,
    last: LastReconciliation,
    /// Comparisons that could not be made.
    failures: Counter,
    blind: FailureNotice,
}

impl ReconcileLoop {
    fn tick(&mut self, tick: u64) {
        let pools = Arc::clone(&self.in_force.current().pools);
        let collisions = self.ledger.take_collisions();
        if !collisions.is_empty() {
            explain(&collisions);
        }
        if tick.is_multiple_of(TICKS_PER_COMPARISON) {
            self.compare(&pools);
            self.report_listeners(&pools);
        }
    }

    fn compare(&mut self, pools: &Pools) {
        match self.reconciler.compare(pools, &mut self.kernel, clock::now()) {
            Ok(report) => {
                self.blind.clear();
                log(&report);
                self.last.store(Arc::new(report));
            }
            Err(error) => {
                self.failures.increment(1);
                self.blind.note(format!("cannot compare the port ledger with the kernel: {error}"));
            }
        }
    }

    fn report_listeners(&mut self, pools: &Pools) {
        let Ok(listeners) = listeners_in_the_way(pools) else { return };
        let fresh: BTreeSet<_> = listeners.difference(&self.listeners).copied().collect();
        if !fresh.is_empty() {
            tracing::warn!(
                listeners = %list(&fresh),
                "another program has begun to listen on ports of the pools, which will collide; reload to exclude \
                 them, and find it with `ss -ltnp`"
            );
        }
        self.listeners = listeners;
    }
}

struct LiveKernel {
    lists_bound: bool,
}

impl LiveKernel {
    fn new() -> Self {
        Self { lists_bound: sock_diag::lists_bound(PATIENCE).unwrap_or(false) }
    }
}

impl KernelSockets for LiveKernel {
    fn sockets(
        &mut self,
        waiting: bool,
        keep: &dyn Fn(&KernelSocket) -> bool,
    ) -> io::Result<Vec<KernelSocket>> {
        sock_diag::connections(waiting, PATIENCE, keep)
    }

    fn lists_bound(&self) -> bool {
        self.lists_bound
    }

    fn pause(&mut self) {
        thread::sleep(SECOND_LOOK);
    }
}

fn log(report: &Discrepancies) {
    for socket in report.foreign.iter().take(LOGGED) {
        tracing::warn!(
            source = %socket.source, destination = %socket.destination, state = socket.state.as_str(),
            uid = socket.uid, inode = socket.inode,
            "a port that should be free is in use; it is held until that socket is gone"
        );
    }
    for (source, destination) in report.unseen.iter().take(LOGGED) {
        tracing::warn!(%source, %destination, "a port is leased, and no socket has it");
    }
    let (foreign, unseen) = (report.foreign.len(), report.unseen.len());
    if foreign.max(unseen) > LOGGED {
        tracing::warn!(
            foreign,
            unseen,
            "the port ledger and the kernel differ on more ports than are logged"
        );
    }
}

/// Logs the sockets that caused collisions.
fn explain(collisions: &[(LeasedSource, DialAddr)]) {
    let ports: BTreeSet<_> = collisions.iter().map(|(source, _)| source.port()).collect();
    let states = States::CONNECTED | States::BOUND | States::LISTENING;
    let found = sock_diag::sockets(states, PATIENCE, |socket| ports.contains(&socket.source.port()));
    let sockets = match found {
        Ok(sockets) => sockets,
        Err(error) => {
            tracing::warn!(%error, collisions = collisions.len(), "flows had to take other ports, and the kernel's sockets cannot be listed");
            return;
        }
    };
    for (source, to) in collisions.iter().take(LOGGED) {
        let (source, destination) = (source.socket(), to.socket());
        if let Some(socket) = culprit(&sockets, source, destination) {
            tracing::warn!(
                %source, %destination, by = %socket.source, state = socket.state.as_str(),
                uid = socket.uid, inode = socket.inode,
                "a flow had to take another port: this one was in use"
            );
        } else {
            tracing::warn!(
                %source, %destination,
                "a flow had to take another port: this one was in use, by a socket that is gone"
            );
        }
    }
}

/// Returns a socket with the same source and destination, else one that prevents any bind of the port.
fn culprit(sockets: &[KernelSocket], source: SocketAddr, to: SocketAddr) -> Option<&KernelSocket> {
    let same = sockets.iter().find(|socket| socket.source == source && socket.destination == to);
    same.or_else(|| {
        sockets.iter().find(|socket| {
            let here = socket.source.ip().is_unspecified() || socket.source.ip() == source.ip();
            let alone = socket.state == TcpState::Listen || socket.destination.port() == 0;
            here && alone && socket.source.port() == source.port()
        })
    })
}

/// Warns of pool ports that are not reserved, which the kernel may give to other programs.
fn warn_of_ports_not_reserved(config: &Config) {
    let ranges: Vec<PortRange> = config.pools.iter().map(|pool| pool.ports).collect();
    let wanted = steering::reserved_ports(&ranges, ephemeral_ports());
    let present = reserved_ports::reserved_ports().ok();
    if let Some(wrong) = steering::not_reserved(&wanted, present.as_deref()) {
        let all: Vec<_> = wanted.iter().map(ToString::to_string).collect();
        tracing::warn!(
            "{wrong}, so the kernel may give them to other programs; run {}, or `sysctl -w net.ipv4.ip_local_reserved_ports={}`",
            steering::REMEDY,
            all.join(",")
        );
    }
}

/// Returns the kernel's ephemeral port range.
pub fn ephemeral_ports() -> PortRange {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ends = range.split_whitespace().map(str::parse);
    match (ends.next(), ends.next()) {
        (Some(Ok(first)), Some(Ok(last))) => PortRange::new(first, last),
        _ => None,
    }
    .unwrap_or_else(steering::default_ephemeral)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(source: &str, destination: &str, state: TcpState) -> KernelSocket {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        KernelSocket { source, destination, state, expires: None, uid: 0, inode: 7, cookie: 1 }
    }

    #[test]
    fn collision_names_its_cause() {
        let nobody = "0.0.0.0:0";
        let same = socket("192.0.2.1:5000", "198.51.100.1:443", TcpState::LastAck);
        let elsewhere = socket("192.0.2.1:5000", "198.51.100.2:443", TcpState::Established);
        let everywhere = socket("0.0.0.0:5000", nobody, TcpState::Listen);
        let bound = socket("192.0.2.1:5000", nobody, TcpState::Bound);
        let neighbour = socket("192.0.2.2:5000", nobody, TcpState::Listen);
        let of = |sockets: &[KernelSocket]| {
            let (source, to) = ("192.0.2.1:5000".parse().unwrap(), "198.51.100.1:443".parse().unwrap());
            culprit(sockets, source, to).copied()
        };
        assert_eq!(of(&[elsewhere, everywhere, same]), Some(same));
        assert_eq!(of(&[elsewhere, neighbour, everywhere]), Some(everywhere));
        assert_eq!(of(&[elsewhere, bound]), Some(bound));
        assert_eq!(of(&[elsewhere, neighbour]), None);
    }
}
