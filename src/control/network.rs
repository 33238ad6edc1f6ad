//! The `network` thread: follows changes of the machine's network that matter to the gateway, which are its own addresses,
//! those of the pools, the routes out, and steering.

mod expected;
mod families;
mod pace;
mod repairs;
mod source_states;
mod steering_watch;

pub(crate) use expected::ExpectedNetwork;
pub(crate) use families::RefusedFamilies;
pub(crate) use steering_watch::SteeringRenewal;

use super::active_config::ActiveConfig;
use super::failure_notice::FailureNotice;
use crate::admin::Readiness;
use crate::clock;
use crate::gateway::GatewayState;
use crate::steering::Part;
use crate::sys::addresses;
use crate::sys::changes::{ChangeListener, ChangeWaker};
use crate::sys::connected::{self, ConnectedRoutes};
use crate::threads;
use arc_swap::ArcSwap;
use families::FamilyRefusals;
use pace::LookBudget;
use source_states::SourceStates;
use std::collections::BTreeSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::thread;
use std::time::{Duration, Instant};
use steering_watch::SteeringWatch;

/// Longest time between two looks: the legacy iptables send no notification of a change.
const TICK: Duration = Duration::from_secs(2);
/// Longest time that a reload waits for steering to be renewed.
const RENEWAL: Duration = Duration::from_secs(5);

/// The findings of the last look, shared with the metrics.
pub(crate) type LastNetworkState = Arc<ArcSwap<NetworkState>>;

/// The findings of one look.
#[derive(Debug, Clone, Default)]
pub(crate) struct NetworkState {
    /// The parts of steering that are not in place; `None` if steering is not watched or could not be read.
    pub(crate) lost: Option<BTreeSet<Part>>,
    /// True if the watch of steering has failed; `None` if steering is not watched.
    pub(crate) failing: Option<bool>,
    /// Faults of what is looked at that readiness mentions without being affected.
    pub(crate) notes: Vec<String>,
    /// Requests for repair since the start.
    pub(crate) repairs: u64,
    /// Connections refused at their SYN since the start, IPv4 and IPv6.
    pub(crate) refused: [u64; 2],
    /// The families that are refused so.
    pub(crate) families: Arc<RefusedFamilies>,
}

/// A handle to the thread, which ends when the last handle is dropped.
#[derive(Clone)]
pub(crate) struct NetworkThread {
    orders: Sender<WatchOrder>,
    last: LastNetworkState,
    alive: Arc<ThreadGuard>,
}

/// Ends the thread when dropped.
struct ThreadGuard {
    stop: Arc<AtomicBool>,
    waker: ChangeWaker,
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
    pub(crate) fn start(
        gateway: &Arc<GatewayState>,
        in_force: &Arc<ActiveConfig>,
        expected: ExpectedNetwork,
        takes_ipv6: bool,
        readiness: &Readiness,
    ) -> io::Result<Self> {
        let changes = ChangeListener::listen()?;
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
            deaf: FailureNotice::default(),
            no_addresses: FailureNotice::default(),
            no_links: FailureNotice::default(),
            gateway: Arc::clone(gateway),
            in_force: Arc::clone(in_force),
        };
        watch.look();
        let (orders, ordered) = mpsc::channel();
        threads::spawn("network", move || {
            let last = Arc::clone(&watch.last);
            let mut is_reported = false;
            while !stop.load(Ordering::Acquire) {
                if !survives(&last, &mut is_reported, || watch.next(&changes, &ordered)) {
                    thread::sleep(TICK);
                }
            }
        })?;
        Ok(Self { orders, last, alive: Arc::new(alive) })
    }

    pub(crate) fn last(&self) -> LastNetworkState {
        Arc::clone(&self.last)
    }

    /// Has the steering of a newly loaded configuration watched. If it differs from the one before, asks for it to be put in
    /// place, and waits some seconds for that.
    pub(crate) fn expect(&self, expected: ExpectedNetwork) -> SteeringRenewal {
        let (reply, renewal) = mpsc::sync_channel(1);
        if self.orders.send(WatchOrder { expected, reply }).is_err() {
            return SteeringRenewal::ByHand;
        }
        self.alive.waker.wake();
        match renewal.recv_timeout(RENEWAL * 2) {
            Ok(renewal) => renewal,
            Err(RecvTimeoutError::Timeout) => SteeringRenewal::Pending,
            // A bug has ended the thread, or its look at the order: nothing was compared or requested.
            Err(RecvTimeoutError::Disconnected) => SteeringRenewal::ByHand,
        }
    }
}

