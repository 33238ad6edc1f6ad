//! The transparent listener.

use super::event_loop::{EventLoop, WatchedSocket, readiness};
use super::liveness::Liveness;
use super::stream;
use nix::sys::epoll::EpollFlags;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll};

/// Opens one worker's listener: transparent, on a port that it shares with the other workers (`SO_REUSEPORT`), for both
/// families if `address` is `[::]`. Accepted sockets inherit transparency, keepalive, `TCP_NODELAY` and the options of
/// [`stream::prepare`].
///
/// `keeps_class`: enables [`TrafficClass::of_client`](super::traffic_class::TrafficClass::of_client).
///
/// Needs `CAP_NET_ADMIN` (or `CAP_NET_RAW`) in the network namespace's user namespace, else `EPERM`.
pub fn open(
    address: SocketAddr,
    backlog: i32,
    liveness: &Liveness,
    keeps_class: bool,
) -> io::Result<TcpListener> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new_raw(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    match address {
        SocketAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(false)?;
            // One socket flag covers both families (inet->transparent in net/ipv6/ipv6_sockglue.c).
            socket.set_ip_transparent_v6(true)?;
        }
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_tcp_nodelay(true)?;
    stream::prepare(&socket)?;
    if keeps_class {
        stream::save_syns(&socket)?;
    }
    liveness.keep_alive(&socket)?;
    if let Some(timeout) = liveness.user_timeout {
        socket.set_tcp_user_timeout(Some(timeout))?;
    }
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// A listener registered with its worker's event loop.
#[derive(Debug)]
pub struct Listener(WatchedSocket<TcpListener>);

impl Listener {
    /// Registers a non-blocking listener with an event loop.
    pub fn new(listener: TcpListener, event_loop: &Rc<EventLoop>) -> io::Result<Self> {
        WatchedSocket::new(listener, EpollFlags::EPOLLIN | EpollFlags::EPOLLET, event_loop).map(Self)
    }

    /// Ready when a connection may be waiting.
    pub fn poll_ready(&self, cx: &Context<'_>) -> Poll<()> {
        self.0.poll(cx, readiness::READABLE)
    }

    /// Has the next accept ask the kernel, whatever events have come.
    pub fn mark_ready(&self) {
        self.0.set_ready(readiness::READABLE);
    }

    /// Accepts the next connection: its socket, non-blocking, and its peer. [`io::ErrorKind::WouldBlock`] if none
    /// waits; only then is [`Self::poll_ready`] pending.
    pub fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.0.attempt(readiness::READABLE, 0, || accept(self.0.get()))
    }
}

/// Accepts a waiting connection; non-blocking and close-on-exec.
pub fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let fd = listener.as_raw_fd();
    // SAFETY: `try_init` hands over pointers that are valid for writes of a sockaddr_storage, whose size `length`
    // holds, and of `length` itself; the listener is borrowed, so its descriptor is open.
    #[expect(unsafe_code, reason = "std has no accept4 with SOCK_NONBLOCK")]
    let (socket, peer) = unsafe {
        SockAddr::try_init(|storage, length| {
            let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
            match libc::accept4(fd, storage.cast(), length, flags) {
                -1 => Err(io::Error::last_os_error()),
                // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
                socket => Ok(OwnedFd::from_raw_fd(socket)),
            }
        })
    }?;
    let peer = peer.as_socket().ok_or(io::ErrorKind::Unsupported)?;
    Ok((socket.into(), peer))
}

/// True if this process can use IPv6: not if the machine was booted with `ipv6.disable=1`, or if
/// `RestrictAddressFamilies=` forbids it. Disabled by sysctl it still counts.
pub fn has_ipv6() -> bool {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP));
    !socket.is_err_and(|error| error.raw_os_error() == Some(libc::EAFNOSUPPORT))
}

/// True if another process listens on the address: `SO_REUSEPORT` would silently share the port with another process of
/// the same user, which would get half of the flows.
pub fn is_taken(address: SocketAddr) -> io::Result<bool> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // SO_REUSEADDR: connections in TIME_WAIT on the port do not count, listeners do.
    socket.set_reuse_address(true)?;
    match socket.bind(&address.into()).and_then(|()| socket.listen(1)) {
        Ok(()) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(true),
        Err(error) => Err(error),
    }
}
