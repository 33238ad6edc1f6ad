//! One of a flow's two sockets.

use crate::sys::stream;
use std::cell::Cell;
use std::ops::Deref;
use tokio::net::TcpStream;

/// A socket that resets its peer when dropped, unless the stream has ended well. A task that panics or is dropped
/// thus never looks like a clean end of file to anybody.
#[derive(Debug)]
pub(super) struct Leg {
    socket: TcpStream,
    ended_well: Cell<bool>,
}

impl Leg {
    /// Takes over an established socket.
    pub(super) fn new(socket: TcpStream) -> Self {
        Self { socket, ended_well: Cell::new(false) }
    }

    /// Both directions have finished: dropping is a plain close.
    pub(super) fn ended_well(&self) {
        self.ended_well.set(true);
    }
}

impl Deref for Leg {
    type Target = TcpStream;
    fn deref(&self) -> &TcpStream {
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
