//! Connects to the upstream from a leased address and port.

use super::lease::{Lease, LeaseError};
use crate::addr::DialAddr;
use crate::clock;
use crate::sys::failure::Failure;
use crate::sys::listener::Liveness;
use crate::sys::upstream;
use std::io;
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
            socket.writable().await?;
            match socket.take_error()? {
                Some(error) => Err(error),
                None => Ok(socket),
            }
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
