//! A worker's thread: a runtime and a listener of its own. A flow lives and dies on the worker that accepted it.

use super::admission::Pass;
use super::flow::Flow;
use super::leg::Leg;
use super::meters::Seat;
use super::record::{FlowId, Verdict};
use super::worker::{Gateway, Settings, Worker};
use super::{ending, session};
use crate::addr::{ClientAddr, OriginalDestination};
use crate::clock;
use crate::outcome::Outcome;
use crate::sys::listener::Listener;
use crate::sys::socket::{Reactor, Socket};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::runtime::LocalOptions;
use tokio::sync::watch;
use tokio::task::spawn_local;

/// How far the gateway's stop has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It runs.
    Running,
    /// It takes no new flows; those that live may finish.
    Draining,
    /// It resets what still lives.
    Stopping,
}

/// Connections that are taken in before the flows that live get their turn.
const BATCH: usize = 32;

/// After `accept` has failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Runs a worker on this thread until `stage` says stop, and its flows are gone.
pub fn run(
    gateway: Arc<Gateway>,
    settings: Settings,
    seat: Seat,
    listener: TcpListener,
    mut stage: watch::Receiver<Stage>,
) -> io::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    let reactor = {
        let _in_runtime = runtime.enter();
        Reactor::new()?
    };
    let worker = Rc::new(Worker::new(gateway, settings, seat, Rc::clone(&reactor)));
    runtime.block_on(async {
        // As tasks: what wakes the future that is blocked on goes through an eventfd.
        let reactor = spawn_local(async move { reactor.run().await });
        let accepting = spawn_local(accept(Rc::clone(&worker), Listener::new(listener)?, stage.clone()));
        spawn_local(tick(Rc::clone(&worker)));
        let until_stopped = async {
            accepting.await?;
            // Those that live may finish. A sender that is gone is a gateway that is gone.
            let _ = stage.wait_for(|stage| *stage == Stage::Stopping).await;
            Ok(())
        };
        tokio::select! {
            error = reactor => Err(error?),
            result = until_stopped => result,
        }
    })?;
    // What still lives is dropped here, and both its ends are reset: a plain exit would look like a clean end of
    // file to the client.
    worker.epilogue.cut_off.set(Outcome::Drained);
    drop(runtime);
    Ok(())
}

/// Sees to flows that have come of age. And has a timer due soon at any time: setting one that is due before all others
/// goes through an eventfd, and each flow sets several.
async fn tick(worker: Rc<Worker>) {
    let mut ticks = tokio::time::interval(TICK);
    loop {
        ticks.tick().await;
        worker.reactor.keep_alive(clock::now(), &worker.liveness);
    }
}

/// Less than any time-out that a flow commonly has.
const TICK: Duration = Duration::from_millis(250);

/// Takes flows in until the stage is no longer [`Stage::Running`].
async fn accept(worker: Rc<Worker>, listener: Listener, mut stage: watch::Receiver<Stage>) {
    let stopped = stage.wait_for(|stage| *stage != Stage::Running);
    tokio::pin!(stopped);
    loop {
        let ready = tokio::select! {
            ready = listener.ready() => ready,
            _ = &mut stopped => return,
        };
        match ready.and_then(|()| take_batch(&worker, &listener)) {
            // Those that were taken in get their turn.
            Ok(()) => tokio::task::yield_now().await,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => pause_after(&worker, &error).await,
        }
    }
}

/// Takes in as many as wait, up to [`BATCH`].
fn take_batch(worker: &Rc<Worker>, listener: &Listener) -> io::Result<()> {
    for _ in 0..BATCH {
        let (socket, peer) = listener.accept()?;
        take_in(worker, Socket::new(socket, &worker.reactor)?, peer);
    }
    Ok(())
}

/// A connection that died in the queue is nobody's fault. Anything else is counted, said, and not asked for again
/// at once: the queue stays ready, and the loop would spin.
async fn pause_after(worker: &Worker, error: &io::Error) {
    if error.kind() == io::ErrorKind::ConnectionAborted {
        return;
    }
    worker.gateway.accept_errors.increment(1);
    worker.complain("cannot accept connections", error);
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

fn take_in(worker: &Rc<Worker>, socket: Socket, peer: SocketAddr) {
    let gateway = &worker.gateway;
    let id = FlowId { process: gateway.process, number: gateway.count.fetch_add(1, Ordering::Relaxed) };
    // Under TPROXY the local address is what the client dialled. It can only fail on a socket that is none.
    let dialled = socket.local_addr().unwrap_or_else(|_| SocketAddr::from(([0; 4], 0)));
    let mut flow = Flow::begin(
        id,
        ClientAddr::new(peer),
        OriginalDestination::new(dialled),
        worker.nobody.clone(),
        Rc::clone(&worker.epilogue),
    );
    let client = Leg::new(socket);
    let Some(place) = gateway.flows.enter() else {
        flow.record.verdict = Some(Verdict::Deny);
        flow.ends(Outcome::GatewayFull);
        return;
    };
    spawn_local(whole_life(Rc::clone(worker), client, flow, place));
}

/// What a flow is while it lives. A gateway holds as many of these as it has flows, so they are small.
#[expect(clippy::manual_async_fn, reason = "an `async fn` holds each argument twice")]
fn whole_life(worker: Rc<Worker>, client: Leg, mut flow: Flow, place: Pass) -> impl Future<Output = ()> {
    async move {
        let _place = place;
        match session::live(&worker, &client, &mut flow).await {
            Ok(outcome) => flow.ends(outcome),
            Err(ended) => ending::end_early(&worker, &client, &mut flow, ended).await,
        }
        // The socket first: who reads the record may rely on the flow being over.
        drop(client);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size_of_future<A, B, C, D, F: Future>(_: fn(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_flow_is_small() {
        let size = size_of_future(whole_life);
        assert!(size <= MOST, "{size} bytes");
    }

    /// Bytes. An idle flow is to cost 1.5 KiB with all that it holds.
    const MOST: usize = 792;
}
