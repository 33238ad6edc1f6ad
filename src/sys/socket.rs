//! A connected TCP socket on an event loop.

use super::event_loop::{EventLoop, WatchedSocket, readiness};
use super::stream;
use nix::sys::epoll::EpollFlags;
use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// A non-blocking socket, registered edge-triggered. A single task waits on it.
///
/// Drop resets the peer, unless the stream has ended well. So neither a task that panics or is dropped nor a process
/// that dies looks like a clean end of file.
#[derive(Debug)]
pub struct Socket(WatchedSocket<Stream>);

#[derive(Debug)]
struct Stream {
    socket: TcpStream,
    finished: Cell<bool>,
    ended_well: Cell<bool>,
    /// Bytes already read, for the next reader. Rare, so it takes only one pointer here.
    ahead: OnceCell<Box<RefCell<Vec<u8>>>>,
}

impl Socket {
    /// Registers a non-blocking socket, prepared by [`stream::prepare`], with an event loop. If that fails, the peer is
    /// reset.
    pub fn new(stream: TcpStream, event_loop: &Rc<EventLoop>) -> io::Result<Self> {
        let events = EpollFlags::EPOLLIN
            | EpollFlags::EPOLLOUT
            | EpollFlags::EPOLLRDHUP
            | EpollFlags::EPOLLPRI
            | EpollFlags::EPOLLET;
        debug_assert!(
            !socket2::SockRef::from(&stream).linger().is_ok_and(|time| time != Some(Duration::ZERO)),
            "a socket that was not prepared"
        );
        let stream = Stream {
            socket: stream,
            finished: Cell::default(),
            ended_well: Cell::default(),
            ahead: OnceCell::new(),
        };
        WatchedSocket::new(stream, events, event_loop).map(Self)
    }

    /// Sends FIN after everything that was written.
    pub fn finish(&self) {
        self.stream().finished.set(true);
        // It fails on a dead socket, which the next read detects.
        let _ = stream::finish(self);
    }

    /// Records that both directions have finished: drop then closes without a reset.
    pub fn ended_well(&self) {
        // It fails only on what is not a socket.
        let _ = stream::close_cleanly(self);
        self.stream().ended_well.set(true);
    }

    /// True if drop would reset a peer that has already received a FIN.
    pub fn resets_after_its_end(&self) -> bool {
        self.stream().finished.get() && !self.stream().ended_well.get()
    }

    fn stream(&self) -> &Stream {
        self.0.get()
    }

    /// Makes [`EventLoop::keep_alive`] set keepalive in its first call a quarter of a second or more after `due`, which
    /// must not be before that of earlier calls.
    pub fn keep_alive_from(&self, due: Instant) {
        self.0.keep_alive_from(due);
    }

    /// Ready when a read may return bytes, the end of the stream or an error.
    pub fn poll_readable(&self, cx: &Context<'_>) -> Poll<()> {
        self.0.poll(cx, readiness::READABLE | readiness::READ_CLOSED)
    }

    /// Ready when a write may accept bytes, or fail.
    pub fn poll_writable(&self, cx: &Context<'_>) -> Poll<()> {
        self.0.poll(cx, readiness::WRITABLE | readiness::WRITE_CLOSED)
    }

    /// Ready when the socket has failed: the error is in `SO_ERROR`.
    pub fn poll_failed(&self, cx: &Context<'_>) -> Poll<()> {
        self.0.poll(cx, readiness::FAILED)
    }

    /// Marks the socket readable again, for bytes that were seen already and cause no further event.
    pub fn mark_readable(&self) {
        self.0.set_ready(readiness::READABLE);
    }

    /// Tries to read, if an event has reported readiness.
    pub fn try_read<R>(&self, read: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        self.0.attempt(readiness::READABLE, readiness::READ_CLOSED, read)
    }

    /// Tries to write, if an event has reported readiness.
    pub fn try_write<R>(&self, write: impl FnOnce() -> io::Result<R>) -> io::Result<R> {
        self.0.attempt(readiness::WRITABLE, readiness::WRITE_CLOSED, write)
    }

