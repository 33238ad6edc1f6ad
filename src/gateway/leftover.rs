//! Unacknowledged bytes after both sides of a flow have finished.
//!
//! A socket that is closed with such bytes stays in the kernel for minutes and counts towards no tenant's limit. So the
//! flow goes on, and counts, until they are delivered or the peer has taken none of them for too long.

use crate::relay::Side;
use crate::sys::event_loop::sleep;
use crate::sys::socket::Socket;
use crate::sys::stream;
use std::io;
use std::time::Duration;

/// Longest time without progress, unless `half_open_timeout` is shorter.
const STALLED: Duration = Duration::from_secs(300);
/// `SIOCOUTQ` counts our FIN as one byte.
pub(super) const FIN: u32 = 1;

/// True if more than a FIN is unacknowledged.
pub(super) fn has_unacknowledged(socket: &Socket) -> bool {
    stream::outstanding(socket).is_ok_and(|bytes| bytes > FIN)
}

/// The reason why bytes were not delivered.
pub(super) enum DeliveryFailure {
    /// The peer took none of them for too long.
    Stalled,
    /// The socket of a side has failed.
    Failed(Side, io::Error),
}

/// Waits until both peers have acknowledged everything.
pub(super) async fn deliver(
    client: &Socket,
    upstream: &Socket,
    half_open: Duration,
) -> Result<(), DeliveryFailure> {
    let patience = half_open.min(STALLED);
    deliver_to(client, Side::Client, patience).await?;
    deliver_to(upstream, Side::Upstream, patience).await
}

async fn deliver_to(socket: &Socket, side: Side, patience: Duration) -> Result<(), DeliveryFailure> {
    let failed = |error| DeliveryFailure::Failed(side, error);
    let (mut pause, mut waited) = (Duration::from_millis(1), Duration::ZERO);
    let mut before = u32::MAX;
    loop {
        let left = stream::outstanding(socket).map_err(failed)?;
        if left <= FIN {
            return Ok(());
        }
        if stream::connection(socket).map_err(failed)?.over {
            let error = socket.take_error().ok().flatten();
            return Err(failed(error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())));
        }
        if left < before {
            (before, waited) = (left, Duration::ZERO);
        }
        if waited >= patience {
            return Err(DeliveryFailure::Stalled);
        }
        // No event tells that everything is acknowledged, so this polls with a growing pause.
        sleep(pause).await;
        waited += pause;
        pause = (pause * 2).min(Duration::from_millis(250));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::event_loop::EventLoop;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::rc::Rc;

    const MEBIBYTE: usize = 1 << 20;

    /// A socket with more written than its peer has room for, and that peer.
    fn loaded(event_loop: &Rc<EventLoop>) -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        socket2::SockRef::from(&listener).set_recv_buffer_size(8192).unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (peer, _) = listener.accept().unwrap();
        socket2::SockRef::from(&stream).set_send_buffer_size(2 * MEBIBYTE).unwrap();
        stream.set_nonblocking(true).unwrap();
        while stream.write(&[0; 4096]).is_ok() {}
        stream::finish(&stream).unwrap();
        stream::prepare(&stream).unwrap();
        let socket = Socket::new(stream, event_loop).unwrap();
        assert!(has_unacknowledged(&socket));
        (socket, peer)
    }

    #[test]
    fn unsent_bytes_are_awaited_while_peer_reads() {
        EventLoop::run(async |event_loop| {
            let (socket, mut peer) = loaded(&event_loop);
            let reader = std::thread::spawn(move || peer.read_to_end(&mut Vec::new()).unwrap());
            assert!(deliver_to(&socket, Side::Upstream, Duration::from_secs(30)).await.is_ok());
            assert!(!has_unacknowledged(&socket) && reader.join().unwrap() > 0);
        })
        .unwrap();
    }

    #[test]
    fn stalled_or_reset_peer_ends_wait() {
        EventLoop::run(async |event_loop| {
            let (socket, peer) = loaded(&event_loop);
            let stopped = deliver_to(&socket, Side::Upstream, Duration::from_millis(20)).await;
            assert!(matches!(stopped, Err(DeliveryFailure::Stalled)));
            drop(peer); // with unread bytes: a reset
            let stopped = deliver_to(&socket, Side::Upstream, Duration::from_secs(30)).await;
            assert!(matches!(stopped, Err(DeliveryFailure::Failed(..))));
        })
        .unwrap();
    }
}
