//! Thread that frees held ports once the kernel has released them.

use crate::clock;
use crate::egress::{Ledger, Reaper, ReaperStop};
use crate::sys::sock_diag::{Inquirer, SocketPresence};
use crate::threads;
use metrics::Counter;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Timeout; the kernel answers in microseconds.
const PATIENCE: Duration = Duration::from_secs(1);
/// Shortest interval between two logged failures.
const COMPLAIN: Duration = Duration::from_secs(60);

/// Starts the thread; it ends when what this yields is dropped. `failures` counts rounds of questions without answers.
pub(super) fn reap(ledger: &Arc<Ledger>, failures: Counter) -> io::Result<ReaperStop> {
    let (mut reaper, stop) = Reaper::new(ledger);
    let mut questions = PortQueries { open: Inquirer::open, inquirer: None, failures, complained: None };
    threads::spawn("held-ports", move || {
        while reaper.wait() {
            reaper.reap(clock::now(), |pairs| questions.ask(pairs));
        }
    })?;
    Ok(stop)
}

/// Asks on a socket that is opened anew after a failure.
struct PortQueries {
    open: fn(Duration) -> io::Result<Inquirer>,
    inquirer: Option<Inquirer>,
    failures: Counter,
    complained: Option<Instant>,
}

impl PortQueries {
    fn ask(&mut self, pairs: &[(SocketAddr, SocketAddr)]) -> Vec<Option<SocketPresence>> {
        match self.try_ask(pairs) {
            Ok(found) => found.into_iter().map(Some).collect(),
            Err(error) => {
                self.inquirer = None;
                self.failures.increment(1);
                self.complain(&error);
                vec![None; pairs.len()]
            }
        }
    }

    fn try_ask(&mut self, pairs: &[(SocketAddr, SocketAddr)]) -> io::Result<Vec<SocketPresence>> {
        if self.inquirer.is_none() {
            self.inquirer = Some((self.open)(PATIENCE)?);
        }
        self.inquirer.as_ref().map_or_else(|| Ok(Vec::new()), |inquirer| inquirer.ask(pairs, PATIENCE))
    }

    fn complain(&mut self, error: &io::Error) {
        let now = clock::now();
        if self.complained.is_none_or(|last| now.duration_since(last) >= COMPLAIN) {
            self.complained = Some(now);
            tracing::warn!(
                %error,
                "cannot ask the kernel whether closed connections are gone (sock_diag); their ports are held for two \
                 minutes instead"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn kernel_read_failures_are_counted() {
        let failed = Arc::<AtomicU64>::default();
        let failures = Counter::from_arc(Arc::clone(&failed));
        let open = |_| Err(io::ErrorKind::Unsupported.into());
        let mut questions = PortQueries { open, inquirer: None, failures, complained: None };
        let pairs = [("192.0.2.1:5000".parse().unwrap(), "198.51.100.1:443".parse().unwrap()); 3];
        assert_eq!(questions.ask(&pairs), [None; 3], "and no port is free");
        assert_eq!((failed.load(Ordering::Relaxed), questions.complained.is_some()), (1, true));
        questions.open = Inquirer::open;
        assert_eq!(questions.ask(&pairs), [Some(SocketPresence::Gone); 3]);
        assert_eq!(failed.load(Ordering::Relaxed), 1);
    }
}