    /// Copies the next bytes without consuming them. Stops at urgent data: see [`Self::read_ahead`].
    pub fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(ahead) = self.ahead() else { return self.past_mark(|| stream::peek(self, buffer)) };
        let ahead = ahead.borrow();
        let n = ahead.len().min(buffer.len());
        buffer[..n].copy_from_slice(&ahead[..n]);
        Ok(n + self.past_mark(|| stream::peek(self, &mut buffer[n..])).unwrap_or(0))
    }

    /// Lets [`Self::peek`] return more than `peeked` bytes if the rest is behind urgent data. True if it does.
    pub fn read_ahead(&self, peeked: usize) -> io::Result<bool> {
        let fresh = peeked.saturating_sub(self.ahead().map_or(0, |ahead| ahead.borrow().len()));
        if fresh == 0 || stream::waiting(self)? <= fresh {
            return Ok(false);
        }
        let mut bytes = vec![0; fresh];
        let read = self.past_mark(|| stream::read(self, &mut bytes))?;
        self.stream().ahead.get_or_init(Box::default).borrow_mut().extend_from_slice(&bytes[..read]);
        Ok(true)
    }

    /// Reads bytes; 0 is the end of the stream.
    pub fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(ahead) = self.ahead() else { return self.past_mark(|| stream::read(self, buffer)) };
        let mut ahead = ahead.borrow_mut();
        let n = ahead.len().min(buffer.len());
        buffer[..n].copy_from_slice(&ahead[..n]);
        ahead.drain(..n);
        Ok(n)
    }

    /// Repeats a call that says "would block" although bytes are there, of which no further event would tell: at urgent
    /// data, while a signal is pending, as when the process is stopped or frozen (`tcp_recvmsg_locked` in
    /// net/ipv4/tcp.c).
    fn past_mark(&self, mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
        loop {
            match call() {
                Err(error)
                    if error.kind() == io::ErrorKind::WouldBlock
                        && self.may_hold_back()
                        && stream::is_at_urgent_mark(self)?
                        && stream::waiting(self)? > 0 => {}
                result => return result,
            }
        }
    }

    /// True if bytes that were read ahead are still to be read.
    pub fn has_read_ahead(&self) -> bool {
        self.ahead().is_some()
    }

    /// Bytes that were read ahead, if any.
    fn ahead(&self) -> Option<&RefCell<Vec<u8>>> {
        self.stream().ahead.get().map(Box::as_ref).filter(|ahead| !ahead.borrow().is_empty())
    }

    /// True if events have reported the peer's FIN or reset: the bytes left to read are the last.
    pub fn is_read_closed(&self) -> bool {
        self.0.is_ready(readiness::READ_CLOSED)
    }

    /// True if events have reported a failure; otherwise `SO_ERROR` is empty.
    pub fn has_failed(&self) -> bool {
        self.0.is_ready(readiness::FAILED)
    }

    /// True if events have reported urgent data of the peer: only then can a read be short although more is waiting
    /// behind the mark.
    pub fn may_hold_back(&self) -> bool {
        self.0.is_ready(readiness::URGENT)
    }

    /// Takes `SO_ERROR`, which clears it.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.stream().socket.take_error()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::event_loop::timeout;
    use crate::sys::liveness::Liveness;
    use nix::sys::socket::{MsgFlags, send};
    use std::future::poll_fn;
    use std::io::{ErrorKind, Read};
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;

    fn pair(event_loop: &Rc<EventLoop>) -> (TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        socket.set_nonblocking(true).unwrap();
        stream::prepare(&socket).unwrap();
        (peer, Socket::new(socket, event_loop).unwrap())
    }

    /// True if the peer of a closed socket was reset.
    fn was_reset(mut peer: TcpStream) -> bool {
        match peer.read(&mut [0]) {
            Ok(0) => false,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => true,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn dropped_socket_resets_unless_ended_well() {
        EventLoop::run(async |event_loop| {
            let (peer, socket) = pair(&event_loop);
            drop(socket);
            assert!(was_reset(peer));
            let (peer, socket) = pair(&event_loop);
            socket.ended_well();
            drop(socket);
            assert!(!was_reset(peer));
        })
        .unwrap();
    }

    #[test]
    fn unwatched_socket_is_reset_too() {
        EventLoop::run(async |event_loop| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (socket, _) = listener.accept().unwrap();
            stream::prepare(&socket).unwrap();
            // epoll accepts a descriptor only once.
            let watched = WatchedSocket::new(&socket, EpollFlags::EPOLLIN, &event_loop).unwrap();
            std::mem::forget(watched);
            let error = Socket::new(socket, &event_loop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AlreadyExists);
            assert!(was_reset(peer));
        })
        .unwrap();
    }

    #[test]
    fn only_urgent_data_is_reported_urgent() {
        EventLoop::run(async |event_loop| {
            let (peer, socket) = pair(&event_loop);
            send(peer.as_raw_fd(), b"plain", MsgFlags::empty()).unwrap();
            poll_fn(|cx| socket.poll_readable(cx)).await;
            assert!(!socket.may_hold_back());
            send(peer.as_raw_fd(), b"!", MsgFlags::MSG_OOB).unwrap();
            poll_fn(|cx| socket.0.poll(cx, readiness::URGENT)).await;
            assert!(socket.may_hold_back());
        })
        .unwrap();
    }

    #[test]
    fn would_block_clears_readiness() {
        EventLoop::run(async |event_loop| {
            let (peer, socket) = pair(&event_loop);
            for _ in 0..3 {
                send(peer.as_raw_fd(), b"x", MsgFlags::empty()).unwrap();
                poll_fn(|cx| socket.poll_readable(cx)).await;
                let mut buffer = [0; 8];
                let mut read = || socket.try_read(|| stream::read(&socket, &mut buffer));
                assert_eq!(read().unwrap(), 1);
                assert_eq!(read().unwrap_err().kind(), ErrorKind::WouldBlock);
                assert!(!socket.0.is_ready(readiness::READABLE));
            }
            drop(peer);
            poll_fn(|cx| socket.poll_readable(cx)).await;
            assert!(socket.is_read_closed() && !socket.has_failed());
        })
        .unwrap();
    }

    #[test]
    fn peeked_bytes_can_be_signalled_again() {
        EventLoop::run(async |event_loop| {
            let (peer, socket) = pair(&event_loop);
            send(peer.as_raw_fd(), b"half", MsgFlags::empty()).unwrap();
            poll_fn(|cx| socket.poll_readable(cx)).await;
            let not_enough = || Err::<(), _>(ErrorKind::WouldBlock.into());
            assert!(socket.try_read(not_enough).is_err());
            assert!(!socket.0.is_ready(readiness::READABLE));
            socket.mark_readable();
            let readiness = timeout(Duration::from_secs(10), poll_fn(|cx| socket.poll_readable(cx)));
            readiness.await.unwrap();
            assert_eq!(stream::peek(&socket, &mut [0; 8]).unwrap(), 4);
        })
        .unwrap();
    }

    #[test]
    fn only_old_sockets_get_keepalive() {
        EventLoop::run(async |event_loop| {
            let now = crate::clock::now();
            let (seconds, late) = (Duration::from_secs, Duration::from_millis(250));
            let liveness =
                Liveness { idle: seconds(77), interval: seconds(5), probes: 3, user_timeout: None };
            let kept = |socket: &Socket| socket2::SockRef::from(socket).keepalive().unwrap();
            let (_peers, sockets): (Vec<_>, Vec<_>) = (0..3).map(|_| pair(&event_loop)).unzip();
            for (socket, due) in sockets.iter().zip(1..) {
                socket.keep_alive_from(now + seconds(due));
            }
            let [first, second, third] = <[Socket; 3]>::try_from(sockets).unwrap();
            // its slot and descriptor are reused
            drop(first);
            let (_peer, other) = pair(&event_loop);
            event_loop.keep_alive(now + seconds(2) + late, &liveness);
            assert_eq!([&second, &third, &other].map(kept), [true, false, false]);
            let idle = socket2::SockRef::from(&second).tcp_keepalive_time().unwrap();
            assert_eq!(idle, seconds(77));
            event_loop.keep_alive(now + seconds(3) + late, &liveness);
            assert!(kept(&third) && !kept(&other));
        })
        .unwrap();
    }
}
