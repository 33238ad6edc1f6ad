//! Waiting for a condition, with a deadline and a reason.

use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything here takes on a busy machine; a test that gets here has failed.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Calls `probe` until it yields a value; panics with `what` and the last complaint when [`PATIENCE`] is over.
pub fn wait_for<T, E: std::fmt::Display>(what: &str, probe: impl FnMut() -> Result<T, E>) -> T {
    wait_within(PATIENCE, what, probe)
}

/// [`wait_for`] with another patience.
pub fn wait_within<T, E: std::fmt::Display>(
    patience: Duration,
    what: &str,
    mut probe: impl FnMut() -> Result<T, E>,
) -> T {
    let start = Instant::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(complaint) if start.elapsed() > patience => {
                panic!("waited {patience:?} for {what}, in vain: {complaint}")
            }
            Err(_) => thread::sleep(Duration::from_millis(3)),
        }
    }
}

/// [`wait_for`] where there is nothing to say but that it is not so yet.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(()).ok_or("it never came"));
}
