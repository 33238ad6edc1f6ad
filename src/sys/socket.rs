//! A connected TCP socket, and the event loop that tells of it.
//!
//! The sockets of a worker share one epoll instance, which the worker's tokio runtime watches as a single descriptor.
//! Registered once with tokio each, they would take a quarter of a kilobyte and a system call at their end more: here a
//! socket takes a slot of 24 bytes, and is forgotten by the kernel when it is closed.

use super::listener::Liveness;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What events have told of a socket. A bit is cleared when a call says [`io::ErrorKind::WouldBlock`]; those of ends
/// and failures stay.
mod told {
    pub(super) const READABLE: u8 = 1;
    pub(super) const WRITABLE: u8 = 1 << 1;
    /// FIN or RST has come: no read says "would block" any more.
    pub(super) const READ_CLOSED: u8 = 1 << 2;
    /// No write does.
    pub(super) const WRITE_CLOSED: u8 = 1 << 3;
    pub(super) const FAILED: u8 = 1 << 4;
    pub(super) const URGENT: u8 = 1 << 5;
}

/// One worker's event loop: [`Self::run`] has to be polled for its sockets to become ready.
#[derive(Debug)]
pub struct Reactor {
    epoll: AsyncFd<EpollFd>,
    slots: RefCell<Slots>,
    young: RefCell<VecDeque<Young>>,
}

/// A socket that is to have keepalive if it lives until then. Its descriptor is open for as long as the slot has this
/// generation.
#[derive(Debug)]
struct Young {
    due: Instant,
    key: u32,
    generation: u32,
    socket: RawFd,
}

/// One slot for each socket; a key in `free` is of a slot that is nobody's.
#[derive(Debug, Default)]
struct Slots {
    all: Vec<Slot>,
    free: Vec<u32>,
}

#[derive(Debug, Default)]
struct Slot {
    /// Counted up when the slot is given back, to tell late events.
    generation: u32,
    told: u8,
    /// Which of them its task waits for.
    wanted: u8,
    waker: Option<Waker>,
}

/// Events that one system call fetches.
const EVENTS: usize = 256;

impl Reactor {
    /// Must be called on the worker's runtime.
    pub fn new() -> io::Result<Rc<Self>> {
        let epoll = EpollFd(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        // SAFETY: an Epoll owns its descriptor, always names the same one, and is closed only when the AsyncFd, which
        // deregisters it first, is dropped.
        #[expect(unsafe_code, reason = "AsyncFd cannot know this of a type")]
        let epoll = unsafe { AsyncFd::register_with_interest(epoll, Interest::READABLE) }?;
        Ok(Rc::new(Self { epoll, slots: RefCell::default(), young: RefCell::default() }))
    }

    /// Sets keepalive on the sockets that were due by `now`; see [`Socket::keep_alive_from`].
    pub fn keep_alive(&self, now: Instant, liveness: &Liveness) {
        let (slots, mut young) = (self.slots.borrow(), self.young.borrow_mut());
        while young.front().is_some_and(|first| first.due <= now)
            && let Some(Young { key, generation, socket, .. }) = young.pop_front()
        {
            if slots.all[key as usize].generation == generation {
                // SAFETY: the slot is still the socket's, which gives it back before it closes the descriptor, on this
                // thread: it stays open for as long as `slots` is borrowed.
                #[expect(unsafe_code, reason = "a borrow cannot be kept in the queue")]
                let socket = unsafe { BorrowedFd::borrow_raw(socket) };
                // It fails on a socket that is dead, which is found out by reading.
                let _ = liveness.keep_alive(socket);
            }
        }
    }

    /// Fetches events and wakes whom they concern, for ever; yields only an error of the machine's.
    pub async fn run(&self) -> io::Error {
        let mut events = vec![EpollEvent::empty(); EVENTS];
        loop {
            let mut ready = match self.epoll.readable().await {
                Ok(ready) => ready,
                Err(error) => return error,
            };
            match self.epoll.get_ref().0.wait(&mut events, EpollTimeout::ZERO) {
                Ok(n) => {
                    self.slots.borrow_mut().tell(&events[..n]);
                    if n < events.len() {
                        ready.clear_ready();
                    }
                }
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return error.into(),
            }
        }
    }
}

/// For [`AsyncFd`], which asks for the raw descriptor.
#[derive(Debug)]
struct EpollFd(Epoll);

impl AsRawFd for EpollFd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0.as_raw_fd()
    }
}

