//! Operations on an established socket.

use nix::sys::socket::{MsgFlags, recv, send};
use socket2::SockRef;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

/// Copies bytes from the start of the receive queue without consuming them.
pub fn peek(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(recv(socket.as_fd().as_raw_fd(), buffer, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT)?)
}

/// Reads bytes; 0 is the end of the stream.
pub fn read(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(recv(socket.as_fd().as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)?)
}

/// Writes bytes; a closed peer is `EPIPE`, never a signal.
pub fn write(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    Ok(send(socket.as_fd().as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?)
}

/// Disables Nagle's algorithm: small writes are sent at once instead of waiting for acknowledgements.
pub fn set_nodelay(socket: impl AsFd) -> io::Result<()> {
    SockRef::from(&socket).set_tcp_nodelay(true)
}

/// Sends FIN after everything that was written.
pub fn finish(socket: impl AsFd) -> io::Result<()> {
    SockRef::from(&socket).shutdown(std::net::Shutdown::Write)
}

/// Sets the options of every socket of a flow; accepted sockets inherit them from their listener.
///
/// `SO_LINGER` of 0: any close, including the death of the process, sends RST, so that a truncated answer never ends in
/// FIN. [`close_cleanly`] reverts it. `SO_OOBINLINE`: urgent data is read as part of the stream.
pub fn prepare(socket: impl AsFd) -> io::Result<()> {
    let socket = SockRef::from(&socket);
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_out_of_band_inline(true)
}

/// Makes the next `close` send the unsent bytes, then FIN, in the background.
pub fn close_cleanly(socket: impl AsFd) -> io::Result<()> {
    SockRef::from(&socket).set_linger(None)
}

/// Makes the next `close` send RST and drop the unsent bytes. Has no effect on a socket that was reset already.
pub fn reset_on_close(socket: impl AsFd) -> io::Result<()> {
    SockRef::from(&socket).set_linger(Some(Duration::ZERO))
}

/// Kernel state of a connection that determines when its 4-tuple can be reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionState {
    /// Both ends use TCP timestamps (RFC 7323): then TIME_WAIT does not prevent reuse of the 4-tuple.
    pub timestamps: bool,
    /// It is over: reset, in TIME_WAIT, or gone from the kernel.
    pub over: bool,
    /// Smoothed round-trip time.
    pub round_trip: Duration,
}

/// Reads the state by `TCP_INFO`.
pub fn connection(socket: impl AsFd) -> io::Result<ConnectionState> {
    let info = tcp_info(socket)?;
    Ok(ConnectionState {
        timestamps: info.tcpi_options & TCPI_OPT_TIMESTAMPS != 0,
        over: info.tcpi_state == TCP_CLOSE,
        round_trip: Duration::from_micros(u64::from(info.tcpi_rtt)),
    })
}

/// Bytes written but not acknowledged (`SIOCOUTQ`): 0 if the connection is gone, although the kernel still counts them.
pub fn unacknowledged(socket: impl AsFd) -> io::Result<u32> {
    if tcp_info(&socket)?.tcpi_state == TCP_CLOSE {
        return Ok(0);
    }
    outstanding(socket)
}

/// Bytes waiting to be read, including those behind urgent data (`SIOCINQ`).
pub fn waiting(socket: impl AsFd) -> io::Result<usize> {
    Ok(usize::try_from(ioctl_int(socket, libc::FIONREAD)?).unwrap_or(0))
}

/// Bytes sent or queued but not acknowledged. Available for a connection that was reset, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Undelivered {
    /// Bytes, with a FIN as one.
    pub bytes: u32,
    /// Bytes that were never sent.
    pub unsent: u32,
    /// Maximum segment size in bytes.
    pub segment: u32,
    /// The connection is over, so they will not be delivered.
    pub over: bool,
}

/// Reads them from the kernel.
pub fn undelivered(socket: impl AsFd) -> io::Result<Undelivered> {
    let info = tcp_info(&socket)?;
    let bytes = outstanding(socket)?;
    let over = info.tcpi_state == TCP_CLOSE;
    Ok(Undelivered { bytes, unsent: info.tcpi_notsent_bytes, segment: info.tcpi_snd_mss, over })
}

/// Bytes written but not acknowledged, with our FIN as one (`SIOCOUTQ`). The kernel still counts them when the
/// connection is gone.
pub fn outstanding(socket: impl AsFd) -> io::Result<u32> {
    Ok(u32::try_from(ioctl_int(socket, libc::TIOCOUTQ)?).unwrap_or(0))
}

/// Bytes received in order, with a FIN as one, read or not.
pub fn received(socket: impl AsFd) -> io::Result<u64> {
    Ok(tcp_info(socket)?.tcpi_bytes_received)
}

