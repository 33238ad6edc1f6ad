//! Whether the workers' event loops turn; tells the supervisor's watchdog while they do.

use crate::admin::Readiness;
use crate::gateway::Pulse;

/// Looks in a row, a second apart, without a beat of a worker (four a second) until it counts as stalled. Looks and not
/// seconds: a process that was stopped as a whole goes on where it was.
const PATIENCE: u32 = 5;

/// Compares each look with the one before.
pub(super) struct Health {
    workers: Vec<Worker>,
    readiness: Readiness,
}

struct Worker {
    pulse: Pulse,
    count: u64,
    missed: u32,
}

impl Health {
    pub(super) fn new(pulses: Vec<Pulse>, readiness: Readiness) -> Self {
        let workers = pulses.into_iter().map(|pulse| Worker { pulse, count: 0, missed: 0 }).collect();
        Self { workers, readiness }
    }

    /// Once a second. systemd ends and starts a gateway anew that has not called for `WatchdogSec=`.
    pub(super) fn look(&mut self) {
        if self.all_turn() {
            // Without a supervisor that listens, this says nothing to nobody.
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
        }
    }

    fn all_turn(&mut self) -> bool {
        let mut stalled = None;
        for (number, worker) in self.workers.iter_mut().enumerate() {
            let count = worker.pulse.count();
            worker.missed = if count == worker.count { worker.missed + 1 } else { 0 };
            worker.count = count;
            if worker.missed == PATIENCE {
                tracing::error!("worker {number} stands still; its flows do too");
            }
            if worker.missed >= PATIENCE {
                stalled.get_or_insert(number);
            }
        }
        self.readiness.stalled(stalled.map(|number| format!("worker {number} stands still")));
        stalled.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_worker_that_stands_still_is_seen() {
        let pulses = [Pulse::default(), Pulse::default()];
        let readiness = Readiness::new();
        let mut health = Health::new(pulses.to_vec(), readiness.clone());
        for _ in 0..2 * PATIENCE {
            pulses.iter().for_each(Pulse::beat);
            assert!(health.all_turn());
        }
        for look in 1..=2 * PATIENCE {
            pulses[0].beat();
            assert_eq!(health.all_turn(), look < PATIENCE, "{look}");
        }
        assert!(readiness.problem().is_some_and(|problem| problem.contains("worker 1")));
        pulses[1].beat();
        assert!(health.all_turn());
        assert_eq!(readiness.problem(), None);
    }
}
