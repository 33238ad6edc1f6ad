//! Deferred keepalive: sockets get it only if they live long enough.
//!
//! Most do not, and save four system calls. Dead peers are detected no later, because the kernel counts from the last
//! segment.

use super::EventLoop;
use super::sockets::WatchedSocket;
use crate::sys::liveness::Liveness;
use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

/// Groups by due time, the next one first.
#[derive(Debug, Default)]
pub(super) struct DeferredKeepalive(VecDeque<Group>);

#[derive(Debug)]
struct Group {
    due: Instant,
    members: Vec<Member>,
}

/// A socket's descriptor, which is open for as long as the loop has the socket under this key and serial number.
#[derive(Debug)]
struct Member {
    key: u32,
    serial: u32,
    socket: RawFd,
}

/// Sockets with due times this close together form one group.
const TOGETHER: Duration = Duration::from_millis(250);

impl DeferredKeepalive {
    fn add(&mut self, due: Instant, member: Member) {
        match self.0.back_mut() {
            Some(last) if due <= last.due => last.members.push(member),
            Some(_) | None => self.0.push_back(Group { due: due + TOGETHER, members: vec![member] }),
        }
    }

    fn take_due(&mut self, now: Instant) -> Option<Group> {
        if self.0.front()?.due <= now { self.0.pop_front() } else { None }
    }
}

impl<T: AsFd> WatchedSocket<T> {
    /// See [`Socket::keep_alive_from`](crate::sys::socket::Socket::keep_alive_from).
    pub(in crate::sys) fn keep_alive_from(&self, due: Instant) {
        let (key, event_loop) = (self.key, &self.event_loop);
        let serial = event_loop.sockets.borrow().serial(key);
        event_loop.young.borrow_mut().add(due, Member { key, serial, socket: self.as_fd().as_raw_fd() });
    }
}

impl EventLoop {
    /// Sets keepalive on the sockets that are due.
    pub fn keep_alive(&self, now: Instant, liveness: &Liveness) {
        let (sockets, mut young) = (self.sockets.borrow(), self.young.borrow_mut());
        while let Some(group) = young.take_due(now) {
            for Member { key, serial, socket } in group.members {
                if sockets.have(key, serial) {
                    // SAFETY: the key is still the socket's, which gives it back before it closes the descriptor, on
                    // this thread: it stays open for as long as `sockets` is borrowed.
                    #[expect(unsafe_code, reason = "a borrow cannot be kept in the queue")]
                    let socket = unsafe { BorrowedFd::borrow_raw(socket) };
                    // It fails on a socket that is dead, which the next read detects.
                    let _ = liveness.keep_alive(socket);
                }
            }
        }
    }
}
