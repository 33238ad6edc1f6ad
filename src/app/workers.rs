//! The workers' threads.

use super::StartError;
use crate::config::Config;
use crate::gateway::{self, Gateway, Intake, Pulse, Seat, Settings, Stage};
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use tokio::sync::{mpsc, watch};

/// How many the configuration asks for.
pub(super) fn count(config: &Config) -> usize {
    match config.gateway.workers {
        Some(count) => count.get(),
        None => thread::available_parallelism().map_or(1, usize::from),
    }
}

/// Those that run.
pub(super) struct Workers {
    threads: Vec<JoinHandle<io::Result<()>>>,
    /// A worker that ends by itself says so here.
    ended: mpsc::UnboundedReceiver<()>,
}

impl Workers {
    /// One for each listener; yields their pulses, too.
    pub(super) fn start(
        listeners: Vec<TcpListener>,
        seats: Vec<Seat>,
        shared: &Arc<Gateway>,
        settings: Settings,
        stage: &watch::Sender<Stage>,
    ) -> io::Result<(Self, Vec<Pulse>)> {
        let (tell, ended) = mpsc::unbounded_channel();
        let (mut threads, mut pulses) = (Vec::new(), Vec::new());
        let intakes = Intake::of_workers(listeners.len());
        for (number, ((listener, seat), intake)) in listeners.into_iter().zip(seats).zip(intakes).enumerate()
        {
            let (shared, stage, tell) = (Arc::clone(shared), stage.subscribe(), tell.clone());
            let pulse = Pulse::default();
            pulses.push(pulse.clone());
            threads.push(thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
                let _says_when_it_ends = EndNotice(tell);
                gateway::run(shared, settings, seat, listener, intake, stage, pulse)
            })?);
        }
        Ok((Self { threads, ended }, pulses))
    }

    /// Waits until one has ended by itself. Dropping the future loses nothing.
    pub(super) async fn one_has_ended(&mut self) {
        let _ = self.ended.recv().await;
    }

    /// Waits for all of them to end, as the stage tells them to.
    pub(super) fn join(self) -> Result<(), StartError> {
        let mut result = Ok(());
        for thread in self.threads {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => result = Err(StartError::System(error)),
                Err(_) => result = Err(StartError::Bug("a worker panicked".to_owned())),
            }
        }
        result
    }
}

/// Tells the control thread that a worker's thread has ended, by panic too.
struct EndNotice(mpsc::UnboundedSender<()>);

impl Drop for EndNotice {
    fn drop(&mut self) {
        // Nobody listens any more when the gateway stops.
        let _ = self.0.send(());
    }
}
