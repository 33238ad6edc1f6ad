//! The upstream socket: bound to an explicit source address and port, then connected.

use super::failure::Failure;
use super::stream;
use super::traffic_class::TrafficClass;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

/// Starts connecting from `source` to `to`. The connection is in progress when this returns: wait until the socket is
/// writable, then check `SO_ERROR`.
///
/// Every pool socket sets `SO_REUSEADDR`, so that one source address and port can serve many destinations; a conflict
/// of 4-tuples is then found at `connect`. Keepalive is not set here: most flows end long before it would matter, and
/// four system calls are a fifth of the cost of a short flow. `user_timeout` is
/// [`Liveness::user_timeout`](super::liveness::Liveness), which limits the SYN too.
pub fn connect(
    source: SocketAddr,
    to: SocketAddr,
    class: TrafficClass,
    user_timeout: Option<Duration>,
) -> Result<TcpStream, (Failure, io::Error)> {
    let bound = bind(source, user_timeout).and_then(|socket| class.set_on(&socket, to).map(|()| socket));
    let socket = bound.map_err(|error| (Failure::of(&error), error))?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => {
            Err((Failure::of_connect(&error, to.ip()), error))
        }
        Ok(()) | Err(_) => Ok(socket.into()),
    }
}

fn bind(source: SocketAddr, user_timeout: Option<Duration>) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new_raw(Domain::for_address(source), kind, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    stream::prepare(&socket)?;
    let frees = source.is_ipv6() && FREEBIND.load(Relaxed);
    if frees {
        socket.set_freebind_v6(true)?;
    }
    if let Some(timeout) = user_timeout {
        socket.set_tcp_user_timeout(Some(timeout))?;
    }
    match socket.bind(&source.into()) {
        Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable && source.is_ipv6() && !frees => {
            socket.set_freebind_v6(true)?;
            socket.bind(&source.into())?;
            FREEBIND.store(true, Relaxed);
        }
        bound => bound?,
    }
    Ok(socket)
}

/// True if an IPv6 address of a pool is not assigned to an interface, as with an AnyIP prefix: it can be bound only
/// with `IPV6_FREEBIND`, unless `net.ipv6.ip_nonlocal_bind` is set. Set by the first refused bind, so that sockets do
/// not pay for the option where it is not needed.
static FREEBIND: AtomicBool = AtomicBool::new(false);
