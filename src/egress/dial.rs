//! Connects to the upstream from a leased address and port.

use super::lease::Lease;
use super::lease_error::LeaseError;
use crate::addr::{ClientAddr, DialAddr, LeasedSource};
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

/// Maximum number of other ports tried for one flow after a port was found taken. The ledger counts each such
/// collision.
const EXCHANGES: u32 = 8;

/// Time for which a port that cannot be bound is held: its owner may have no connection to query the kernel about.
const OCCUPIED: Duration = Duration::from_secs(60);

/// Settings of upstream connections.
#[derive(Debug, Clone, Copy)]
pub struct Dialler {
    /// Timeout from SYN to SYN-ACK, for all attempts together.
    pub connect_timeout: Duration,
    /// Maximum time that sent data may stay unacknowledged (`TCP_USER_TIMEOUT`); `None`: the kernel's limits.
    pub user_timeout: Option<Duration>,
}

/// Reason why a connection failed.
#[derive(Debug)]
pub enum DialError {
    /// The server or the network refused it.
    Failed(FailedDial),
    /// This machine refused it: nothing was sent.
    NotSent(FailedDial),
    /// No answer within the timeout.
    TimedOut,
    /// Every port tried was taken by another socket, and no other port is free.
    NoPort(LeaseError),
}

/// An attempt that failed by an error of the kernel's.
#[derive(Debug)]
pub struct FailedDial {
    /// Address that was dialled.
    pub to: DialAddr,
    /// Address and port that it was dialled from.
    pub source: LeasedSource,
    /// Meaning of the error.
    pub failure: Failure,
    /// The error.
    pub error: io::Error,
}

impl FailedDial {
    fn new(lease: &Lease, failure: Failure, error: io::Error) -> Self {
        Self { to: lease.destination(), source: lease.source(), failure, error }
    }
}

impl Dialler {
    /// Like [`Dialler::begin`], with the socket registered in a worker's event loop.
    pub fn start(
        &self,
        client: ClientAddr,
        to: DialAddr,
        class: TrafficClass,
        lease: Lease,
        event_loop: &Rc<EventLoop>,
    ) -> Result<(Socket, Lease), DialError> {
        let (socket, lease) = self.begin(client, to, class, lease)?;
        match Socket::new(socket, event_loop) {
            Ok(socket) => Ok((socket, lease)),
            Err(error) => Err(DialError::NotSent(FailedDial::new(&lease, Failure::of(&error), error))),
        }
    }

    /// Sends the SYN, from another port of the client's if the kernel reports the leased one as taken. To abandon the
    /// socket, reset it: the server may answer in the meantime; a plain close would look like an end of file to it, and
    /// leave in TIME_WAIT a port that the lease considers free.
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
                    // Before the retry limit applies, so that this port is held too.
                    let in_use = error.kind() == io::ErrorKind::AddrInUse;
                    let at_least = if in_use { OCCUPIED } else { Duration::ZERO };
                    lease = lease.collided(client, at_least, clock::now()).map_err(DialError::NoPort)?;
                    if exchanges == EXCHANGES {
                        return Err(DialError::NotSent(FailedDial::new(&lease, Failure::PortTaken, error)));
                    }
                    exchanges += 1;
                }
                Err((failure, error)) => {
                    return Err(DialError::NotSent(FailedDial::new(&lease, failure, error)));
                }
            }
        }
    }

    /// Waits for the SYN-ACK. A refused or unreachable server is reported at once, without a retry that would delay the
    /// client.
    pub async fn answered(&self, socket: &Socket, lease: &Lease) -> Result<(), DialError> {
        let answered = timeout(self.connect_timeout, poll_fn(|cx| socket.poll_writable(cx))).await;
        answered.map_err(|_| DialError::TimedOut)?;
        if !socket.has_failed() {
            return Ok(());
        }
        match socket.take_error() {
            Ok(None) => Ok(()),
            Ok(Some(error)) | Err(error) => {
                let failure = Failure::of_connect(&error, lease.destination().ip());
                Err(DialError::Failed(FailedDial::new(lease, failure, error)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Ledger, PoolSpec, Pools, Share, SourceSelection};
    use super::*;
    use crate::addr::{PortRange, SourceAddr};
    use crate::sys::event_loop::EventLoop;
    use std::collections::BTreeMap;
    use std::net::{IpAddr, Ipv4Addr, TcpListener};
    use std::sync::Arc;

    /// A loopback address specific to this process, so that its ports are not shared with others.
    fn source() -> IpAddr {
        let [_, _, high, low] = std::process::id().to_be_bytes();
        Ipv4Addr::new(127, 77, high, low).into()
    }

    #[test]
    fn colliding_ports_are_counted_and_avoided() {
        let (source, ports) = (source(), 20000..=20011);
        let _listeners: Vec<_> =
            ports.clone().map(|port| TcpListener::bind((source, port)).unwrap()).collect();
        let spec = PoolSpec {
            name: "pool".into(),
            addresses: vec![source.into()],
            ports: PortRange::new(*ports.start(), *ports.end()).unwrap(),
            select: SourceSelection::Paired,
            drain: Vec::new(),
            public: BTreeMap::new(),
            rest: Duration::ZERO,
            shares: Vec::new(),
        };
        let ledger = Arc::new(Ledger::new());
        let pools = Pools::new(&[spec], &[], &ledger);
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = DialAddr::tcp(server.local_addr().unwrap());
        let client = ClientAddr::new(([10, 0, 0, 1], 1).into());
        let lease = pools.pool("pool").unwrap().lease(client, to, &Share::NONE, clock::now()).unwrap();
        let dialler = Dialler { connect_timeout: Duration::from_secs(1), user_timeout: None };
        let error = EventLoop::run(async |event_loop| {
            dialler.start(client, to, TrafficClass::default(), lease, &event_loop).unwrap_err()
        });
        assert!(matches!(error.unwrap(), DialError::NotSent(FailedDial { failure: Failure::PortTaken, .. })));
        let pair = ledger.pair(SourceAddr::new(source), to, clock::now()).unwrap();
        assert_eq!((pair.live, u32::from(pair.held)), (0, EXCHANGES + 1));
        assert_eq!(ledger.collisions(), u64::from(EXCHANGES) + 1);
    }
}
