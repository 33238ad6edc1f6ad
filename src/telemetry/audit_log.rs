//! The audit log: one JSON line for each change of the gateway.
//!
//! A line that cannot be written where it should be is counted, and said among the gateway's messages instead: nothing
//! that changes the gateway goes by unseen because a disk is full. Writing happens on a thread of its own, so that a
//! disk that hangs does not keep anybody from changing the gateway back.

use super::sink::{LineSink, LogTarget};
use super::standing_problem::StandingProblem;
use crate::audit::AuditRecord;
use crate::clock;
use crate::threads;
use metrics::Counter;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::thread;
use std::time::Duration;

/// Changes that may wait for a disk that hangs: more than people and their scripts make until somebody looks.
const QUEUE: usize = 1024;
/// Longest time that its end may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause before a full queue is tried again.
const PAUSE: Duration = Duration::from_millis(10);

/// Takes changes. Cheap to clone.
#[derive(Clone)]
pub struct AuditLog {
    queue: SyncSender<AuditMessage>,
    /// Beside the queue, which may be full.
    reopen: Arc<AtomicBool>,
    errors: Counter,
    problem: StandingProblem,
}

enum AuditMessage {
    Change(Box<AuditRecord>),
    /// Look at `reopen`.
    Wake,
    /// Say here when everything before is written.
    Flush(SyncSender<()>),
}

impl AuditLog {
    /// Opens the target and starts the writer. Fails if no thread started; a file that cannot be opened is tried again.
    /// `errors` is `egret_audit_log_errors_total`.
    pub fn start(target: LogTarget, errors: Counter) -> io::Result<Self> {
        let sink = LineSink::open("audit log", target, errors.clone());
        let problem = sink.problem();
        let (queue, queued) = mpsc::sync_channel(QUEUE);
        let reopen = Arc::new(AtomicBool::new(false));
        let ordered = Arc::clone(&reopen);
        threads::spawn("audit-log", move || write(&queued, &ordered, sink))?;
        Ok(Self { queue, reopen, errors, problem })
    }

    /// The reason why lines are lost at present.
    pub fn problem(&self) -> StandingProblem {
        self.problem.clone()
    }

    /// Has a change written. Never waits.
    pub fn record(&self, change: AuditRecord) {
        let Err(refused) = self.queue.try_send(AuditMessage::Change(Box::new(change))) else { return };
        let (TrySendError::Full(unsent) | TrySendError::Disconnected(unsent)) = refused;
        if let AuditMessage::Change(change) = unsent {
            self.errors.increment(1);
            say(&change);
        }
    }

    /// Opens the file anew, for log rotation. Does not wait for it.
    pub fn reopen(&self) {
        self.reopen.store(true, Ordering::Release);
        // A queue that is full has the writer look anyway.
        let _ = self.queue.try_send(AuditMessage::Wake);
    }

    /// Waits until what was recorded is written, for some seconds at most. Whether it was.
    pub fn flush(&self) -> bool {
        let (written, done) = mpsc::sync_channel(1);
        let deadline = clock::now() + PATIENCE;
        let mut order = AuditMessage::Flush(written);
        while let Err(refused) = self.queue.try_send(order) {
            match refused {
                TrySendError::Full(unsent) if clock::now() < deadline => order = unsent,
                TrySendError::Full(_) | TrySendError::Disconnected(_) => return false,
            }
            thread::sleep(PAUSE);
        }
        match done.recv_timeout(deadline.saturating_duration_since(clock::now())) {
            Ok(()) => true,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => false,
        }
    }
}

/// Until every handle is gone.
fn write(queued: &Receiver<AuditMessage>, reopen: &AtomicBool, mut sink: LineSink) {
    while let Ok(message) = queued.recv() {
        if reopen.swap(false, Ordering::AcqRel) {
            sink.reopen();
        }
        match message {
            AuditMessage::Change(change) => {
                sink.push(&*change);
                if !sink.write() {
                    say(&change);
                }
            }
            AuditMessage::Flush(written) => {
                // Whoever waited may have lost patience.
                let _ = written.send(());
            }
            AuditMessage::Wake => {}
        }
    }
}

fn say(change: &AuditRecord) {
    let line = serde_json::to_string(change).unwrap_or_else(|_| format!("{change:?}"));
    tracing::error!(%line, "not in the audit log");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Originator, Verdict, What};
    use std::fs;
    use std::path::Path;
    use std::sync::atomic::AtomicU64;

    fn change(number: u64) -> AuditRecord {
        AuditRecord {
            time: jiff::Timestamp::UNIX_EPOCH,
            change: What::Reload,
            by: Originator::Signal,
            subject: None,
            result: Verdict::Done,
            why: None,
            config_before: None,
            config_after: format!("{number:016x}").into(),
            difference: None,
            candidate: None,
            percent: None,
            revoked: 0,
        }
    }

    fn start(path: &Path) -> (AuditLog, Arc<AtomicU64>) {
        let errors = Arc::<AtomicU64>::default();
        let counter = Counter::from_arc(Arc::clone(&errors));
        (AuditLog::start(LogTarget::File(path.into()), counter).unwrap(), errors)
    }

    fn hashes(path: &Path) -> Vec<u64> {
        let text = fs::read_to_string(path).unwrap();
        let hash = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            u64::from_str_radix(line["config_after"].as_str().unwrap(), 16).unwrap()
        };
        text.lines().map(hash).collect()
    }

    #[test]
    fn audit_lines_are_ordered_across_rotation() {
        let folder = tempfile::tempdir().unwrap();
        let (path, rotated) = (folder.path().join("audit.jsonl"), folder.path().join("audit.jsonl.1"));
        let (log, errors) = start(&path);
        (0..100).for_each(|number| log.record(change(number)));
        assert!(log.flush());
        fs::rename(&path, &rotated).unwrap();
        log.reopen();
        log.record(change(100));
        assert!(log.flush());
        assert_eq!(hashes(&rotated), (0..100).collect::<Vec<_>>());
        assert_eq!((hashes(&path), errors.load(Ordering::Relaxed)), (vec![100], 0));
    }

    #[test]
    fn full_disk_is_counted_without_blocking() {
        let (log, errors) = start(Path::new("/dev/full"));
        (0..3).for_each(|number| log.record(change(number)));
        assert!(log.flush());
        assert_eq!(errors.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn hanging_disk_is_counted_without_blocking() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // Open for both, so that opening it does not wait; nobody reads.
        let mut reader = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let (log, errors) = start(&path);
        let mut recorded = 0;
        while errors.load(Ordering::Relaxed) == 0 {
            assert!(recorded < 100_000, "a full queue counts nothing");
            log.record(change(recorded));
            recorded += 1;
        }
        // A disk that works again in time costs no more lines.
        let _reads_forever = thread::spawn(move || io::copy(&mut reader, &mut io::sink()));
        assert!(log.flush());
    }

    #[test]
    fn ended_writer_is_counted() {
        let errors = Arc::<AtomicU64>::default();
        let (queue, _) = mpsc::sync_channel(QUEUE);
        let log = AuditLog {
            queue,
            reopen: Arc::default(),
            errors: Counter::from_arc(Arc::clone(&errors)),
            problem: StandingProblem::default(),
        };
        log.record(change(0));
        assert!(!log.flush());
        assert_eq!(errors.load(Ordering::Relaxed), 1);
    }
}
