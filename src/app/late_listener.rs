//! The metrics listener and the control socket. One that cannot be opened is tried again, and keeps nobody's traffic from passing.

use std::fmt::Display;
use std::time::Duration;
use tokio::time::sleep;

/// Time between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// A listener of type `T`, open if it could be.
pub(super) struct LateListener<T> {
    name: String,
    open: Box<dyn Fn() -> Option<T> + Send>,
    opened: Option<T>,
}

impl<T> LateListener<T> {
    /// Opens the listener, or logs the reason why it is not open. `name` is as in "the metrics listener", `missing` says what
    /// there is not meanwhile.
    pub(super) fn open<E: Display>(
        name: String,
        missing: &str,
        open: impl Fn() -> Result<T, E> + Send + 'static,
    ) -> Self {
        let opened = open().map_err(|error| {
            tracing::error!("{error}; until it is open, which is tried each second, {missing}");
        });
        Self { name, opened: opened.ok(), open: Box::new(move || open().ok()) }
    }

    /// Waits until it is open.
    pub(super) async fn opened(self) -> T {
        if let Some(opened) = self.opened {
            return opened;
        }
        loop {
            sleep(PAUSE).await;
            if let Some(opened) = (self.open)() {
                tracing::info!("{} is open now", self.name);
                return opened;
            }
        }
    }
}
