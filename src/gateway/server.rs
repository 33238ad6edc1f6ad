//! A worker's thread: a runtime and a listener of its own. A flow lives and dies on the worker that accepted it.

use super::flow::Flow;
use super::leg::Leg;
use super::record::{FlowId, Verdict};
use super::session;
use super::worker::{Gateway, Settings, Worker};
use crate::addr::{ClientAddr, OriginalDestination};
use crate::outcome::Outcome;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::LocalSet;

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

/// After `accept` has failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Runs a worker on this thread until `stage` says stop, and its flows are gone.
pub fn run(
    gateway: Arc<Gateway>,
    settings: Settings,
    listener: std::net::TcpListener,
    mut stage: watch::Receiver<Stage>,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let worker = Rc::new(Worker::new(gateway, settings));
    let flows = LocalSet::new();
    flows.block_on(&runtime, async {
        accept(&worker, TcpListener::from_std(listener)?, stage.clone()).await;
        // Those that live may finish. A sender that is gone is a gateway that is gone.
        let _ = stage.wait_for(|stage| *stage == Stage::Stopping).await;
        io::Result::Ok(())
    })?;
    // What still lives is dropped here, and both its ends are reset: a plain exit would look like a clean end of
    // file to the client.
    worker.epilogue.cut_off.set(Outcome::Drained);
    drop(flows);
    Ok(())
}

/// Takes flows in until the stage is no longer [`Stage::Running`].
async fn accept(worker: &Rc<Worker>, listener: TcpListener, mut stage: watch::Receiver<Stage>) {
    let stopped = stage.wait_for(|stage| *stage != Stage::Running);
    tokio::pin!(stopped);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut stopped => return,
        };
        match accepted {
            Ok((socket, peer)) => take_in(worker, socket, peer),
            Err(error) => pause_after(worker, &error).await,
        }
    }
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

fn take_in(worker: &Rc<Worker>, socket: TcpStream, peer: SocketAddr) {
    let gateway = &worker.gateway;
    let id = FlowId { process: gateway.process, number: gateway.count.fetch_add(1, Ordering::Relaxed) };
    // Under TPROXY the local address is what the client dialled. It can only fail on a socket that is none.
    let dialled = socket.local_addr().unwrap_or_else(|_| SocketAddr::from(([0; 4], 0)));
    let mut flow = Flow::begin(
        id,
        ClientAddr::new(peer),
        OriginalDestination::new(dialled),
        Arc::clone(&gateway.nobody),
        Rc::clone(&worker.epilogue),
    );
    let client = Leg::new(socket);
    let Some(place) = gateway.flows.enter() else {
        flow.record.verdict = Some(Verdict::Deny);
        flow.outcome = Some(Outcome::GatewayFull);
        return;
    };
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        let _place = place;
        session::run(&worker, &client, &mut flow).await;
        // The socket first: who reads the record may rely on the flow being over.
        drop(client);
    });
}
