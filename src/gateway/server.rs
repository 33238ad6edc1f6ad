//! A worker's thread: an event loop and a listener of its own. A flow stays on the worker that took it in.

use super::admission::Slot;
use super::connection_balancer::{AcceptedConnection, ConnectionBalancer, LoadGuard};
use super::flow::Flow;
use super::heartbeat::Heartbeat;
use super::meters::CellWriterClaim;
use super::worker::{FlowSettings, GatewayState, Worker};
use super::{ending, session};
use crate::addr::{ClientAddr, OriginalDestination};
use crate::clock;
use crate::flow::{FLOW_SPAN, FlowId, PolicyVerdict};
use crate::outcome::Outcome;
use crate::sys::event_loop::{EventLoop, sleep, spawn, yield_now};
use crate::sys::listener::Listener;
use crate::sys::socket::Socket;
use crate::sys::traffic_class::TrafficClass;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use tracing::Instrument as _;
use tracing::field::Empty;

/// Phase of the gateway's shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownPhase {
    /// Normal operation.
    Running,
    /// No new flows; live ones may finish.
    Draining,
    /// Live flows are reset.
    Stopping,
}

/// Most connections accepted before live flows get their turn.
const BATCH: usize = 32;

/// Most connections that wait to be accepted by one worker; the kernel caps it at net.core.somaxconn.
pub const BACKLOG: u16 = 65_535;

/// Pause after `accept` failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Runs a worker on this thread until `stage` stops it and its flows are gone.
pub fn run(
    gateway: Arc<GatewayState>,
    settings: FlowSettings,
    claim: CellWriterClaim,
    listener: TcpListener,
    mut connections: ConnectionBalancer,
    mut stage: watch::Receiver<ShutdownPhase>,
    heartbeat: Heartbeat,
) -> io::Result<()> {
    EventLoop::run(async |event_loop| {
        let accepting = AcceptingWorker(Arc::clone(&gateway));
        let listener = Listener::new(listener, &event_loop)?;
        let worker = Rc::new(Worker::new(gateway, settings, claim, event_loop));
        spawn(tick(Rc::clone(&worker), heartbeat));
        // If the sender is gone, so is the gateway.
        tokio::select! {
            never = accept(&worker, &listener, &mut connections) => match never {},
            _ = stage.wait_for(|stage| *stage != ShutdownPhase::Running) => {}
        }
        accept_waiting(&worker, &listener, &connections).await;
        drop(listener);
        connections.close();
        while let Some(connection) = connections.drain_next().await {
            start_flow(&worker, connection).unwrap_or_else(|error| complain(&worker, &error));
        }
        drop(accepting);
        // Live flows may finish.
        let _ = stage.wait_for(|stage| *stage == ShutdownPhase::Stopping).await;
        // Flows that still live are dropped with the loop, and both their ends are reset: a plain exit would look like
        // a clean end of file to the client.
        worker.opener.set_cut_off(Outcome::Drained);
        Ok(())
    })?
}

/// A worker that may still begin flows; counted until it is dropped.
struct AcceptingWorker(Arc<GatewayState>);

impl Drop for AcceptingWorker {
    fn drop(&mut self) {
        self.0.accepting.fetch_sub(1, Ordering::Release);
    }
}

/// Turns on keepalive where it is due, and sends the heartbeat.
async fn tick(worker: Rc<Worker>, heartbeat: Heartbeat) {
    loop {
        sleep(TICK).await;
        heartbeat.beat();
        worker.event_loop.keep_alive(clock::now(), &worker.settings.liveness);
    }
}

const TICK: Duration = Duration::from_millis(250);

/// Accepts connections forever.
async fn accept(
    worker: &Rc<Worker>,
    listener: &Listener,
    connections: &mut ConnectionBalancer,
) -> Infallible {
    let mut passed_on = 0;
    loop {
        let taken = tokio::select! {
            connection = connections.passed_on() => {
                passed_on += 1;
                start_flow(worker, connection).map(|()| passed_on % BATCH == 0)
            }
            () = poll_fn(|cx| listener.poll_ready(cx)) => take_batch(worker, listener, connections),
        };
        match taken {
            // The new flows get their turn.
            Ok(true) => yield_now().await,
            Ok(false) => {}
            Err(error) => pause_after(worker, &error).await,
        }
    }
}

/// Accepts what waits before the listener closes: its clients count as connected, and a close would reset them without a record.
async fn accept_waiting(worker: &Rc<Worker>, listener: &Listener, connections: &ConnectionBalancer) {
    // Their events may not have been fetched.
    listener.mark_ready();
    // No more than a queue can hold, or clients that go on coming would keep the listener open.
    for _ in 0..=usize::from(BACKLOG) / BATCH {
        match take_batch(worker, listener, connections) {
            Ok(true) => yield_now().await,
            Ok(false) => return,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => return complain(worker, &error),
        }
    }
}