impl Slots {
    fn tell(&mut self, events: &[EpollEvent]) {
        for event in events {
            let (key, generation) = split(event.data());
            let Some(slot) = self.all.get_mut(key as usize).filter(|slot| slot.generation == generation)
            else {
                continue;
            };
            let told = told_by(event.events());
            slot.told |= told;
            if slot.wanted & told != 0 {
                slot.wanted = 0;
                if let Some(waker) = &slot.waker {
                    waker.wake_by_ref();
                }
            }
        }
    }

    /// A slot for a new socket: its key and generation.
    fn take(&mut self) -> io::Result<(u32, u32)> {
        if let Some(key) = self.free.pop() {
            return Ok((key, self.all[key as usize].generation));
        }
        let key = u32::try_from(self.all.len()).map_err(|_| io::ErrorKind::OutOfMemory)?;
        self.all.push(Slot::default());
        Ok((key, 0))
    }

    fn give_back(&mut self, key: u32) {
        let slot = &mut self.all[key as usize];
        *slot = Slot { generation: slot.generation.wrapping_add(1), ..Slot::default() };
        self.free.push(key);
    }
}

fn join(key: u32, generation: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(key)
}

#[expect(clippy::cast_possible_truncation, reason = "it takes the two halves apart")]
fn split(data: u64) -> (u32, u32) {
    (data as u32, (data >> 32) as u32)
}

/// `tcp_poll` in net/ipv4/tcp.c says when which flag is set.
fn told_by(events: EpollFlags) -> u8 {
    let mut told = 0;
    let mut tell = |flags: EpollFlags, what: u8| {
        if events.intersects(flags) {
            told |= what;
        }
    };
    // Reads and writes tell of an error, too.
    tell(EpollFlags::EPOLLIN | EpollFlags::EPOLLPRI | EpollFlags::EPOLLERR, told::READABLE);
    tell(EpollFlags::EPOLLOUT | EpollFlags::EPOLLERR, told::WRITABLE);
    tell(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP, told::READ_CLOSED);
    tell(EpollFlags::EPOLLHUP, told::WRITE_CLOSED);
    tell(EpollFlags::EPOLLERR, told::FAILED);
    tell(EpollFlags::EPOLLPRI, told::URGENT);
    told
}

/// A non-blocking socket, registered edge-triggered. One task waits for all that it waits for.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    key: u32,
    reactor: Rc<Reactor>,
}

impl Socket {
    /// Registers a non-blocking socket with the worker's event loop.
    pub fn new(stream: TcpStream, reactor: &Rc<Reactor>) -> io::Result<Self> {
        let (key, generation) = reactor.slots.borrow_mut().take()?;
        let socket = Self { stream, key, reactor: Rc::clone(reactor) };
        let flags = EpollFlags::EPOLLIN
            | EpollFlags::EPOLLOUT
            | EpollFlags::EPOLLRDHUP
            | EpollFlags::EPOLLPRI
            | EpollFlags::EPOLLET;
        reactor.epoll.get_ref().0.add(&socket.stream, EpollEvent::new(flags, join(key, generation)))?;
        Ok(socket)
    }

    /// Has [`Reactor::keep_alive`] set keepalive from `due` on, which must not be before that of earlier calls. Most
    /// sockets do not live that long, and are spared four system calls; who dies meanwhile is found as soon, because the
    /// kernel counts from the last segment.
    pub fn keep_alive_from(&self, due: Instant) {
        let generation = self.reactor.slots.borrow().all[self.key as usize].generation;
        let young = Young { due, key: self.key, generation, socket: self.stream.as_raw_fd() };
        self.reactor.young.borrow_mut().push_back(young);
    }

