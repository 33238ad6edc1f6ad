//! The `network` thread: follows changes of the machine's network that matter to the gateway, which are its own addresses,
//! those of the pools, the routes out, and steering.

mod expected;
mod families;
mod pace;
mod repairs;
mod source_states;
mod steering_watch;

pub(super) use expected::ExpectedNetwork;
pub(super) use steering_watch::SteeringRenewal;

use super::active_config::ActiveConfig;
use crate::admin::Readiness;
use crate::clock;
use crate::gateway::GatewayState;
use crate::steering::Part;
use crate::sys::changes::{Changes, Waker};
use crate::sys::{addresses, connected};
use arc_swap::ArcSwap;
use families::FamilyRefusals;
use pace::LookBudget;
use source_states::SourceStates;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::thread;
use std::time::{Duration, Instant};
use steering_watch::SteeringWatch;

/// Longest time between two looks: the legacy iptables send no notification of a change.
const TICK: Duration = Duration::from_secs(2);
/// Longest time that a reload waits for steering to be renewed.
const RENEWAL: Duration = Duration::from_secs(5);

/// The findings of the last look, shared with the metrics.
pub(super) type LastNetworkState = Arc<ArcSwap<NetworkState>>;

/// The findings of one look.
#[derive(Debug, Clone, Default)]
pub(super) struct NetworkState {
    /// The parts of steering that are not in place; `None` if steering is not watched or could not be read.
    pub(super) lost: Option<BTreeSet<Part>>,
    /// Requests for repair since the start.
    pub(super) repairs: u64,
    /// Connections refused at their SYN since the start, IPv4 and IPv6.
    pub(super) refused: [u64; 2],
}

/// A handle to the thread, which ends when the last handle is dropped.
#[derive(Clone)]
pub(super) struct NetworkThread {
    orders: Sender<WatchOrder>,
    last: LastNetworkState,
    alive: Arc<ThreadGuard>,
}

/// Ends the thread when dropped.
struct ThreadGuard {
    stop: Arc<AtomicBool>,
    waker: Waker,
}

impl Drop for ThreadGuard {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// The steering of a newly loaded configuration, for the thread to watch from now on.
struct WatchOrder {
    expected: ExpectedNetwork,
    reply: SyncSender<SteeringRenewal>,
}

impl NetworkThread {
    /// Starts the thread. The first look is over when this returns, so that readiness is right from the start.
    pub(super) fn start(
        gateway: &Arc<GatewayState>,
        in_force: &Arc<ActiveConfig>,
        expected: ExpectedNetwork,
        takes_ipv6: bool,
        readiness: &Readiness,
    ) -> io::Result<Self> {
        let changes = Changes::listen()?;
        let last = LastNetworkState::default();
        let stop = Arc::new(AtomicBool::new(false));
        let alive = ThreadGuard { stop: Arc::clone(&stop), waker: changes.waker() };
        let mut watch = NetworkWatch {
            states: SourceStates::new(&in_force.current().pools),
            families: FamilyRefusals::new(expected.scope(), expected.clients.clone(), takes_ipv6),
            steering: SteeringWatch::new(expected, readiness.clone()),
            last: Arc::clone(&last),
            thorough: None,
            pace: LookBudget::new(clock::now()),
            has_changed: true,
            gateway: Arc::clone(gateway),
            in_force: Arc::clone(in_force),
        };
        watch.look();
        let (orders, ordered) = mpsc::channel();
        thread::Builder::new().name("network".to_owned()).spawn(move || {
            while !stop.load(Ordering::Acquire) {
                watch.next(&changes, &ordered);
            }
        })?;
        Ok(Self { orders, last, alive: Arc::new(alive) })
    }

    pub(super) fn last(&self) -> LastNetworkState {
        Arc::clone(&self.last)
    }

    /// Has the steering of a newly loaded configuration watched. If it differs from the one before, asks for it to be put in
    /// place, and waits some seconds for that.
    pub(super) fn expect(&self, expected: ExpectedNetwork) -> SteeringRenewal {
        let (reply, renewal) = mpsc::sync_channel(1);
        if self.orders.send(WatchOrder { expected, reply }).is_err() {
            return SteeringRenewal::Unneeded;
        }
        self.alive.waker.wake();
        // the thread answers in time; if it is gone nothing was renewed
        renewal.recv_timeout(RENEWAL * 2).unwrap_or(SteeringRenewal::Pending)
    }
}

/// The state of the thread.
struct NetworkWatch {
    states: SourceStates,
    families: FamilyRefusals,
    steering: SteeringWatch,
    last: LastNetworkState,
    /// The time of the last thorough look.
    thorough: Option<Instant>,
    pace: LookBudget,
    /// Links, addresses or routes may have changed since the last thorough look.
    has_changed: bool,
    gateway: Arc<GatewayState>,
    in_force: Arc<ActiveConfig>,
}

impl NetworkWatch {
    /// Waits for a change and looks.
    fn next(&mut self, changes: &Changes, ordered: &Receiver<WatchOrder>) {
        let now = clock::now();
        let due = self.steering.due().map_or(TICK, |due| due.saturating_duration_since(now).min(TICK));
        let wait = if self.states.is_behind() { Duration::ZERO } else { due };
        match changes.wait(wait) {
            Ok(has_changed) => self.has_changed |= has_changed,
            Err(error) => {
                tracing::warn!(%error, "cannot receive notifications of network changes; checking every two seconds instead");
                thread::sleep(TICK);
                self.has_changed = true;
            }
        }
        for WatchOrder { expected, reply } in ordered.try_iter() {
            self.families.expect(expected.scope(), expected.clients.clone());
            self.steering.expect(expected, reply, clock::now() + RENEWAL);
        }
        let start = clock::now();
        self.look();
        thread::sleep(self.pace.pause(start, clock::now()));
    }

    fn look(&mut self) {
        let pools = Arc::clone(&self.in_force.current().pools);
        let now = clock::now();
        let thorough = self.thorough.is_none_or(|last| now - last >= TICK);
        if thorough {
            self.thorough = Some(now);
        }
        self.states.check(&pools, thorough);
        self.families.check(&pools);
        match addresses::local() {
            Ok(local) => self.gateway.snapshot.load().own.reassign(local),
            Err(error) => tracing::warn!(%error, "cannot read the machine's addresses"),
        }
        if thorough && self.has_changed {
            self.read_connected();
        }
        let lost = self.steering.look(clock::now());
        let (repairs, refused) = (self.steering.requests(), self.families.counted());
        self.last.store(Arc::new(NetworkState { lost, repairs, refused }));
    }

    /// Reads the networks of the machine's links, out of all of its routes, of which there may be a million.
    fn read_connected(&mut self) {
        match connected::networks() {
            Ok(networks) => {
                self.gateway.snapshot.load().connected.replace(networks);
                self.has_changed = false;
            }
            Err(error) => tracing::warn!(%error, "cannot read the routes of the machine's links"),
        }
    }
}
