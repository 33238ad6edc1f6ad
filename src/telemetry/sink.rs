//! Lines into a file, whole or counted as lost.

use super::standing_problem::StandingProblem;
use crate::clock;
use metrics::Counter;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde::Serialize;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard output, for a supervisor that collects it.
    Stdout,
    /// Standard error, beside the gateway's messages.
    Stderr,
    /// A file, appended to, made with mode 0640 if it is not there: lines hold addresses of clients, names of people.
    File(PathBuf),
}

/// The target, and the lines that are about to go there.
pub(super) struct LineSink {
    /// Name for messages: `flow log`.
    name: &'static str,
    target: LogTarget,
    /// `None` until it could be opened.
    file: Option<File>,
    /// The reason why the file is that of before a rotation, if it could not be opened anew.
    stale: Option<String>,
    lines: Lines,
    errors: Counter,
    warned: Option<Instant>,
    problem: StandingProblem,
}

/// Between two warnings of the same trouble.
const WARN_EVERY: Duration = Duration::from_secs(60);

impl LineSink {
    /// Lines that are lost count as errors, also while the target cannot be opened: that is logged, and tried again with each
    /// write. A log that is out of order must not keep the gateway from starting.
    pub(super) fn open(name: &'static str, target: LogTarget, errors: Counter) -> Self {
        let lines = Lines { buffer: Vec::new(), torn: false };
        let problem = StandingProblem::default();
        let mut sink = Self { name, target, file: None, stale: None, lines, errors, warned: None, problem };
        if let Err(error) = sink.open_anew() {
            tracing::error!("{error}; going on without the {name}, which is tried again with its next lines");
            sink.problem.set(Some(error.to_string()));
        }
        sink
    }

    /// The reason why the last lines were lost, or why the target is not open.
    pub(super) fn problem(&self) -> StandingProblem {
        self.problem.clone()
    }

    /// Adds a line to those that the next [`LineSink::write`] writes.
    pub(super) fn push(&mut self, record: &impl Serialize) {
        let end = self.lines.buffer.len();
        match serde_json::to_writer(&mut self.lines.buffer, record) {
            Ok(()) => self.lines.buffer.push(b'\n'),
            Err(error) => {
                self.lines.buffer.truncate(end);
                self.lost(1, &error.into());
            }
        }
    }

    /// Writes the lines; those that fail are counted. Whether all were written.
    pub(super) fn write(&mut self) -> bool {
        if self.stale.is_some() && !self.lines.buffer.is_empty() && self.open_anew().is_ok() {
            tracing::info!("the {} is reopened now", self.name);
        }
        if self.file.is_none() && !self.lines.buffer.is_empty() && self.try_again().is_err() {
            return false;
        }
        let Some(file) = self.file.as_mut().filter(|_| !self.lines.buffer.is_empty()) else { return true };
        let written = self.lines.write_to(file);
        match &written {
            Ok(()) => self.problem.set(self.stale.clone()),
            Err((lines, error)) => self.lost(*lines, error),
        }
        written.is_ok()
    }

    /// Opens the file again, or keeps the one it has and tries again with each write.
    pub(super) fn reopen(&mut self) {
        let Err(error) = self.open_anew() else { return };
        if self.file.is_none() {
            tracing::warn!("{error}; the {} is tried again with its next lines", self.name);
            return;
        }
        let stale = format!(
            "{error}; {} lines go to the file from before the rotation, which may be deleted, until it can be opened anew, \
             which is tried with each write",
            self.name
        );
        tracing::error!("{stale}");
        self.problem.set(Some(stale.clone()));
        self.stale = Some(stale);
    }

    /// Opens what could not be opened before; without success the lines are lost.
    fn try_again(&mut self) -> io::Result<()> {
        match self.open_anew() {
            Ok(()) => tracing::info!("the {} is open now", self.name),
            Err(error) => {
                let lines = self.lines.discard();
                self.lost(lines, &error);
                return Err(error);
            }
        }
        Ok(())
    }

    fn open_anew(&mut self) -> io::Result<()> {
        let (file, torn) = open(self.name, &self.target)?;
        self.file = Some(file);
        self.stale = None;
        self.lines.torn = torn;
        Ok(())
    }

