//! Hold on an upstream port after its socket was closed.

use crate::egress::PortHold;
use crate::relay::Side;
use crate::sys::socket::Socket;
use crate::sys::stream;

/// State that the kernel keeps of the upstream connection when its socket is closed after both sides have finished. Our
/// FIN was sent: `LAST_ACK` or `CLOSING` until it is acknowledged, then nothing, or a `TIME_WAIT` if ours was the
/// first.
pub(super) fn hold_after(first: Side, upstream: &Socket) -> PortHold {
    let Ok(connection) = stream::connection(upstream) else { return PortHold::UNKNOWN };
    let timestamps = connection.timestamps;
    match first {
        _ if !connection.over => {
            PortHold::UntilGone { first_look: connection.round_trip.saturating_mul(2), timestamps }
        }
        Side::Upstream => PortHold::Free,
        Side::Client => hold_after_own_fin(timestamps),
    }
}

/// State that the kernel keeps after a reset: none, unless our FIN was sent before. Then the server's may arrive up to
/// the moment of the reset, and leave a `TIME_WAIT` that no reset ends.
pub(super) fn hold_after_reset(upstream: &Socket) -> PortHold {
    let Ok(connection) = stream::connection(upstream) else { return PortHold::UNKNOWN };
    hold_after_own_fin(connection.timestamps)
}

/// At most a `TIME_WAIT` is left, which a new connection takes over if both ends use timestamps.
fn hold_after_own_fin(timestamps: bool) -> PortHold {
    if timestamps { PortHold::Free } else { PortHold::UNKNOWN }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::event_loop::EventLoop;
    use crate::sys::failure::Failure;
    use crate::sys::traffic_class::TrafficClass;
    use crate::sys::upstream;
    use socket2::{SockFilter, SockRef};
    use std::future::poll_fn;
    use std::net::{TcpListener, TcpStream};

    /// A connection to a server that has finished.
    fn finished_by_the_server() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let socket =
            upstream::connect(any, listener.local_addr().unwrap(), TrafficClass::default(), None).unwrap();
        let (server, _) = listener.accept().unwrap();
        stream::finish(&server).unwrap();
        (socket, server)
    }

    /// Hold on its port once the gateway has finished too and closed the connection.
    fn hold_of(socket: TcpStream, first: Side) -> PortHold {
        let rest = EventLoop::run(async |event_loop| {
            let upstream = Socket::new(socket, &event_loop).unwrap();
            poll_fn(|cx| upstream.poll_readable(cx)).await;
            stream::finish(&upstream).unwrap();
            upstream.ended_well();
            hold_after(first, &upstream)
        });
        rest.unwrap()
    }

    #[test]
    fn port_is_held_while_kernel_has_it() {
        for first in [Side::Upstream, Side::Client] {
            for unsent in [false, true] {
                let (socket, server) = finished_by_the_server();
                let (source, to) = (socket.local_addr().unwrap(), socket.peer_addr().unwrap());
                // Simulates a long path: nothing arrives any more, not even our FIN (`BPF_RET | BPF_K`, of 0 bytes).
                let drop_all = SockFilter::new(0x06, 0, 0, 0);
                SockRef::from(&server).attach_filter(&[drop_all]).unwrap();
                while unsent && stream::write(&socket, &[0; 4096]).is_ok() {}
                let rest = hold_of(socket, first);
                assert!(
                    matches!(rest, PortHold::UntilGone { .. }),
                    "{first:?}: the kernel still has the port"
                );
                let (failure, _) = upstream::connect(source, to, TrafficClass::default(), None).unwrap_err();
                assert_eq!(failure, Failure::PortTaken);
            }
        }
    }

    #[test]
    fn timestamps_free_ports_from_time_wait() {
        assert_eq!(hold_after_own_fin(true), PortHold::Free);
        assert_eq!(hold_after_own_fin(false), PortHold::UNKNOWN);
    }
}
