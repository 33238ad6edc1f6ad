//! A listening socket whose connections the test accepts and drives.

use crate::clients::bounded;
use crate::lab::{Family, Host, Lab};
use crate::wait::{PATIENCE, wait_for};
use socket2::{Domain, SockRef, Socket, Type};
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

pub struct Server {
    listener: TcpListener,
}

impl Lab {
    /// Listens on a host of the server namespace.
    pub fn listen(&self, host: Host, family: Family, port: u16) -> Server {
        self.server.run(|| Server::bind(host.at(family, port)))
    }
}

impl Server {
    /// Listens in the calling thread's namespace, with a backlog for every connection of a test.
    pub fn bind(address: SocketAddr) -> Self {
        // A process that another trial starts holds every open file from its fork until its exec, and so an earlier
        // listener at this address.
        let socket = wait_for("a free address", || {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
            socket.set_reuse_address(true).unwrap();
            let bound = socket.bind(&address.into()).and_then(|()| socket.listen(4096));
            bound.map(|()| socket).map_err(|e| format!("{address}: {e}"))
        });
        socket.set_read_timeout(Some(PATIENCE)).unwrap(); // bounds accept(2) as well
        Self { listener: socket.into() }
    }

    /// Sets how long [`accept`](Self::accept) waits, instead of [`PATIENCE`].
    pub fn accept_within(&self, time: Duration) {
        SockRef::from(&self.listener).set_read_timeout(Some(time)).unwrap();
    }

    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// Accepts the next connection, which must arrive.
    pub fn accept(&self) -> TcpStream {
        let (stream, _) = self.listener.accept().unwrap_or_else(|e| panic!("nobody connected: {e}"));
        stream.set_nonblocking(false).unwrap();
        bounded(stream)
    }

    /// Accepts every connection that is waiting.
    pub fn accept_those_that_came(&self) -> Vec<TcpStream> {
        self.listener.set_nonblocking(true).unwrap();
        let all =
            std::iter::from_fn(|| self.listener.accept().ok()).map(|(stream, _)| bounded(stream)).collect();
        self.listener.set_nonblocking(false).unwrap();
        all
    }

    /// Asserts that no further connection has arrived.
    pub fn assert_untouched(&self) {
        self.listener.set_nonblocking(true).unwrap();
        match self.listener.accept() {
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            Err(e) => panic!("accept: {e}"),
            Ok((_, peer)) => panic!("{peer} reached {}, and nothing should have", self.address()),
        }
        self.listener.set_nonblocking(false).unwrap();
    }
}
