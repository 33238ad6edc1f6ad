//! One of a flow's two sockets.

use crate::sys::socket::Socket;
use crate::sys::stream;
use std::cell::Cell;
use std::ops::Deref;

/// A socket that resets its peer when dropped, unless the stream has ended well. A task that panics or is dropped
/// thus never looks like a clean end of file to anybody.
#[derive(Debug)]
pub(super) struct Leg {
    socket: Socket,
    ended_well: Cell<bool>,
}

impl Leg {
    /// Takes over an established socket.
    pub(super) fn new(socket: Socket) -> Self {
        Self { socket, ended_well: Cell::new(false) }
    }

    /// Both directions have finished: dropping is a plain close.
    pub(super) fn ended_well(&self) {
        self.ended_well.set(true);
    }
}

impl Deref for Leg {
    type Target = Socket;
    fn deref(&self) -> &Socket {
        &self.socket
    }
}

impl Drop for Leg {
    fn drop(&mut self) {
        if !self.ended_well.get() {
            // It fails on a socket that is dead already, which needs no reset.
            let _ = stream::reset_on_close(&self.socket);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::event_loop::EventLoop;
    use std::io::{ErrorKind, Read};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_leg_that_is_given_up_is_reset_and_one_that_ended_well_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        for well in [false, true] {
            let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut peer, _) = listener.accept().unwrap();
            EventLoop::run(async |event_loop| {
                let leg = Leg::new(Socket::new(ours, &event_loop).unwrap());
                if well {
                    leg.ended_well();
                }
            })
            .unwrap();
            match peer.read(&mut [0]) {
                Ok(n) => assert!(well && n == 0),
                Err(error) => assert!(!well && error.kind() == ErrorKind::ConnectionReset, "{error}"),
            }
        }
    }
}