/// Accepts waiting connections, up to [`BATCH`]. True if more may wait.
fn take_batch(
    worker: &Rc<Worker>,
    listener: &Listener,
    connections: &ConnectionBalancer,
) -> io::Result<bool> {
    for _ in 0..BATCH {
        let (socket, peer) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        };
        if let Some(connection) = connections.share(socket, peer) {
            start_flow(worker, connection)?;
        }
    }
    Ok(true)
}

/// Counts and logs an error of accept, and pauses: the queue stays ready, and the loop would spin. A connection that
/// was aborted in the queue is no error.
async fn pause_after(worker: &Worker, error: &io::Error) {
    if error.kind() == io::ErrorKind::ConnectionAborted {
        return;
    }
    complain(worker, error);
    sleep(ACCEPT_PAUSE).await;
}

fn complain(worker: &Worker, error: &io::Error) {
    worker.gateway.accept_errors.increment(1);
    worker.complain(format_args!("cannot accept connections"), error);
}

/// Starts a flow on a connection. An error is the machine's; the flow has ended with it.
fn start_flow(worker: &Rc<Worker>, connection: AcceptedConnection) -> io::Result<()> {
    let AcceptedConnection { socket, peer, load_guard } = connection;
    let gateway = &worker.gateway;
    let id = FlowId { process: gateway.process, number: gateway.count.fetch_add(1, Ordering::Relaxed) };
    // Under TPROXY the local address is the one that the client dialled. Fails only if this is not a socket.
    let dialled = socket.local_addr().unwrap_or_else(|_| SocketAddr::from(([0; 4], 0)));
    // Dropped after the socket.
    let (from, to) = (ClientAddr::new(peer), OriginalDestination::tcp(dialled));
    let handle = worker.opener.open(id, from, to);
    let mut flow = Flow::begin(handle, worker.nobody.clone());
    if worker.settings.keeps_class {
        flow.class = TrafficClass::of_client(&socket);
        // Fails only if this is not a socket.
        let _ = flow.class.set_on(&socket, peer);
    }
    let client = Socket::new(socket, &worker.event_loop).inspect_err(|_| {
        turn_away(&mut flow);
        flow.record().detail =
            Some("the kernel has no memory, or no watch of `fs.epoll.max_user_watches`, left for it");
    })?;
    let Some(pass) = gateway.flows.enter() else {
        turn_away(&mut flow);
        return Ok(());
    };
    let slot = FlowSlot { _pass: pass, _load: load_guard };
    let task = flow_task(Rc::clone(worker), client, flow, slot);
    let span = tracing::debug_span!(FLOW_SPAN, %id, client = %from, tenant = Empty, name = Empty);
    if span.is_disabled() {
        spawn(task);
    } else {
        span.in_scope(|| tracing::debug!(destination = %to, "accepted"));
        // Boxed, so that flows carry no room for it when it is off.
        spawn(Box::pin(task.instrument(span)));
    }
    Ok(())
}

fn turn_away(flow: &mut Flow) {
    flow.record().verdict = Some(PolicyVerdict::Deny);
    flow.set_outcome(Outcome::GatewayFull);
}

/// A flow's slot in the gateway's limit, and its part in the worker's load.
struct FlowSlot {
    _pass: Slot,
    _load: LoadGuard,
}