/// Bytes of ours that the peer's host has acknowledged on a connection that we opened. A FIN acknowledges all that came before
/// it, a reset nothing.
pub fn acknowledged(socket: impl AsFd) -> io::Result<u64> {
    // Our SYN counts for one (`tcp_ack` in net/ipv4/tcp_input.c).
    Ok(tcp_info(socket)?.tcpi_bytes_acked.saturating_sub(1))
}

/// True if the next byte is urgent data (`SIOCATMARK`): reads stop before it, though more may wait behind it.
pub fn is_at_urgent_mark(socket: impl AsFd) -> io::Result<bool> {
    Ok(ioctl_int(socket, SIOCATMARK)? != 0)
}

/// include/uapi/asm-generic/sockios.h
const SIOCATMARK: libc::Ioctl = 0x8905;

/// Calls one of the ioctls above, which all return an int.
fn ioctl_int(socket: impl AsFd, request: libc::Ioctl) -> io::Result<libc::c_int> {
    let mut answer: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (the same number as TIOCOUTQ), SIOCINQ (as FIONREAD) and SIOCATMARK write one int through the
    // pointer, which is valid for the call's duration; the descriptor is borrowed, so it is open.
    #[expect(unsafe_code, reason = "ioctl has no safe wrapper")]
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), request, &raw mut answer) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(answer)
}

/// Makes a listener keep the headers of the SYNs that it receives, for [`saved_syn`].
pub fn save_syns(listener: impl AsFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: `on` is valid for reads of its size for the call's duration; the descriptor is borrowed, so it is open.
    #[expect(unsafe_code, reason = "setsockopt(TCP_SAVE_SYN) has no safe wrapper among our dependencies")]
    let result = unsafe {
        libc::setsockopt(
            listener.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_SAVE_SYN,
            (&raw const on).cast(),
            SIZE_OF_INT,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[expect(clippy::cast_possible_truncation, reason = "it is 4")]
const SIZE_OF_INT: libc::socklen_t = size_of::<libc::c_int>() as libc::socklen_t;

/// Maximum length of IP and TCP headers, in IPv6 without extensions.
const HEADERS: usize = 128;

/// Returns the first bytes of the IP header of the client's SYN. The kernel returns it only once. Fails if it has none.
pub fn saved_syn(accepted: impl AsFd, first: &mut [u8]) -> io::Result<()> {
    let mut headers = [0u8; HEADERS];
    let mut length = libc::socklen_t::try_from(headers.len()).unwrap_or(0);
    // SAFETY: `headers` is valid for writes of `length` bytes and `length` for one socklen_t, both for the call's
    // duration; the descriptor is borrowed, so it is open. The kernel writes at most `length` bytes.
    #[expect(unsafe_code, reason = "getsockopt(TCP_SAVED_SYN) has no safe wrapper among our dependencies")]
    let result = unsafe {
        libc::getsockopt(
            accepted.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_SAVED_SYN,
            headers.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let there =
        headers.get(..usize::try_from(length).unwrap_or(0)).and_then(|there| there.get(..first.len()));
    first.copy_from_slice(there.ok_or(io::ErrorKind::NotFound)?);
    Ok(())
}

/// include/uapi/linux/tcp.h
const TCPI_OPT_TIMESTAMPS: u8 = 1;
/// include/net/tcp_states.h
const TCP_CLOSE: u8 = 7;

#[expect(unsafe_code, reason = "getsockopt(TCP_INFO) has no safe wrapper among our dependencies")]
fn tcp_info(socket: impl AsFd) -> io::Result<libc::tcp_info> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = libc::socklen_t::try_from(size_of::<libc::tcp_info>()).unwrap_or(0);
    // SAFETY: `info` is valid for writes of `length` bytes and `length` for one socklen_t, both for the call's
    // duration; the descriptor is borrowed, so it is open. The kernel writes at most `length` bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: tcp_info is a plain C struct of integers, for which the all-zero pattern that it started with is
    // valid; an older kernel that writes fewer bytes leaves the rest zero.
    Ok(unsafe { info.assume_init() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn reset_on_close_reaches_the_peer() {
        let (mut client, server) = pair();
        reset_on_close(&server).unwrap();
        drop(server);
        let error = client.read(&mut [0; 1]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn peek_keeps_bytes_and_finish_sends_eof() {
        let (mut client, mut server) = pair();
        client.write_all(b"hello").unwrap();
        finish(&client).unwrap();
        let mut all = Vec::new();
        let mut buffer = [0; 8];
        // Wait for the bytes by a blocking peek of the standard library.
        assert_eq!(server.peek(&mut buffer).unwrap(), 5);
        assert_eq!(peek(&server, &mut buffer).unwrap(), 5);
        server.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"hello");
    }

    #[test]
    fn loopback_connections_have_tcp_info() {
        let (client, _server) = pair();
        let info = connection(&client).unwrap();
        assert!(!info.over && info.round_trip > Duration::ZERO);
    }
}
