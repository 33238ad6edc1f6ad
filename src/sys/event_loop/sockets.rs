//! Readiness of an event loop's sockets.

use super::EventLoop;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use slab::Slab;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Readiness bits reported by events. A bit is cleared when a call returns [`io::ErrorKind::WouldBlock`]; those of ends
/// and failures stay.
pub(in crate::sys) mod readiness {
    pub(in crate::sys) const READABLE: u8 = 1;
    pub(in crate::sys) const WRITABLE: u8 = 1 << 1;
    /// FIN or RST has arrived: reads no longer block.
    pub(in crate::sys) const READ_CLOSED: u8 = 1 << 2;
    /// Writes no longer block.
    pub(in crate::sys) const WRITE_CLOSED: u8 = 1 << 3;
    pub(in crate::sys) const FAILED: u8 = 1 << 4;
    pub(in crate::sys) const URGENT: u8 = 1 << 5;
}

/// One entry per socket, by its key. Events carry the key and the serial number.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    all: Slab<SocketReadiness>,
    /// Serial number of the last socket.
    serial: u32,
}

/// State of one socket, 24 bytes.
#[derive(Debug)]
struct SocketReadiness {
    /// Detects late events of an earlier socket with the same key.
    serial: u32,
    readiness: u8,
    /// Bits that its task waits for.
    wanted: u8,
    /// Waker of that task.
    waker: Waker,
}

/// Event data of a descriptor that is not a socket's.
pub(super) const NOBODY: u64 = u64::MAX;

impl Sockets {
    /// Records events, and wakes the tasks concerned. True if one is [`NOBODY`]'s.
    pub(super) fn dispatch(&mut self, events: &[EpollEvent]) -> bool {
        let mut nobodys = false;
        for event in events {
            let (key, serial) = split(event.data());
            let Some(socket) = self.all.get_mut(key as usize).filter(|socket| socket.serial == serial) else {
                nobodys |= event.data() == NOBODY;
                continue;
            };
            let readiness = readiness_of(event.events());
            socket.readiness |= readiness;
            if socket.wanted & readiness != 0 {
                socket.wanted = 0;
                socket.waker.wake_by_ref();
            }
        }
        nobodys
    }

    /// True if this socket is still registered.
    pub(super) fn have(&self, key: u32, serial: u32) -> bool {
        self.all.get(key as usize).is_some_and(|socket| socket.serial == serial)
    }

    pub(super) fn serial(&self, key: u32) -> u32 {
        self.all[key as usize].serial
    }

    /// Adds a new socket; returns its key and serial number.
    fn add(&mut self) -> io::Result<(u32, u32)> {
        self.serial = self.serial.wrapping_add(1);
        let key = u32::try_from(self.all.vacant_key()).ok().filter(|key| *key != u32::MAX);
        let key = key.ok_or(io::ErrorKind::OutOfMemory)?;
        self.all.insert(SocketReadiness {
            serial: self.serial,
            readiness: 0,
            wanted: 0,
            waker: Waker::noop().clone(),
        });
        Ok((key, self.serial))
    }
}

fn join(key: u32, serial: u32) -> u64 {
    u64::from(serial) << 32 | u64::from(key)
}

#[expect(clippy::cast_possible_truncation, reason = "it takes the two halves apart")]
fn split(data: u64) -> (u32, u32) {
    (data as u32, (data >> 32) as u32)
}

/// Readiness bits for event flags; `tcp_poll` in net/ipv4/tcp.c defines when each flag is set.
fn readiness_of(events: EpollFlags) -> u8 {
    let mut readiness = 0;
    let mut tell = |flags: EpollFlags, what: u8| {
        if events.intersects(flags) {
            readiness |= what;
        }
    };
    // Reads and writes return errors, too.
    tell(EpollFlags::EPOLLIN | EpollFlags::EPOLLPRI | EpollFlags::EPOLLERR, readiness::READABLE);
    tell(EpollFlags::EPOLLOUT | EpollFlags::EPOLLERR, readiness::WRITABLE);
    tell(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP, readiness::READ_CLOSED);
    tell(EpollFlags::EPOLLHUP, readiness::WRITE_CLOSED);
    tell(EpollFlags::EPOLLERR, readiness::FAILED);
    tell(EpollFlags::EPOLLPRI, readiness::URGENT);
    readiness
}

