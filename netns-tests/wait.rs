//! Waiting for a condition, with a deadline and a reason.

use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything here takes on a busy machine; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Calls `probe` until it returns a value; panics with `what` and the last error when [`PATIENCE`] is over.
pub fn wait_for<T, E: std::fmt::Display>(what: &str, probe: impl FnMut() -> Result<T, E>) -> T {
    wait_within(PATIENCE, what, probe)
}

/// Like [`wait_for`], with another time limit.
pub fn wait_within<T, E: std::fmt::Display>(
    patience: Duration,
    what: &str,
    mut probe: impl FnMut() -> Result<T, E>,
) -> T {
    let start = Instant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        match probe() {
            Ok(value) => return value,
            Err(complaint) if start.elapsed() > patience => {
                panic!("waited {patience:?} for {what}, in vain: {complaint}")
            }
            Err(_) => {
                // What is probed costs processor time that the other tests need: a scrape takes milliseconds.
                thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(50));
            }
        }
    }
}

/// Like [`wait_for`], for a condition without an error message.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()).ok_or("it never came"));
}
