//! Connects to the upstream from a leased address and port.

use super::lease::{Lease, LeaseError};
use crate::addr::DialAddr;
use crate::clock;
use crate::sys::failure::Failure;
use crate::sys::listener::Liveness;
use crate::sys::{stream, upstream};
use std::io;
use std::mem;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How often a port that turns out to be taken is exchanged for another. Each time is an anomaly that the ledger
/// counts.
const EXCHANGES: u32 = 8;

/// How upstream sockets are made.
#[derive(Debug, Clone, Copy)]
pub struct Dialler {
    /// From SYN to SYN-ACK, for all tries together.
    pub connect_timeout: Duration,
    /// Keepalive and user time-out.
    pub liveness: Liveness,
}

/// Why there is no connection.
#[derive(Debug)]
pub enum DialError {
    /// The server, the network or this machine said no.
    Failed(Failure, io::Error),
    /// Nobody answered in time.
    TimedOut,
    /// Every port that was tried turned out to be somebody else's, and no other is left.
    NoPort(LeaseError),
}

impl Dialler {
    /// Dials once: a refused or unreachable server is reported at once, without a second try that would make the
    /// client wait.
    pub async fn dial(&self, to: DialAddr, lease: Lease) -> Result<(TcpStream, Lease), DialError> {
        let (socket, lease) = self.start(to, lease)?;
        let connecting = async {
            let socket = TcpStream::from_std(socket)?;
            let attempt = Attempt(&socket);
            socket.writable().await?;
            if let Some(error) = socket.take_error()? {
                return Err(error);
            }
            mem::forget(attempt);
            Ok(socket)
        };
        match timeout(self.connect_timeout, connecting).await {
            Ok(Ok(socket)) => Ok((socket, lease)),
            Ok(Err(error)) => Err(DialError::Failed(Failure::of_connect(&error), error)),
            Err(_) => Err(DialError::TimedOut),
        }
    }

    /// Sends the SYN, from another port if the kernel says that the leased one is taken.
    fn start(&self, to: DialAddr, mut lease: Lease) -> Result<(std::net::TcpStream, Lease), DialError> {
        let mut exchanges = 0;
        loop {
            match upstream::connect(lease.source().socket(), to.socket(), &self.liveness) {
                Ok(socket) => return Ok((socket, lease)),
                Err((Failure::PortTaken, _)) if exchanges < EXCHANGES => {
                    exchanges += 1;
                    lease = lease.collided(clock::now()).map_err(DialError::NoPort)?;
                }
                Err((failure, error)) => return Err(DialError::Failed(failure, error)),
            }
        }
    }
}

/// A connection under way. Dropped, it makes the socket's close a reset: the server may have answered in the meantime,
/// and a plain close would look like an end of file to it, and leave the port in TIME_WAIT, which the lease says is free.
struct Attempt<'a>(&'a TcpStream);

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        // It fails on a socket that is dead already, which needs no reset.
        let _ = stream::reset_on_close(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{ClientAddr, PortRange};
    use crate::egress::{Ledger, PoolSpec, Pools, Select};
    use std::io::Read;
    use std::sync::Arc;

    #[tokio::test]
    async fn a_connection_that_is_given_up_is_reset_though_the_server_has_answered() {
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let to = DialAddr::new(server.local_addr().unwrap());
        let pool = PoolSpec {
            name: "acme".into(),
            addresses: vec!["127.0.0.77/32".parse().unwrap()],
            ports: PortRange::new(1024, 65535).unwrap(),
            select: Select::Paired,
            public: std::collections::BTreeMap::new(),
            drain: Vec::new(),
            rest: Duration::ZERO,
            shares: Vec::new(),
        };
        let pools = Pools::new(&[pool], &[], &Arc::new(Ledger::new()));
        let client = ClientAddr::new(([10, 0, 1, 7], 40000).into());
        let pool = pools.pool("acme").unwrap();
        let lease = pool.lease(client, to, &pool.share(&"alpha".into()), clock::now()).unwrap();
        let seconds = Duration::from_secs;
        let liveness = Liveness { idle: seconds(60), interval: seconds(10), probes: 3, user_timeout: None };
        let dialler = Dialler { connect_timeout: seconds(30), liveness };
        let mut dialling = Box::pin(dialler.dial(to, lease));
        // On loopback the connection stands before the dialler has looked again.
        assert!(
            std::future::poll_fn(|cx| std::task::Poll::Ready(dialling.as_mut().poll(cx).is_pending())).await
        );
        let (mut connection, _) = server.accept().unwrap();
        drop(dialling);
        assert_eq!(connection.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