/// A socket registered with an event loop, for one task.
pub(in crate::sys) struct WatchedSocket<T: AsFd> {
    socket: T,
    pub(super) key: u32,
    pub(super) event_loop: Rc<EventLoop>,
}

impl<T: AsFd> WatchedSocket<T> {
    /// Registers a non-blocking socket for these events.
    pub(in crate::sys) fn new(socket: T, events: EpollFlags, event_loop: &Rc<EventLoop>) -> io::Result<Self> {
        let (key, serial) = event_loop.sockets.borrow_mut().add()?;
        let watched = Self { socket, key, event_loop: Rc::clone(event_loop) };
        event_loop.epoll.add(&watched.socket, EpollEvent::new(events, join(key, serial)))?;
        Ok(watched)
    }

    /// Ready when an event of these was reported, until a call blocks.
    pub(in crate::sys) fn poll(&self, cx: &Context<'_>, what: u8) -> Poll<()> {
        let mut sockets = self.event_loop.sockets.borrow_mut();
        let socket = &mut sockets.all[self.key as usize];
        if socket.readiness & what != 0 {
            return Poll::Ready(());
        }
        socket.wanted |= what;
        socket.waker.clone_from(cx.waker());
        Poll::Pending
    }

    /// True if any of these bits is set.
    pub(in crate::sys) fn is_ready(&self, what: u8) -> bool {
        self.event_loop.sockets.borrow().all[self.key as usize].readiness & what != 0
    }

    /// Sets these bits.
    pub(in crate::sys) fn set_ready(&self, what: u8) {
        self.event_loop.sockets.borrow_mut().all[self.key as usize].readiness |= what;
    }

    /// Makes a call if events have reported readiness; after the bits `end` it never blocks again.
    pub(in crate::sys) fn attempt<R>(
        &self,
        what: u8,
        end: u8,
        call: impl FnOnce() -> io::Result<R>,
    ) -> io::Result<R> {
        if !self.is_ready(what | end) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let result = call();
        if let Err(error) = &result
            && error.kind() == io::ErrorKind::WouldBlock
        {
            // No event is lost: those since the call wait in the kernel.
            self.event_loop.sockets.borrow_mut().all[self.key as usize].readiness &= !what;
        }
        result
    }

    /// Returns the socket.
    pub(in crate::sys) fn get(&self) -> &T {
        &self.socket
    }
}

impl<T: AsFd + fmt::Debug> fmt::Debug for WatchedSocket<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched")
            .field("socket", &self.socket)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

impl<T: AsFd> AsFd for WatchedSocket<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl<T: AsFd> Drop for WatchedSocket<T> {
    fn drop(&mut self) {
        // Closing the descriptor right after this removes it from epoll; no event is fetched in between.
        self.event_loop.sockets.borrow_mut().all.remove(self.key as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reused_key_ignores_stale_events() {
        let mut sockets = Sockets::default();
        let (key, before) = sockets.add().unwrap();
        sockets.all.remove(key as usize);
        let (again, now) = sockets.add().unwrap();
        assert_eq!(again, key);
        let closed = |serial| [EpollEvent::new(EpollFlags::EPOLLRDHUP, join(key, serial))];
        assert!(!sockets.dispatch(&closed(before)));
        assert_eq!(sockets.all[key as usize].readiness, 0);
        assert!(!sockets.dispatch(&closed(now)));
        assert_eq!(sockets.all[key as usize].readiness, readiness::READ_CLOSED);
        assert!(sockets.dispatch(&[EpollEvent::new(EpollFlags::EPOLLIN, NOBODY)]));
        assert!(!sockets.have(key, before) && sockets.have(key, now));
    }
}
