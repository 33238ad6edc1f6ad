//! A throw-away network namespace: it goes away with its handle and the sockets in it, however this process ends.

use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::thread;

/// A network namespace without a name.
#[derive(Debug)]
pub(super) struct Namespace(File);

impl Namespace {
    pub(super) fn new() -> io::Result<Self> {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
        made.join().unwrap_or_else(|_| Err(panicked())).map(Self)
    }

    /// A path by which `ip` finds it.
    pub(super) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Runs `work` on a thread inside. Sockets made there stay there, also when used from outside.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET)?;
                work()
            });
            inside.join().unwrap_or_else(|_| Err(panicked()))
        })
    }
}

fn panicked() -> io::Error {
    io::Error::other("a thread panicked")
}
