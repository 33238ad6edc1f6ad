//! The background threads of the gateway. Each has work that nothing else does, so a panic of one stops the gateway,
//! which its supervisor starts again.

use std::io;
use std::thread::{self, JoinHandle};
use tokio::sync::Notify;

/// Keeps one notice until somebody waits for it.
static PANICKED: Notify = Notify::const_new();

/// Starts a background thread. Its panic is logged, and ends [`one_has_panicked`].
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn spawn<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        let _tells_of_a_panic = PanicNotice(name);
        work()
    })
}

/// Waits until a background thread has panicked. Cancel-safe.
pub async fn one_has_panicked() {
    PANICKED.notified().await;
}

/// Notifies the main thread if it is dropped by a panic.
struct PanicNotice(&'static str);

impl Drop for PanicNotice {
    fn drop(&mut self) {
        if thread::panicking() {
            tracing::error!(
                thread = self.0,
                "a background thread has panicked; this is a bug, please report it"
            );
            PANICKED.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::time::timeout;

    #[tokio::test(start_paused = true)]
    async fn panicked_thread_is_noticed_once() {
        let is_noticed = || async { timeout(Duration::from_secs(1), one_has_panicked()).await.is_ok() };
        assert_eq!(spawn("works", || 7).unwrap().join().unwrap(), 7);
        assert!(!is_noticed().await);
        assert!(spawn("panics", || panic!("a bug")).unwrap().join().is_err());
        assert!(is_noticed().await);
        assert!(!is_noticed().await);
    }
}