    fn lost(&mut self, lines: u64, error: &io::Error) {
        self.errors.increment(lines);
        self.problem.set(Some(format!("{} lines are lost: {error}", self.name)));
        let now = clock::now();
        if self.warned.is_none_or(|warned| now.duration_since(warned) >= WARN_EVERY) {
            self.warned = Some(now);
            let counter = self.name.replace(' ', "_");
            tracing::warn!(%error, lines, "{} lines lost; egret_{counter}_errors_total counts them", self.name);
        }
    }
}

/// The file, and whether it ends within a line.
fn open(name: &str, target: &LogTarget) -> io::Result<(File, bool)> {
    match target {
        // not `io::stdout()` itself, whose line buffer would write line by line and keep what failed
        LogTarget::Stdout => Ok((File::from(io::stdout().as_fd().try_clone_to_owned()?), false)),
        LogTarget::Stderr => Ok((File::from(io::stderr().as_fd().try_clone_to_owned()?), false)),
        LogTarget::File(path) => {
            let file = open_file(path).map_err(|error| {
                let why = why_not(path, &error);
                io::Error::new(error.kind(), format!("cannot open the {name} {}: {why}", path.display()))
            })?;
            let regular = file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() > 0);
            Ok((file, regular && ends_within_a_line(path).unwrap_or(false)))
        }
    }
}

/// Never waits: not for the reader of a FIFO, nor for the line of a terminal. Writes do.
fn open_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o640).custom_flags(OFlag::O_NONBLOCK.bits());
    let file = options.open(path)?;
    if file.metadata()?.file_type().is_block_device() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL)?);
    fcntl(&file, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    Ok(file)
}

/// Problem of a path that cannot be written to, and its remedy.
fn why_not(path: &Path, error: &io::Error) -> String {
    let Ok(there) = fs::metadata(path).map(|metadata| metadata.file_type()) else {
        return format!(
            "{error}; create its directory and let the gateway's user write to it, or set another path"
        );
    };
    let what = if there.is_dir() {
        "it is a directory; set the path of a file in it"
    } else if there.is_fifo() && error.raw_os_error() == Some(Errno::ENXIO as i32) {
        "it is a FIFO that nobody reads; start its reader before the gateway, or set another path"
    } else if there.is_socket() {
        "it is a socket, which cannot be written to as a file; set another path"
    } else if there.is_block_device() {
        "it is a block device, whose contents lines would overwrite; set another path"
    } else {
        return format!("{error}; let the gateway's user write to it, or set another path");
    };
    what.to_owned()
}

/// As a process leaves it that was killed, or had no room, in the middle of a line.
fn ends_within_a_line(path: &Path) -> io::Result<bool> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

/// Lines to be written in one go.
struct Lines {
    /// Whole lines.
    buffer: Vec<u8>,
    /// True if the last write ended within a line, which the next write ends first.
    torn: bool,
}

impl Lines {
    /// Empties the buffer unwritten; returns the number of lines in it.
    fn discard(&mut self) -> u64 {
        let lines = count(&self.buffer);
        self.buffer.clear();
        lines
    }

    /// Empties the buffer; an error comes with the number of lines that were not written whole.
    fn write_to(&mut self, out: &mut impl Write) -> Result<(), (u64, io::Error)> {
        let mut result = Ok(());
        if self.torn && !self.buffer.is_empty() {
            result = write_counting(out, b"\n").map_err(|(_, error)| error);
            self.torn = result.is_err();
        }
        let mut written = 0;
        if result.is_ok() {
            result = write_counting(out, &self.buffer).map_err(|(before, error)| {
                written = before;
                error
            });
            if result.is_err() {
                self.torn = written > 0 && self.buffer[written - 1] != b'\n';
            }
        }
        let lost = result.map_err(|error| (count(&self.buffer[written..]), error));
        self.buffer.clear();
        lost
    }
}

fn count(lines: &[u8]) -> u64 {
    lines.split_inclusive(|&b| b == b'\n').count() as u64
}

