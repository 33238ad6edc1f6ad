//! Connects to the upstream from a leased address and port.

use super::lease::{Lease, LeaseError};
use crate::addr::{ClientAddr, DialAddr};
use crate::clock;
use crate::sys::event_loop::{EventLoop, timeout};
use crate::sys::failure::Failure;
use crate::sys::socket::Socket;
use crate::sys::traffic_class::TrafficClass;
use crate::sys::upstream;
use std::future::poll_fn;
use std::io;
use std::net::TcpStream;
use std::rc::Rc;
use std::time::Duration;

/// How often a port that turns out to be taken is exchanged for another. Each time is an anomaly that the ledger
/// counts.
const EXCHANGES: u32 = 8;

/// A port that cannot be bound is left alone for this long: who has bound it may have no connection that could be asked
/// about.
const OCCUPIED: Duration = Duration::from_mins(1);

/// How upstream sockets are made.
#[derive(Debug, Clone, Copy)]
pub struct Dialler {
    /// From SYN to SYN-ACK, for all tries together.
    pub connect_timeout: Duration,
    /// How long sent data may stay unacknowledged (`TCP_USER_TIMEOUT`); `None`: the kernel's own limits.
    pub user_timeout: Option<Duration>,
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
    /// The same as [`Dialler::begin`], driven by a worker.
    pub fn start(
        &self,
        client: ClientAddr,
        to: DialAddr,
        class: TrafficClass,
        lease: Lease,
        event_loop: &Rc<EventLoop>,
    ) -> Result<(Socket, Lease), DialError> {
        let (socket, lease) = self.begin(client, to, class, lease)?;
        let socket =
            Socket::new(socket, event_loop).map_err(|error| DialError::Failed(Failure::of(&error), error))?;
        Ok((socket, lease))
    }

    /// Sends the SYN, from another port of the client's if the kernel says that the leased one is taken. Give the socket up by a reset:
    /// the server may answer in the meantime, and a plain close would look like an end of file to it, and leave the port
    /// in TIME_WAIT, which the lease says is free.
    pub fn begin(
        &self,
        client: ClientAddr,
        to: DialAddr,
        class: TrafficClass,
        mut lease: Lease,
    ) -> Result<(TcpStream, Lease), DialError> {
        let mut exchanges = 0;
        loop {
            match upstream::connect(lease.source().socket(), to.socket(), class, self.user_timeout) {
                Ok(socket) => return Ok((socket, lease)),
                Err((Failure::PortTaken, error)) => {
                    // Before it is given up: this one is left alone, too.
                    let in_use = error.kind() == io::ErrorKind::AddrInUse;
                    let at_least = if in_use { OCCUPIED } else { Duration::ZERO };
                    lease = lease.collided(client, at_least, clock::now()).map_err(DialError::NoPort)?;
                    if exchanges == EXCHANGES {
                        return Err(DialError::Failed(Failure::PortTaken, error));
                    }
                    exchanges += 1;
                }
                Err((failure, error)) => return Err(DialError::Failed(failure, error)),
            }
        }
    }

    /// Waits for the answer. A refused or unreachable server is reported at once, without a second try that would make
    /// the client wait.
    pub async fn answered(&self, socket: &Socket) -> Result<(), DialError> {
        let answered = timeout(self.connect_timeout, poll_fn(|cx| socket.poll_writable(cx))).await;
        answered.map_err(|_| DialError::TimedOut)?;
        if !socket.has_failed() {
            return Ok(());
        }
        match socket.take_error() {
            Ok(None) => Ok(()),
            Ok(Some(error)) | Err(error) => Err(DialError::Failed(Failure::of_connect(&error), error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Ledger, PoolSpec, Pools, Select, Share};
    use super::*;
    use crate::addr::{PortRange, SourceAddr};
    use crate::sys::event_loop::EventLoop;
    use std::collections::BTreeMap;
    use std::net::{IpAddr, Ipv4Addr, TcpListener};
    use std::sync::Arc;

    /// A loopback address of this process's own, more or less, so that nobody else has a port of it.
    fn source() -> IpAddr {
        let [_, _, high, low] = std::process::id().to_be_bytes();
        Ipv4Addr::new(127, 77, high, low).into()
    }

    #[test]
    fn every_port_that_turns_out_to_be_taken_is_counted_and_left_alone() {
        let (source, ports) = (source(), 20000..=20011);
        let _listeners: Vec<_> =
            ports.clone().map(|port| TcpListener::bind((source, port)).unwrap()).collect();
        let spec = PoolSpec {
            name: "pool".into(),
            addresses: vec![source.into()],
            ports: PortRange::new(*ports.start(), *ports.end()).unwrap(),
            select: Select::Paired,
            drain: Vec::new(),
            public: BTreeMap::new(),
            rest: Duration::ZERO,
            shares: Vec::new(),
        };
        let ledger = Arc::new(Ledger::new());
        let pools = Pools::new(&[spec], &[], &ledger);
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = DialAddr::new(server.local_addr().unwrap());
        let client = ClientAddr::new(([10, 0, 0, 1], 1).into());
        let lease = pools.pool("pool").unwrap().lease(client, to, &Share::NONE, clock::now()).unwrap();
        let dialler = Dialler { connect_timeout: Duration::from_secs(1), user_timeout: None };
        let error = EventLoop::run(async |event_loop| {
            dialler.start(client, to, TrafficClass::default(), lease, &event_loop).unwrap_err()
        });
        assert!(matches!(error.unwrap(), DialError::Failed(Failure::PortTaken, _)));
        let pair = ledger.pair(SourceAddr::new(source), to, clock::now()).unwrap();
        assert_eq!((pair.live, u32::from(pair.held)), (0, EXCHANGES + 1));
        assert_eq!(ledger.collisions(), u64::from(EXCHANGES) + 1);
    }
}
