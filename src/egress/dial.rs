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
            let unless_connected = Reset(&socket);
            socket.writable().await?;
            if let Some(error) = socket.take_error()? {
                return Err(error);
            }
            mem::forget(unless_connected);
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

/// Dropped before the socket, has it end in a reset. An attempt that is given up may have been answered meanwhile: a FIN
/// would look like a finished stream to the server, and keep the port in TIME_WAIT after its lease is gone.
struct Reset<'socket>(&'socket TcpStream);

impl Drop for Reset<'_> {
    fn drop(&mut self) {
        // It fails on a socket that is dead already, which needs no reset.
        let _ = stream::reset_on_close(self.0);
    }
}
