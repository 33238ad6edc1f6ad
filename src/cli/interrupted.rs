//! Socket calls with a time-out, which end early when the process is stopped or frozen for a moment.

use crate::clock;
use std::io;
use std::time::Instant;

/// Repeats a call that the kernel interrupts, up to the deadline; then `TimedOut`. With `SO_RCVTIMEO` or `SO_SNDTIMEO` it
/// does so after a stop even in a process without signal handlers (signal(7)).
pub(super) fn repeat<T>(deadline: Instant, mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
        if clock::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn interrupted_calls_are_repeated_until_deadline() {
        let mut calls = 0;
        let mut interrupted = |most| {
            calls += 1;
            if calls < most { Err(io::ErrorKind::Interrupted.into()) } else { Ok(calls) }
        };
        let later = clock::now() + Duration::from_secs(60);
        assert_eq!(repeat(later, || interrupted(3)).unwrap(), 3);
        let error = repeat(clock::now(), || interrupted(u32::MAX)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
