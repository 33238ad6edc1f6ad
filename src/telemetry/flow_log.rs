//! The flow log: one JSON line per flow, written by a thread of its own, so that no worker ever waits for a disk.
//!
//! Workers hand records over through a bounded queue; what does not fit is dropped and counted, first of the tenants that
//! have most of it. The thread turns
//! what is queued into lines and writes them at once. A write that fails costs the lines it held, which are counted;
//! the next batch is tried as if nothing had been, on a line of its own.

use super::metrics::FlowLogMeters;
use super::queue_share::QueueShares;
use super::sink::{LineSink, LogTarget};
use super::standing_problem::StandingProblem;
use crate::flow::FlowRecord;
use crate::threads;
use metrics::Counter;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError};
use std::thread;
use std::time::Duration;

/// Configuration of the flow log.
#[derive(Debug, Clone)]
pub struct FlowLogConfig {
    /// Destination of the lines.
    pub target: LogTarget,
    /// Records that may wait for the writer, 1 or more; each takes some 500 bytes, allocated at start.
    pub queue: usize,
}

/// The flow log; see [`FlowLog::start`].
pub struct FlowLog;

impl FlowLog {
    /// Opens the target and starts the writer. Fails if no thread started; a file that cannot be opened is tried again.
    pub fn start(config: FlowLogConfig, meters: FlowLogMeters) -> io::Result<(FlowLogHandle, FlowLogThread)> {
        let sink = LineSink::open("flow log", config.target, meters.errors);
        let (room, problem) = (config.queue.max(1), sink.problem());
        let (queue, queued) = mpsc::sync_channel(room);
        let shares = Arc::new(QueueShares::new(room));
        let (ended, end) = mpsc::channel();
        let orders = Arc::new(WriterOrders::default());
        let handle = FlowLogHandle {
            queue,
            orders: Arc::clone(&orders),
            shares: Arc::clone(&shares),
            dropped: meters.dropped,
            problem,
        };
        threads::spawn("flow-log", move || {
            write_until_stopped(&queued, &orders, &shares, sink);
            let _ = ended.send(()); // nobody waits any more if the patience of `stop` ran out
        })?;
        Ok((handle.clone(), FlowLogThread { handle, end }))
    }
}

/// Workers' end of the queue.
#[derive(Clone)]
pub struct FlowLogHandle {
    queue: SyncSender<RecordMessage>,
    orders: Arc<WriterOrders>,
    shares: Arc<QueueShares>,
    dropped: Counter,
    problem: StandingProblem,
}

/// Orders to the writer beside the queue, so that a full queue cannot delay them.
#[derive(Default)]
struct WriterOrders {
    reopen: AtomicBool,
    stop: AtomicBool,
}

#[expect(clippy::large_enum_variant, reason = "a box would allocate on the worker")]
enum RecordMessage {
    Record(FlowRecord),
    /// Look at the orders.
    Wake,
}

impl FlowLogHandle {
    /// Queues a copy of a record. Never blocks; if the queue is full, or its tenant's share of it, the record is dropped
    /// and counted, in the latter case without a copy.
    pub fn submit(&self, record: &FlowRecord) {
        let tenant = record.tenant.as_deref();
        if !self.shares.enter(tenant) {
            self.dropped.increment(1);
        } else if self.queue.try_send(RecordMessage::Record(record.clone())).is_err() {
            self.shares.leave(tenant);
            self.dropped.increment(1);
        }
    }

    /// The reason why lines are lost at present.
    pub fn problem(&self) -> StandingProblem {
        self.problem.clone()
    }

    /// Has the writer open its file anew, after what was queued before: for log rotation. Does not wait for it.
    pub fn reopen(&self) {
        self.order(&self.orders.reopen);
    }

    fn order(&self, order: &AtomicBool) {
        order.store(true, Ordering::Release);
        match self.queue.try_send(RecordMessage::Wake) {
            // a full queue means that the writer is awake; a closed one, that it has ended
            Ok(()) | Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {}
        }
    }
}

