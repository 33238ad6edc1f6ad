//! Liveness of the workers' event loops, reported to the supervisor's watchdog and to readiness.

use crate::admin::Readiness;
use crate::gateway::Heartbeat;

/// Checks in a row, a second apart, without a heartbeat (four a second) after which a worker counts as stalled. Checks and
/// not seconds, because a process that was stopped as a whole must not count as stalled when it goes on.
const PATIENCE: u32 = 5;

/// The heartbeats of all workers at the last check.
pub(super) struct WorkerHealth {
    workers: Vec<WorkerBeat>,
    readiness: Readiness,
}

struct WorkerBeat {
    heartbeat: Heartbeat,
    count: u64,
    missed: u32,
}

impl WorkerHealth {
    pub(super) fn new(heartbeats: Vec<Heartbeat>, readiness: Readiness) -> Self {
        let workers =
            heartbeats.into_iter().map(|heartbeat| WorkerBeat { heartbeat, count: 0, missed: 0 }).collect();
        Self { workers, readiness }
    }

    /// Checks all workers; to be called once a second. systemd restarts a gateway that sends no keep-alive for `WatchdogSec=`.
    pub(super) fn look(&mut self) {
        if self.all_turn() {
            // Fails without effect where no supervisor listens.
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
        }
    }

    fn all_turn(&mut self) -> bool {
        let mut stalled = None;
        for (number, worker) in self.workers.iter_mut().enumerate() {
            let count = worker.heartbeat.count();
            worker.missed = if count == worker.count { worker.missed + 1 } else { 0 };
            worker.count = count;
            if worker.missed == PATIENCE {
                tracing::error!("the event loop of worker {number} has stalled, and its flows with it");
            }
            if worker.missed >= PATIENCE {
                stalled.get_or_insert(number);
            }
        }
        self.readiness
            .stalled(stalled.map(|number| format!("the event loop of worker {number} has stalled")));
        stalled.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalled_worker_is_detected() {
        let heartbeats = [Heartbeat::default(), Heartbeat::default()];
        let readiness = Readiness::new();
        let mut health = WorkerHealth::new(heartbeats.to_vec(), readiness.clone());
        for _ in 0..2 * PATIENCE {
            heartbeats.iter().for_each(Heartbeat::beat);
            assert!(health.all_turn());
        }
        for look in 1..=2 * PATIENCE {
            heartbeats[0].beat();
            assert_eq!(health.all_turn(), look < PATIENCE, "{look}");
        }
        assert!(readiness.problem().is_some_and(|problem| problem.contains("worker 1")));
        heartbeats[1].beat();
        assert!(health.all_turn());
        assert_eq!(readiness.problem(), None);
    }
}
