//! A relayed flow with both ends held by the test, and every way to end it.

use crate::clients::{connect_from, expect_reset, read_all, reset};
use crate::lab::{Family, Lab, Tenant};
use crate::servers::Server;
use crate::traffic::pass;
use crate::wait::{PATIENCE, wait_for};
use std::io::{ErrorKind, Read};
use std::net::{Shutdown, SocketAddr, TcpStream};

/// The two connections of one flow.
pub struct Flow {
    pub client: TcpStream,
    pub upstream: TcpStream,
}

/// Way to end a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The server sends FIN first: nothing of the connection is left at the gateway.
    ServerFirst,
    /// The client sends FIN first, and the gateway has a `TIME_WAIT` towards the server.
    ClientFirst,
    ClientReset,
    ServerReset,
}

impl End {
    pub const ALL: [Self; 4] = [Self::ServerFirst, Self::ClientFirst, Self::ClientReset, Self::ServerReset];
}

impl Flow {
    /// Opens a flow, which must succeed.
    pub fn open(lab: &Lab, tenant: Tenant, server: &Server) -> Self {
        Self::try_open(lab, tenant, server)
            .unwrap_or_else(|client| panic!("the flow of {tenant:?} from {client} was refused"))
    }

    /// Opens an uninspected flow; the error is the client's address if the gateway resets it.
    pub fn try_open(lab: &Lab, tenant: Tenant, server: &Server) -> Result<Self, SocketAddr> {
        let client = lab.dial(tenant, server.address())?;
        let local = client.local_addr().unwrap();
        wait_for("the flow to be opened or refused", || {
            if let Some(upstream) = server.accept_those_that_came().pop() {
                return Ok(Ok(upstream));
            }
            client.set_nonblocking(true).unwrap();
            let read = (&client).read(&mut [0]);
            client.set_nonblocking(false).unwrap();
            match read {
                Err(e) if e.kind() == ErrorKind::ConnectionReset => Ok(Err(local)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => Err("neither yet"),
                other => panic!("the client read {other:?}"),
            }
        })
        .map(|upstream| Self { client, upstream })
    }

    /// Opens `count` flows, which must succeed.
    pub fn open_many(lab: &Lab, tenant: Tenant, server: &Server, count: usize) -> Vec<Self> {
        let to = server.address();
        let from = tenant.client(if to.is_ipv4() { Family::V4 } else { Family::V6 });
        lab.client.run(|| {
            let open =
                |_| Self { client: connect_from(from, to, PATIENCE).unwrap(), upstream: server.accept() };
            (0..count).map(open).collect()
        })
    }

    /// Retries until a flow is opened, which must be long before Linux frees a port that it holds.
    pub fn open_soon(lab: &Lab, tenant: Tenant, server: &Server) -> Self {
        wait_for("a port to serve again", || {
            Self::try_open(lab, tenant, server).map_err(|client| format!("{client} was refused"))
        })
    }

    /// Leased address and port.
    pub fn source(&self) -> SocketAddr {
        self.upstream.peer_addr().unwrap()
    }

    /// Sends a message in each direction.
    pub fn assert_alive(&self) {
        pass(&self.client, &self.upstream, b"there");
        pass(&self.upstream, &self.client, b"and back");
    }

    /// Ends it; the other side has seen the end when this returns.
    pub fn end(self, how: End) {
        let Self { client, upstream } = self;
        match how {
            End::ServerFirst => {
                upstream.shutdown(Shutdown::Write).unwrap();
                assert_eq!(read_all(&client), b"");
                drop(client);
                assert_eq!(read_all(&upstream), b"");
            }
            End::ClientFirst => {
                client.shutdown(Shutdown::Write).unwrap();
                assert_eq!(read_all(&upstream), b"");
                drop(upstream);
                assert_eq!(read_all(&client), b"");
            }
            End::ClientReset => {
                reset(client);
                assert_eq!(expect_reset(&upstream), b"");
            }
            End::ServerReset => {
                reset(upstream);
                assert_eq!(expect_reset(&client), b"");
            }
        }
    }
}

impl Server {
    /// A server of alpha's uninspected host, where [`Flow::open`] goes.
    pub fn raw(lab: &Lab, family: Family, port: u16) -> Self {
        lab.listen(crate::lab::Host::Raw, family, port)
    }
}
