//! Looks at what the gateway relies on in the machine's network, whenever the kernel says that something has changed:
//! its own addresses, those of the pools, the ways out, and the steering that brings traffic to it.

mod expected;
mod families;
mod repairs;
mod source_states;
mod steering_watch;

pub(super) use expected::Expected;
pub(super) use steering_watch::Renewal;

use super::in_force::InForce;
use crate::admin::Readiness;
use crate::clock;
use crate::gateway::Gateway;
use crate::steering::Part;
use crate::sys::changes::{Changes, Waker};
use crate::sys::{addresses, connected};
use arc_swap::ArcSwap;
use families::Families;
use source_states::SourceStates;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, SyncSender};
use std::thread;
use std::time::{Duration, Instant};
use steering_watch::SteeringWatch;

/// It looks this often though nothing was heard: the legacy iptables say nothing when they change.
const TICK: Duration = Duration::from_secs(2);
/// From one look to the next at least, and this many times as long as the look took: where routes change all the time
/// it costs a tenth of a core.
const PAUSE: Duration = Duration::from_millis(10);
const PAUSE_PER_LOOK: u32 = 9;
/// How long a reload waits for steering to be renewed.
const RENEWAL: Duration = Duration::from_secs(5);

/// What the last look found. Shared with whoever renders the metrics.
pub(super) type LastLook = Arc<ArcSwap<Seen>>;

/// What a look found.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// The parts of steering that are not in place; `None` if nobody looks, or the kernel does not say.
    pub(super) lost: Option<BTreeSet<Part>>,
    /// Requests for repair since the start.
    pub(super) repairs: u64,
    /// Connections refused at their SYN since the start, IPv4 and IPv6.
    pub(super) refused: [u64; 2],
}

/// Watches until the last of these is dropped.
#[derive(Clone)]
pub(super) struct Network {
    orders: Sender<Order>,
    last: LastLook,
    alive: Arc<Alive>,
}

/// The thread ends when this is gone.
struct Alive {
    stop: Arc<AtomicBool>,
    waker: Waker,
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// Another steering is in force.
struct Order {
    expected: Expected,
    reply: SyncSender<Renewal>,
}

impl Network {
    /// Looks once before it yields, so that readiness is true from the first moment on.
    pub(super) fn start(
        gateway: &Arc<Gateway>,
        in_force: &Arc<InForce>,
        expected: Expected,
        takes_ipv6: bool,
        readiness: &Readiness,
    ) -> io::Result<Self> {
        let changes = Changes::listen()?;
        let last = LastLook::default();
        let stop = Arc::new(AtomicBool::new(false));
        let alive = Alive { stop: Arc::clone(&stop), waker: changes.waker() };
        let mut watch = Watch {
            states: SourceStates::new(&in_force.current().pools),
            families: Families::new(expected.scope(), expected.clients.clone(), takes_ipv6),
            steering: SteeringWatch::new(expected, readiness.clone()),
            last: Arc::clone(&last),
            thorough: None,
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

    pub(super) fn last(&self) -> LastLook {
        Arc::clone(&self.last)
    }

    /// Has another steering watched, and asks for it to be put in place if it is another one indeed; what has come of
    /// that after some seconds.
    pub(super) fn expect(&self, expected: Expected) -> Renewal {
        let (reply, renewal) = mpsc::sync_channel(1);
        if self.orders.send(Order { expected, reply }).is_err() {
            return Renewal::Unneeded;
        }
        self.alive.waker.wake();
        // the thread answers in time; if it is gone nothing was renewed
        renewal.recv_timeout(RENEWAL * 2).unwrap_or(Renewal::Pending)
    }
}

/// What the thread works with.
struct Watch {
    states: SourceStates,
    families: Families,
    steering: SteeringWatch,
    last: LastLook,
    /// When every source address was looked up the hard way.
    thorough: Option<Instant>,
    gateway: Arc<Gateway>,
    in_force: Arc<InForce>,
}

impl Watch {
    /// Waits for a change and looks.
    fn next(&mut self, changes: &Changes, ordered: &Receiver<Order>) {
        let now = clock::now();
        let wait = self.steering.due().map_or(TICK, |due| due.saturating_duration_since(now).min(TICK));
        if let Err(error) = changes.wait(wait) {
            tracing::warn!(%error, "cannot hear of changes of the network; looking all the same");
            thread::sleep(TICK);
        }
        for Order { expected, reply } in ordered.try_iter() {
            self.families.expect(expected.scope(), expected.clients.clone());
            self.steering.expect(expected, reply, clock::now() + RENEWAL);
        }
        let start = clock::now();
        self.look();
        thread::sleep(PAUSE.max((clock::now() - start) * PAUSE_PER_LOOK));
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
        // Lists every route of the machine, which may be a million.
        match thorough.then(connected::networks) {
            Some(Ok(networks)) => self.gateway.snapshot.load().connected.replace(networks),
            Some(Err(error)) => tracing::warn!(%error, "cannot read the routes of the machine's links"),
            None => {}
        }
        let lost = self.steering.look(clock::now());
        let (repairs, refused) = (self.steering.requests(), self.families.counted());
        self.last.store(Arc::new(Seen { lost, repairs, refused }));
    }
}