/// `write_all` that says how many bytes went out before the error.
fn write_counting(out: &mut impl Write, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while written < bytes.len() {
        match out.write(&bytes[written..]) {
            Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
            Ok(n) => written += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((written, error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Takes so many bytes, then fails until it is given more room.
    #[derive(Default)]
    struct Disk {
        written: Vec<u8>,
        room: usize,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let taken = bytes.len().min(self.room).min(7); // short writes on the way
            self.written.extend_from_slice(&bytes[..taken]);
            self.room -= taken;
            Ok(taken)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    proptest! {
        /// However the disk fills and empties: a line is whole on a line of its own, or it was counted.
        #[test]
        fn lines_are_whole_or_counted(rooms in proptest::collection::vec(0usize..60, 1..20)) {
            let mut disk = Disk::default();
            let mut lines = Lines { buffer: Vec::new(), torn: false };
            // A line of which only the newline was missing is whole in the end, and was counted all the same.
            let (mut number, mut lost, mut doubly) = (0, 0, 0);
            for room in rooms {
                let before = disk.written.len();
                disk.room = room;
                for _ in 0..3 {
                    lines.buffer.extend_from_slice(format!("[line-{number}]\n").as_bytes());
                    number += 1;
                }
                if let Err((count, _)) = lines.write_to(&mut disk) {
                    lost += count;
                    doubly += u64::from(disk.written[before..].ends_with(b"]"));
                }
                prop_assert!(lines.buffer.is_empty());
            }
            let text = String::from_utf8(disk.written).unwrap();
            let whole: Vec<u64> = text
                .lines()
                .filter_map(|line| line.strip_prefix("[line-")?.strip_suffix(']')?.parse().ok())
                .collect();
            prop_assert!(whole.is_sorted_by(|a, b| a < b));
            prop_assert_eq!(whole.len() as u64 + lost, number + doubly);
            for line in text.lines() {
                prop_assert!(line.matches("[line-").count() <= 1, "two lines ran together: {}", line);
            }
        }
    }

    #[test]
    fn torn_line_is_followed_by_newline() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("flows.jsonl");
        fs::write(&path, "{\"time\":").unwrap();
        let mut sink = LineSink::open("flow log", LogTarget::File(path.clone()), Counter::noop());
        sink.push(&crate::flow::example_record(1));
        sink.write();
        let text = fs::read_to_string(&path).unwrap();
        let (torn, line) = text.split_once('\n').unwrap();
        assert_eq!(torn, "{\"time\":");
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line}");
    }

    #[test]
    fn failed_rotation_is_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let (path, rotated) = (directory.path().join("flows.jsonl"), directory.path().join("flows.jsonl.1"));
        let mut sink = LineSink::open("flow log", LogTarget::File(path.clone()), Counter::noop());
        let write = |sink: &mut LineSink| {
            sink.push(&crate::flow::example_record(1));
            assert!(sink.write());
        };
        fs::rename(&path, &rotated).unwrap();
        fs::create_dir(&path).unwrap();
        sink.reopen();
        write(&mut sink);
        assert!(sink.problem().reason().is_some_and(|why| why.contains("before the rotation")));
        fs::remove_dir(&path).unwrap();
        write(&mut sink);
        assert_eq!(sink.problem().reason(), None);
        for file in [&rotated, &path] {
            assert_eq!(fs::read_to_string(file).unwrap().lines().count(), 1, "{}", file.display());
        }
    }

    #[test]
    fn unopenable_file_is_tried_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("missing/flows.jsonl");
        let lost = std::sync::Arc::<std::sync::atomic::AtomicU64>::default();
        let counter = Counter::from_arc(std::sync::Arc::clone(&lost));
        let mut sink = LineSink::open("flow log", LogTarget::File(path.clone()), counter);
        for number in 0..3 {
            sink.push(&crate::flow::example_record(number));
        }
        assert!(sink.problem().reason().is_some_and(|why| why.contains("cannot open the flow log")));
        assert!(!sink.write());
        assert!(sink.problem().reason().is_some_and(|why| why.contains("lines are lost")));
        fs::create_dir(path.parent().unwrap()).unwrap();
        sink.push(&crate::flow::example_record(3));
        assert!(sink.write());
        assert_eq!(sink.problem().reason(), None);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!((text.lines().count(), lost.load(std::sync::atomic::Ordering::Relaxed)), (1, 3));
    }
}