/// The writer, to be stopped when the workers have ended.
pub struct FlowLogThread {
    handle: FlowLogHandle,
    end: Receiver<()>,
}

impl FlowLogThread {
    /// Writes what is queued and ends, or gives up after `patience`. Whether everything queued was dealt with;
    /// records submitted later are dropped and counted.
    pub fn stop(self, patience: Duration) -> bool {
        self.handle.order(&self.handle.orders.stop);
        match self.end.recv_timeout(patience) {
            Ok(()) => true,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => false,
        }
    }
}

/// Lines written at once, at most. 1,024 lines are some 512 KiB.
const BATCH: usize = 1024;
/// Time that the writer lets records gather after a batch: while it sleeps, a worker's submit need not wake it.
const GATHER: Duration = Duration::from_millis(10);

fn write_until_stopped(
    queued: &Receiver<RecordMessage>,
    orders: &WriterOrders,
    shares: &QueueShares,
    mut sink: LineSink,
) {
    let mut first = None;
    loop {
        // Read before the queue is: an order that comes later finds the queue empty, so that its wake-up fits, or
        // full, so that `recv` does not wait.
        let stop = orders.stop.load(Ordering::Acquire);
        let reopen = orders.reopen.swap(false, Ordering::AcqRel);
        let mut taken = 0;
        for message in first.take().into_iter().chain(queued.try_iter()).take(BATCH) {
            taken += 1;
            match message {
                RecordMessage::Record(record) => {
                    shares.leave(record.tenant.as_deref());
                    sink.push(&record);
                }
                RecordMessage::Wake => {}
            }
        }
        sink.write();
        if reopen {
            sink.reopen();
        }
        if taken == BATCH {
            continue;
        }
        if stop {
            return;
        }
        if taken > 0 {
            thread::sleep(GATHER);
            continue;
        }
        match queued.recv() {
            Ok(message) => first = Some(message),
            Err(mpsc::RecvError) => return, // every handle is gone
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::example_record;
    use nix::sys::stat::Mode;
    use std::fs::{self, File, OpenOptions};
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::fs::OpenOptionsExt;
    use std::sync::atomic::AtomicU64;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn meters() -> (FlowLogMeters, Arc<AtomicU64>, Arc<AtomicU64>) {
        let (dropped, errors) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let counter = |cell: &Arc<AtomicU64>| Counter::from_arc(Arc::clone(cell));
        (FlowLogMeters { dropped: counter(&dropped), errors: counter(&errors) }, dropped, errors)
    }

    fn start(target: LogTarget, queue: usize, meters: FlowLogMeters) -> (FlowLogHandle, FlowLogThread) {
        FlowLog::start(FlowLogConfig { target, queue }, meters).unwrap()
    }

    fn numbers(file: impl io::Read) -> Vec<String> {
        let lines = BufReader::new(file).lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap());
        lines.map(|line: serde_json::Value| line["flow"].as_str().unwrap().to_owned()).collect()
    }

    fn expected(numbers: std::ops::Range<u64>) -> Vec<String> {
        numbers.map(|number| format!("00c0ffee-{number:x}")).collect()
    }

    #[test]
    fn clean_stop_writes_all_records_ordered() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("flows.jsonl");
        let (meters, dropped, errors) = meters();
        let (handle, thread) = start(LogTarget::File(path.clone()), 5000, meters);
        for number in 0..5000 {
            handle.submit(&example_record(number));
        }
        assert!(thread.stop(PATIENCE));
        assert_eq!(numbers(File::open(&path).unwrap()), expected(0..5000));
        handle.submit(&example_record(5000));
        assert_eq!((dropped.load(Ordering::Relaxed), errors.load(Ordering::Relaxed)), (1, 0));
    }

    #[test]
    fn many_workers_lines_are_written_or_counted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("flows.jsonl");
        let (meters, dropped, _) = meters();
        let (handle, flow_log) = start(LogTarget::File(path.clone()), 64, meters);
        thread::scope(|scope| {
            for worker in 0..4 {
                let handle = handle.clone();
                scope
                    .spawn(move || (0..2000).for_each(|n| handle.submit(&example_record(worker * 2000 + n))));
            }
        });
        assert!(flow_log.stop(PATIENCE));
        let mut lines = numbers(File::open(&path).unwrap());
        lines.sort_unstable();
        lines.dedup();
        assert_eq!(lines.len() as u64 + dropped.load(Ordering::Relaxed), 8000);
    }

    #[test]
    fn rotated_file_is_reopened() {
        let directory = tempfile::tempdir().unwrap();
        let (path, rotated) = (directory.path().join("flows.jsonl"), directory.path().join("flows.jsonl.1"));
        let (meters, ..) = meters();
        let (handle, thread) = start(LogTarget::File(path.clone()), 16, meters);
        handle.submit(&example_record(0));
        fs::rename(&path, &rotated).unwrap();
        handle.reopen();
        let deadline = crate::clock::now() + PATIENCE;
        while !path.exists() {
            assert!(crate::clock::now() < deadline, "the file was not opened again");
            thread::yield_now();
        }
        handle.submit(&example_record(1));
        assert!(thread.stop(PATIENCE));
        assert_eq!(numbers(File::open(&rotated).unwrap()), expected(0..1));
        assert_eq!(numbers(File::open(&path).unwrap()), expected(1..2));
    }

    #[test]
    fn stalled_reader_drops_lines_without_blocking() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        // open for both, so that neither this nor the writer's open waits for the other end
        let mut reader = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut filler = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
        while filler.write(&[b'\n'; 4096]).is_ok() {}
        drop(filler);

        let (meters, dropped, errors) = meters();
        let (handle, thread) = start(LogTarget::File(path), 16, meters);
        let mut submitted = 0;
        while dropped.load(Ordering::Relaxed) < 10 {
            assert!(submitted < 10_000, "a full queue drops nothing");
            handle.submit(&example_record(submitted));
            submitted += 1;
        }
        assert!(!thread.stop(Duration::ZERO), "the pipe is full and nobody reads");
        // the reader is back: every record that was not counted as dropped comes after the filling
        let kept = submitted - dropped.load(Ordering::Relaxed);
        let lines = BufReader::new(&mut reader).lines().map(Result::unwrap).filter(|line| !line.is_empty());
        for line in lines.take(usize::try_from(kept).unwrap()) {
            serde_json::from_str::<serde_json::Value>(&line).unwrap();
        }
        assert_eq!(errors.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn flooding_tenant_drops_own_records() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        let reader = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut filler = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&path).unwrap();
        while filler.write(&[b'\n'; 4096]).is_ok() {}
        drop(filler);
        let (meters, dropped, _) = meters();
        let (handle, _thread) = start(LogTarget::File(path), 64, meters);
        let submit = |tenant: &str, number| {
            let tenant = Some(tenant.into());
            handle.submit(&FlowRecord { tenant, ..example_record(number) });
        };
        submit("good", 0);
        // Until the writer has taken what it takes, and waits for the reader.
        let mut number = 1;
        while dropped.load(Ordering::Relaxed) < 100 {
            assert!(number < 100_000, "a full queue drops nothing");
            submit("hostile", number);
            number += 1;
        }
        let before = dropped.load(Ordering::Relaxed);
        for number in 0..8 {
            submit("good", 1_000_000 + number);
        }
        assert_eq!(
            dropped.load(Ordering::Relaxed),
            before,
            "the flood is dropped, and not its neighbour's records"
        );
        drop(reader);
    }

    #[test]
    fn full_disk_counts_every_lost_line() {
        let (meters, dropped, errors) = meters();
        let (handle, thread) = start(LogTarget::File("/dev/full".into()), 16, meters);
        for number in 0..7 {
            handle.submit(&example_record(number));
        }
        assert!(thread.stop(PATIENCE));
        assert_eq!((dropped.load(Ordering::Relaxed), errors.load(Ordering::Relaxed)), (0, 7));
    }
}