    fn poll(&self, cx: &Context<'_>, what: u8) -> Poll<()> {
        let mut slots = self.reactor.slots.borrow_mut();
        let slot = &mut slots.all[self.key as usize];
        if slot.told & what != 0 {
            return Poll::Ready(());
        }
        slot.wanted |= what;
        match &mut slot.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    fn told(&self, what: u8) -> bool {
        self.reactor.slots.borrow().all[self.key as usize].told & what != 0
    }

    /// Ready when a read may yield bytes, the end of the stream or an error.
    pub fn poll_readable(&self, cx: &Context<'_>) -> Poll<()> {
        self.poll(cx, told::READABLE | told::READ_CLOSED)
    }

    /// Ready when a write may take bytes, or fail.
    pub fn poll_writable(&self, cx: &Context<'_>) -> Poll<()> {
        self.poll(cx, told::WRITABLE | told::WRITE_CLOSED)
    }

    /// Ready when the socket has failed: `SO_ERROR` says how.
    pub fn poll_failed(&self, cx: &Context<'_>) -> Poll<()> {
        self.poll(cx, told::FAILED)
    }

    /// Has the next reader look at once, though what waits was looked at before and no event will tell of it again.
    pub fn tell_readable(&self) {
        self.reactor.slots.borrow_mut().all[self.key as usize].told |= told::READABLE;
    }

    /// Tries to read, if an event has told that it may succeed.
    pub fn try_read<R>(&self, read: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        self.attempt(told::READABLE, told::READ_CLOSED, read)
    }

    /// Tries to write, if an event has told that it may succeed.
    pub fn try_write<R>(&self, write: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        self.attempt(told::WRITABLE, told::WRITE_CLOSED, write)
    }

    fn attempt<R>(&self, what: u8, end: u8, call: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        if !self.told(what | end) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let result = call();
        if let Err(error) = &result
            && error.kind() == io::ErrorKind::WouldBlock
        {
            // No event is lost: those that came since the call wait in the kernel.
            self.reactor.slots.borrow_mut().all[self.key as usize].told &= !what;
        }
        result
    }

    /// Whether events have told that the peer has finished, or reset: what is left to read is the rest.
    pub fn is_read_closed(&self) -> bool {
        self.told(told::READ_CLOSED)
    }

    /// Whether events have told of a failure; without that there is nothing in `SO_ERROR`.
    pub fn has_failed(&self) -> bool {
        self.told(told::FAILED)
    }

    /// Whether the peer has ever sent urgent data, as far as events have told: only then can a read come back short
    /// though more waits behind the mark.
    pub fn may_hold_back(&self) -> bool {
        self.told(told::URGENT)
    }

    /// `SO_ERROR`, which reading clears.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.stream.take_error()
    }

    /// Under TPROXY, what the client dialled.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The descriptor is closed right after this, which takes it out of epoll; no event is fetched in between.
        self.reactor.slots.borrow_mut().give_back(self.key);
    }
}

