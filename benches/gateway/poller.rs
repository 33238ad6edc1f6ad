//! A thin epoll wrapper for many sockets on one thread: the generator must not be the bottleneck.

use egret::clock;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::os::fd::AsFd;
use std::time::Instant;

/// Edge-triggered: reports each change once.
pub const CHANGES: EpollFlags =
    EpollFlags::EPOLLIN.union(EpollFlags::EPOLLOUT).union(EpollFlags::EPOLLRDHUP).union(EpollFlags::EPOLLET);
/// Level-triggered: reports while there are bytes to read.
pub const READABLE: EpollFlags = EpollFlags::EPOLLIN;
/// Level-triggered: reports while there is room to write.
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

    /// Registers a socket; closing it removes it.
    pub fn watch(&self, socket: impl AsFd, key: usize, what: EpollFlags) {
        self.epoll.add(socket, EpollEvent::new(what, key as u64)).expect("epoll_ctl(ADD)");
    }

    pub fn watch_instead(&self, socket: impl AsFd, key: usize, what: EpollFlags) {
        self.epoll.modify(socket, &mut EpollEvent::new(what, key as u64)).expect("epoll_ctl(MOD)");
    }

    /// Waits for events, at most until then; returns their number.
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

    /// Returns the key and flags of the n-th event.
    pub fn event(&self, n: usize) -> (usize, EpollFlags) {
        let event = self.events[n];
        (usize::try_from(event.data()).expect("a key"), event.events())
    }
}
