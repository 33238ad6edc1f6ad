//! The metrics listener and the control socket. One that cannot be opened is tried again, and keeps nobody's traffic from passing.

use crate::telemetry::StandingProblem;
use std::fmt::Display;
use std::time::Duration;
use tokio::time::sleep;

/// Time between two attempts.
const PAUSE: Duration = Duration::from_secs(1);
/// Attempts between two messages.
const QUIET: u32 = 300;

/// A listener of type `T`, open if it could be.
pub(super) struct LateListener<T> {
    name: String,
    /// The consequence while it is closed, as in "nobody can ask".
    missing: &'static str,
    open: Box<dyn Fn() -> Result<T, String> + Send>,
    opened: Option<T>,
    problem: StandingProblem,
}

impl<T> LateListener<T> {
    /// Opens the listener, or logs the reason why it is not open. `name` is as in "the metrics listener", `missing` says what
    /// there is not meanwhile.
    pub(super) fn open<E: Display>(
        name: String,
        missing: &'static str,
        open: impl Fn() -> Result<T, E> + Send + 'static,
    ) -> Self {
        let open = move || open().map_err(|error| error.to_string());
        let mut late =
            Self { name, missing, open: Box::new(open), opened: None, problem: StandingProblem::default() };
        late.opened = late.attempt(true);
        late
    }

    pub(super) fn problem(&self) -> StandingProblem {
        self.problem.clone()
    }

    /// Waits until it is open. A reason that stays is logged again every few minutes.
    pub(super) async fn opened(mut self) -> T {
        if let Some(opened) = self.opened.take() {
            return opened;
        }
        let mut quiet = 0;
        loop {
            sleep(PAUSE).await;
            quiet = (quiet + 1) % QUIET;
            if let Some(opened) = self.attempt(quiet == 0) {
                tracing::info!("{} is open now", self.name);
                return opened;
            }
        }
    }

    fn attempt(&self, logs: bool) -> Option<T> {
        let (opened, problem) = match (self.open)() {
            Ok(opened) => (Some(opened), None),
            Err(error) => (
                None,
                Some(format!("{error}; until it is open, which is tried each second, {}", self.missing)),
            ),
        };
        if let Some(problem) = problem.as_ref().filter(|_| logs) {
            tracing::error!("{problem}");
        }
        self.problem.set(problem);
        opened
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test(start_paused = true)]
    async fn closed_listener_has_its_problem() {
        let attempts = AtomicU32::new(0);
        let open = move || match attempts.fetch_add(1, Ordering::Relaxed) {
            attempt @ 0..3 => Err(format!("no {attempt}")),
            attempt => Ok(attempt),
        };
        let late = LateListener::open("the control socket".to_owned(), "there are no answers", open);
        let problem = late.problem();
        assert!(problem.reason().is_some_and(|told| told.contains("no 0") && told.contains("no answers")));
        assert_eq!((late.opened().await, problem.reason()), (3, None));
    }
}
