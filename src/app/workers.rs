//! The worker threads.

use super::StartError;
use crate::config::Config;
use crate::gateway::{
    self, CellWriterClaim, ConnectionBalancer, FlowSettings, GatewayState, Heartbeat, ShutdownPhase,
};
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use tokio::sync::{mpsc, watch};

/// Returns the number of workers.
pub fn count(config: &Config) -> usize {
    match config.gateway.workers {
        Some(count) => count.get(),
        None => thread::available_parallelism().map_or(1, usize::from),
    }
}

/// Running workers.
pub(super) struct Workers {
    threads: Vec<JoinHandle<io::Result<()>>>,
    /// Receives a notice from each worker that ends on its own.
    ended: mpsc::UnboundedReceiver<()>,
}

impl Workers {
    /// Starts a worker for each listener; also returns their heartbeats.
    pub(super) fn start(
        listeners: Vec<TcpListener>,
        claims: Vec<CellWriterClaim>,
        shared: &Arc<GatewayState>,
        settings: FlowSettings,
        stage: &watch::Sender<ShutdownPhase>,
    ) -> io::Result<(Self, Vec<Heartbeat>)> {
        let (tell, ended) = mpsc::unbounded_channel();
        let (mut threads, mut heartbeats) = (Vec::new(), Vec::new());
        let balancers = ConnectionBalancer::of_workers(listeners.len());
        for (number, ((listener, claim), connections)) in
            listeners.into_iter().zip(claims).zip(balancers).enumerate()
        {
            let (shared, stage, tell) = (Arc::clone(shared), stage.subscribe(), tell.clone());
            let heartbeat = Heartbeat::default();
            heartbeats.push(heartbeat.clone());
            let run = move || {
                let _says_when_it_ends = EndNotice(tell);
                gateway::run(shared, settings, claim, listener, connections, stage, heartbeat)
            };
            #[expect(
                clippy::disallowed_methods,
                reason = "any end of a worker is noticed, not a panic alone"
            )]
            threads.push(thread::Builder::new().name(format!("worker-{number}")).spawn(run)?);
        }
        Ok((Self { threads, ended }, heartbeats))
    }

    /// Waits until a worker has ended on its own. Cancel-safe.
    pub(super) async fn one_has_ended(&mut self) {
        let _ = self.ended.recv().await;
    }

    /// Waits until all have ended; the stage makes them end.
    pub(super) fn join(self) -> Result<(), StartError> {
        let mut result = Ok(());
        for thread in self.threads {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => result = Err(StartError::System(error)),
                Err(_) => result = Err(StartError::Panic),
            }
        }
        result
    }
}

/// Notifies the main thread when a worker's thread ends, even by panic.
struct EndNotice(mpsc::UnboundedSender<()>);

impl Drop for EndNotice {
    fn drop(&mut self) {
        // The receiver is gone once the gateway stops.
        let _ = self.0.send(());
    }
}