/// Runs one round of the thread; false if it panicked. Then nothing is known of steering, which readiness and metrics show.
fn survives(last: &LastNetworkState, is_reported: &mut bool, round: impl FnOnce()) -> bool {
    if catch_unwind(AssertUnwindSafe(round)).is_ok() {
        *is_reported = false;
        return true;
    }
    if !std::mem::replace(is_reported, true) {
        tracing::error!(
            "the watch of the machine's network failed in a way that is a bug; please report it, and `systemctl restart egret`"
        );
    }
    let unknown = "the watch of the machine's network has failed, so steering may not be in place: see the gateway's log";
    last.store(Arc::new(NetworkState {
        lost: None,
        failing: Some(true),
        notes: vec![unknown.to_owned()],
        ..NetworkState::clone(&last.load())
    }));
    false
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
    /// Failures to receive notifications, and to read addresses and the routes of links.
    deaf: FailureNotice,
    no_addresses: FailureNotice,
    no_links: FailureNotice,
    gateway: Arc<GatewayState>,
    in_force: Arc<ActiveConfig>,
}

impl NetworkWatch {
    /// Waits for a change and looks.
    fn next(&mut self, changes: &ChangeListener, ordered: &Receiver<WatchOrder>) {
        let now = clock::now();
        let due = self.steering.due().map_or(TICK, |due| due.saturating_duration_since(now).min(TICK));
        let wait = if self.states.is_behind() { Duration::ZERO } else { due };
        match changes.wait(wait) {
            Ok(has_changed) => {
                self.deaf.clear();
                self.has_changed |= has_changed;
            }
            Err(error) => {
                self.deaf.note(format!("cannot receive notifications of network changes: {error}; checking every two seconds instead"));
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
            Ok(local) => {
                self.no_addresses.clear();
                self.gateway.snapshot.load().unsteered.reassign(local);
            }
            Err(error) => self.no_addresses.note(format!(
                "cannot read the machine's addresses: {error}; flows to new ones are not recognised as such"
            )),
        }
        if thorough && self.has_changed {
            self.read_connected();
        }
        let lost = self.steering.look(clock::now());
        let seen = NetworkState {
            lost,
            failing: self.steering.is_failing(),
            notes: self.notes(),
            repairs: self.steering.requests(),
            refused: self.families.counted(),
            families: self.families.in_force(),
        };
        self.last.store(Arc::new(seen));
    }

    /// Text that readiness mentions without being affected.
    fn notes(&self) -> Vec<String> {
        let own =
            [&self.deaf, &self.no_addresses, &self.no_links].into_iter().filter_map(FailureNotice::text);
        let notes = self.steering.notes().into_iter().chain(self.families.notes());
        notes.chain(self.states.notes()).chain(own).collect()
    }

    /// Reads the networks of the machine's links, out of all of its routes, of which there may be a million.
    fn read_connected(&mut self) {
        match connected::routes() {
            Ok(ConnectedRoutes { networks, routers }) => {
                self.gateway.snapshot.load().connected.replace(networks, &routers);
                self.has_changed = false;
                self.no_links.clear();
            }
            Err(error) => self.no_links.note(format!(
                "cannot read the routes of the machine's links: {error}; those of before go on to count"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn expected() -> ExpectedNetwork {
        let folder = tempfile::tempdir().unwrap();
        let main = folder.path().join("egret.toml");
        let text =
            "[steering]\ninterfaces = [\"ens6\"]\n[[pool]]\nname = \"p\"\naddresses = [\"203.0.113.16\"]\n";
        std::fs::write(&main, text).unwrap();
        ExpectedNetwork::of(&config::load(&main).unwrap().config, 15001)
    }

    fn network() -> (NetworkThread, Receiver<WatchOrder>) {
        let (orders, ordered) = mpsc::channel();
        let waker = ChangeListener::listen().unwrap().waker();
        let alive = ThreadGuard { stop: Arc::default(), waker };
        (NetworkThread { orders, last: LastNetworkState::default(), alive: Arc::new(alive) }, ordered)
    }

    #[test]
    fn dead_watch_does_not_mean_intact_steering() {
        let (network, ordered) = network();
        drop(ordered);
        assert_eq!(network.expect(expected()), SteeringRenewal::ByHand);
        let (network, ordered) = self::network();
        let dies = thread::spawn(move || drop(ordered.recv()));
        assert_eq!(network.expect(expected()), SteeringRenewal::ByHand);
        dies.join().unwrap();
    }

    #[test]
    fn panic_of_the_watch_is_visible() {
        let last = LastNetworkState::default();
        last.store(Arc::new(NetworkState {
            lost: Some(BTreeSet::new()),
            repairs: 3,
            ..NetworkState::default()
        }));
        let mut is_reported = false;
        assert!(survives(&last, &mut is_reported, || {}));
        assert_eq!((&last.load().lost, last.load().notes.len()), (&Some(BTreeSet::new()), 0));
        assert!(!survives(&last, &mut is_reported, || panic!("a bug")));
        let seen = last.load();
        assert_eq!((&seen.lost, seen.failing, seen.repairs), (&None, Some(true), 3));
        assert!(seen.notes[0].contains("has failed"), "{:?}", seen.notes);
    }
}
