//! Readiness of many sockets on one thread, as thin as it can be: the generator must not be what is measured.

use egret::clock;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::os::fd::AsFd;
use std::time::Instant;

/// Told once of each change.
pub const CHANGES: EpollFlags =
    EpollFlags::EPOLLIN.union(EpollFlags::EPOLLOUT).union(EpollFlags::EPOLLRDHUP).union(EpollFlags::EPOLLET);
/// Told as long as there is something to read.
pub const READABLE: EpollFlags = EpollFlags::EPOLLIN;
/// Told as long as there is room to write.
pub const WRITABLE: EpollFlags = EpollFlags::EPOLLOUT;

pub struct Poller {
    epoll: Epoll,
    events: Vec<EpollEvent>,
}

impl Poller {
    pub fn new() -> Self {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("epoll_create1");
        Self { epoll, events: vec![EpollEvent::empty(); 256] }
    }

    /// A socket leaves by being closed.
    pub fn watch(&self, socket: impl AsFd, key: usize, what: EpollFlags) {
        self.epoll.add(socket, EpollEvent::new(what, key as u64)).expect("epoll_ctl(ADD)");
    }

    pub fn watch_instead(&self, socket: impl AsFd, key: usize, what: EpollFlags) {
        self.epoll.modify(socket, &mut EpollEvent::new(what, key as u64)).expect("epoll_ctl(MOD)");
    }

    /// Waits for events, until then at the latest; yields how many there are.
    pub fn wait(&mut self, until: Option<Instant>) -> usize {
        let timeout = until.map_or(EpollTimeout::NONE, |until| {
            let left = until.saturating_duration_since(clock::now()).as_micros().div_ceil(1000);
            EpollTimeout::try_from(left.min(1000)).expect("at most a second")
        });
        match self.epoll.wait(&mut self.events, timeout) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(errno) => panic!("epoll_wait: {errno}"),
        }
    }

    /// The n-th event of those that were waited for: whose, and what.
    pub fn event(&self, n: usize) -> (usize, EpollFlags) {
        let event = self.events[n];
        (usize::try_from(event.data()).expect("a key"), event.events())
    }
}