/// Runs a test that has sockets.
#[cfg(test)]
pub(crate) async fn driven<R>(test: impl AsyncFnOnce(Rc<Reactor>) -> R) -> R {
    let reactor = Reactor::new().unwrap();
    let driver = Rc::clone(&reactor);
    tokio::select! {
        error = driver.run() => panic!("{error}"),
        result = test(reactor) => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{MsgFlags, send};
    use std::future::poll_fn;
    use std::net::TcpListener;
    use std::time::Duration;

    fn pair(reactor: &Rc<Reactor>) -> (TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        socket.set_nonblocking(true).unwrap();
        (peer, Socket::new(socket, reactor).unwrap())
    }

    #[tokio::test(flavor = "local")]
    async fn urgent_data_is_told_and_nothing_else_is_taken_for_it() {
        driven(async |reactor| {
            let (peer, socket) = pair(&reactor);
            send(peer.as_raw_fd(), b"plain", MsgFlags::empty()).unwrap();
            poll_fn(|cx| socket.poll_readable(cx)).await;
            assert!(!socket.may_hold_back());
            send(peer.as_raw_fd(), b"!", MsgFlags::MSG_OOB).unwrap();
            poll_fn(|cx| socket.poll(cx, told::URGENT)).await;
            assert!(socket.may_hold_back());
        })
        .await;
    }

    #[tokio::test(flavor = "local")]
    async fn would_block_clears_and_the_next_event_tells_again() {
        driven(async |reactor| {
            let (peer, socket) = pair(&reactor);
            for _ in 0..3 {
                send(peer.as_raw_fd(), b"x", MsgFlags::empty()).unwrap();
                poll_fn(|cx| socket.poll_readable(cx)).await;
                let mut buffer = [0; 8];
                let mut read = || socket.try_read(|| crate::sys::stream::read(&socket, &mut buffer));
                assert_eq!(read().unwrap(), 1);
                assert_eq!(read().unwrap_err().kind(), io::ErrorKind::WouldBlock);
                assert!(!socket.told(told::READABLE));
            }
            drop(peer);
            poll_fn(|cx| socket.poll_readable(cx)).await;
            assert!(socket.is_read_closed() && !socket.has_failed());
        })
        .await;
    }

    #[tokio::test(flavor = "local")]
    async fn bytes_that_were_looked_at_and_left_can_be_told_of_again() {
        driven(async |reactor| {
            let (peer, socket) = pair(&reactor);
            send(peer.as_raw_fd(), b"half", MsgFlags::empty()).unwrap();
            poll_fn(|cx| socket.poll_readable(cx)).await;
            let not_enough = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
            assert!(socket.try_read(not_enough).is_err());
            assert!(!socket.told(told::READABLE));
            socket.tell_readable();
            let told = tokio::time::timeout(Duration::from_secs(10), poll_fn(|cx| socket.poll_readable(cx)));
            told.await.unwrap();
            assert_eq!(crate::sys::stream::peek(&socket, &mut [0; 8]).unwrap(), 4);
        })
        .await;
    }

    #[tokio::test(flavor = "local")]
    async fn a_socket_that_lives_long_enough_has_keepalive_and_no_other() {
        driven(async |reactor| {
            let now = crate::clock::now();
            let seconds = Duration::from_secs;
            let liveness =
                Liveness { idle: seconds(77), interval: seconds(5), probes: 3, user_timeout: None };
            let kept = |socket: &Socket| socket2::SockRef::from(socket).keepalive().unwrap();
            let (_peers, sockets): (Vec<_>, Vec<_>) = (0..3).map(|_| pair(&reactor)).unzip();
            for (socket, due) in sockets.iter().zip(1..) {
                socket.keep_alive_from(now + seconds(due));
            }
            let [first, second, third] = <[Socket; 3]>::try_from(sockets).unwrap();
            // its slot and descriptor go to another
            drop(first);
            let (_peer, other) = pair(&reactor);
            reactor.keep_alive(now + seconds(2), &liveness);
            assert_eq!([&second, &third, &other].map(kept), [true, false, false]);
            let idle = socket2::SockRef::from(&second).tcp_keepalive_time().unwrap();
            assert_eq!(idle, seconds(77));
            reactor.keep_alive(now + seconds(3), &liveness);
            assert!(kept(&third) && !kept(&other));
        })
        .await;
    }

    #[tokio::test(flavor = "local")]
    async fn a_slot_is_used_again_and_knows_nothing_of_the_socket_before() {
        driven(async |reactor| {
            let (peer, socket) = pair(&reactor);
            drop(peer);
            poll_fn(|cx| socket.poll_readable(cx)).await;
            let key = socket.key;
            drop(socket);
            let (_peer, socket) = pair(&reactor);
            assert_eq!(socket.key, key);
            assert!(!socket.is_read_closed());
            // an event of the socket before
            reactor.slots.borrow_mut().tell(&[EpollEvent::new(EpollFlags::EPOLLRDHUP, join(key, 0))]);
            assert!(!socket.is_read_closed());
        })
        .await;
    }
}