/// Runs a whole flow. A gateway holds one of these futures for each flow, so they are small.
#[expect(clippy::manual_async_fn, reason = "an `async fn` holds each argument twice")]
fn flow_task(worker: Rc<Worker>, client: Socket, mut flow: Flow, slot: FlowSlot) -> impl Future<Output = ()> {
    async move {
        match session::run_session(&worker, &client, &mut flow).await {
            Ok(outcome) => flow.set_outcome(outcome),
            Err(ended) => ending::end_early(&worker, &client, &mut flow, ended).await,
        }
        // The socket first: readers of the record may rely on the flow being over.
        drop(client);
        drop(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::super::address_mismatches::AddressMismatchLog;
    use super::super::admission::Limit;
    use super::super::meters::{TenantHandles, TenantMeters};
    use super::super::snapshot::Snapshot;
    use super::super::unsteered_addresses::UnsteeredAddresses;
    use super::*;
    use crate::egress::Dialler;
    use crate::flow::{FlowEvent, FlowRecord, FlowSink, FlowTable};
    use crate::policy::{Policy, PrivateDestinations};
    use crate::relay::IdleTimeouts;
    use crate::sys::addresses::LocalAddresses;
    use crate::sys::liveness::Liveness;
    use crate::sys::stream;
    use arc_swap::ArcSwap;
    use metrics::Counter;
    use std::collections::HashSet;
    use std::net::TcpStream;
    use std::os::fd::OwnedFd;
    use std::sync::atomic::{AtomicU32, AtomicU64};
    use std::sync::mpsc;

    fn size_of_future<A, B, C, D, F: Future>(_: fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// A gateway without tenants, and the receiver of its records.
    fn gateway() -> (Arc<GatewayState>, mpsc::Receiver<FlowRecord>) {
        let policy = Policy::compile(&[], PrivateDestinations::ByCidr).unwrap();
        let snapshot = Snapshot {
            policy: policy.into(),
            tenants: Vec::new(),
            unsteered: UnsteeredAddresses::new(Vec::new(), LocalAddresses::default()).into(),
            connected: Arc::default(),
            candidate: None,
            verifier: None,
            revokes: true,
            help: None,
        };
        let (records, taken) = mpsc::channel();
        let sink: FlowSink = Box::new(move |event| {
            if let FlowEvent::Closed(record) = event {
                records.send(record.clone()).unwrap();
            }
        });
        let gateway = GatewayState {
            snapshot: ArcSwap::from_pointee(snapshot),
            flows: Limit::new(8),
            attempts: Limit::new(8),
            table: Arc::new(FlowTable::new(vec![sink])),
            nobody: TenantMeters::new(1, TenantHandles::noop()),
            accept_errors: Counter::noop(),
            accepting: AtomicU32::new(1),
            mismatches: AddressMismatchLog::default(),
            process: 0,
            count: AtomicU64::new(0),
        };
        (gateway.into(), taken)
    }

    const SETTINGS: FlowSettings = FlowSettings {
        max_hello: 1024,
        inspect_deadline: Duration::from_secs(1),
        keeps_class: true,
        dialler: Dialler { connect_timeout: Duration::from_secs(1), user_timeout: None },
        liveness: Liveness {
            idle: Duration::from_secs(60),
            interval: Duration::from_secs(1),
            probes: 3,
            user_timeout: None,
        },
        silence: IdleTimeouts { idle: None, half_open: Duration::from_secs(1) },
        most_pipes: 1,
    };

    #[test]
    fn unwatchable_connection_leaves_a_record() {
        let (gateway, records) = gateway();
        let peer = SocketAddr::from(([10, 0, 1, 7], 40000));
        EventLoop::run(async |event_loop| {
            let worker =
                Rc::new(Worker::new(gateway, SETTINGS, CellWriterClaim::all(1).remove(0), event_loop));
            // epoll refuses a file as it refuses a socket that is one too many.
            let file = OwnedFd::from(std::fs::File::open("/proc/self/exe").unwrap());
            let connection = ConnectionBalancer::of_workers(1).remove(0).share(file.into(), peer).unwrap();
            assert!(start_flow(&worker, connection).is_err());
        })
        .unwrap();
        let left: Vec<_> = records.iter().collect();
        let [record] = &left[..] else { panic!("{left:?}") };
        assert_eq!((record.client.socket(), record.outcome), (peer, Outcome::GatewayFull));
        assert!(record.detail.is_some());
    }

    #[test]
    fn waiting_connections_outlive_their_listener() {
        const WAITING: usize = 3 * BATCH + 1;
        let (gateway, records) = gateway();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        stream::prepare(&listener).unwrap();
        let address = listener.local_addr().unwrap();
        let clients: Vec<_> = (0..WAITING).map(|_| TcpStream::connect(address).unwrap()).collect();
        // The order to stop is there before the worker has seen any of them.
        let (_stage, stage) = watch::channel(ShutdownPhase::Stopping);
        let (claim, connections) =
            (CellWriterClaim::all(1).remove(0), ConnectionBalancer::of_workers(1).remove(0));
        let heartbeat = Heartbeat::default();
        run(Arc::clone(&gateway), SETTINGS, claim, listener, connections, stage, heartbeat).unwrap();
        let recorded: HashSet<_> = records.try_iter().map(|record| record.client.socket()).collect();
        assert!(clients.iter().all(|client| recorded.contains(&client.local_addr().unwrap())));
        assert_eq!((recorded.len(), gateway.accepting.load(Ordering::Acquire)), (WAITING, 0));
    }

    #[test]
    fn flow_task_is_small() {
        let size = size_of_future(flow_task);
        assert!(size <= MOST, "{size} bytes");
    }

    /// Bytes. An idle flow shall cost 1.6 KiB in all: with its entry, which `flow_entry_is_small` bounds, and two sockets.
    const MOST: usize = 520;
}
