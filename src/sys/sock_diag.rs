//! TCP sockets of this network namespace, of any owner, as listed by the kernel (`sock_diag(7)`).
//!
//! No capability is needed. The list is no snapshot: sockets that open or close meanwhile may or may not be in it.

mod inquirer;

pub use inquirer::{Inquirer, SocketPresence};

use super::netlink::{Netlink, Want, array_at, malformed, u32_at};
use nix::sys::socket::SockProtocol;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::BitOr;
use std::time::{Duration, Instant};

/// `SOCK_DIAG_BY_FAMILY`
const BY_FAMILY: u16 = 20;
/// `AF_INET`, `AF_INET6` and `IPPROTO_TCP`, as the bytes of a query.
const INET: u8 = 2;
const INET6: u8 = 10;
const TCP: u8 = 6;
/// Maximum sockets in one list: a million take 70 MB.
const MOST: usize = 1_000_000;
/// `idiag_timer` of a socket that only waits for a timeout.
const TIMER_OF_WAITING: u8 = 3;

/// A TCP socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KernelSocket {
    /// Local address; IPv4-mapped ones as IPv4.
    pub source: SocketAddr,
    /// Peer address; unspecified with port 0 if there never was one.
    pub destination: SocketAddr,
    /// TCP state.
    pub state: TcpState,
    /// Remaining lifetime of a closed connection in the kernel: in `TIME_WAIT`, and in `FIN_WAIT2` without a program
    /// that has the socket open. `None` for every other socket.
    pub expires: Option<Duration>,
    /// Owning user.
    pub uid: u32,
    /// Inode, as in `/proc/PID/fd`; 0 when no program has it open.
    pub inode: u32,
    /// Unique identifier since boot.
    pub cookie: u64,
}

/// States with the kernel's numbers, without those of connections that are being accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
#[expect(missing_docs, reason = "RFC 9293 and the kernel's names")]
pub enum TcpState {
    Established = 1,
    SynSent = 2,
    FinWait1 = 4,
    FinWait2 = 5,
    TimeWait = 6,
    CloseWait = 8,
    LastAck = 9,
    Listen = 10,
    Closing = 11,
    /// Bound but not, or no longer, connected: `TCP_BOUND_INACTIVE`, which Linux lists since 6.8.
    Bound = 13,
}

/// A set of states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct States(u32);

impl States {
    /// All connections, from `SYN_SENT` to `TIME_WAIT`.
    pub const CONNECTED: Self = Self(0b1011_0111_0110);
    /// All connections except those in `TIME_WAIT`.
    const OPEN: Self = Self(Self::CONNECTED.0 & !(1 << TcpState::TimeWait as u8));
    /// [`TcpState::Listen`]
    pub const LISTENING: Self = Self(1 << TcpState::Listen as u8);
    /// [`TcpState::Bound`]
    pub const BOUND: Self = Self(1 << TcpState::Bound as u8);
}

impl BitOr for States {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Lists the sockets of both families in these states that `keep` selects. Fails if that takes longer than `patience`
/// or if there are more than a million: never returns a part of them.
pub fn sockets(
    states: States,
    patience: Duration,
    mut keep: impl FnMut(&KernelSocket) -> bool,
) -> io::Result<Vec<KernelSocket>> {
    let deadline = crate::clock::now() + patience;
    let mut found = Vec::new();
    for family in [INET, INET6] {
        list(family, states, deadline, |socket| {
            if keep(&socket) {
                if found.len() >= MOST {
                    return Err(io::Error::other("there are more sockets than are looked at"));
                }
                found.push(socket);
            }
            Ok(())
        })?;
    }
    Ok(found)
}

/// Lists the [`sockets`] that `keep` selects among connections and bound sockets; `waiting`: also among those in
/// `TIME_WAIT`, of which there may be hundreds of thousands.
pub fn connections(
    waiting: bool,
    patience: Duration,
    keep: impl FnMut(&KernelSocket) -> bool,
) -> io::Result<Vec<KernelSocket>> {
    let connected = if waiting { States::CONNECTED } else { States::OPEN };
    sockets(connected | States::BOUND, patience, keep)
}

/// True if this kernel lists sockets in [`TcpState::Bound`].
pub fn lists_bound(patience: Duration) -> io::Result<bool> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    // so that it does not block another bind to the port while it exists
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into())?;
    let address = socket.local_addr()?.as_socket();
    let same = sockets(States::BOUND, patience, |listed| Some(listed.source) == address)?;
    Ok(!same.is_empty())
}

fn list(
    family: u8,
    states: States,
    deadline: Instant,
    mut each: impl FnMut(KernelSocket) -> io::Result<()>,
) -> io::Result<()> {
    // struct inet_diag_req_v2: family, protocol, no extensions, padding, states, no particular socket
    let mut request = [0; 56];
    (request[0], request[1]) = (family, TCP);
    request[4..8].copy_from_slice(&states.0.to_ne_bytes());
    let netlink = Netlink::open(SockProtocol::NetlinkSockDiag)?;
    netlink.ask(BY_FAMILY, Want::List, &request, deadline, |kind, body| {
        if kind != BY_FAMILY {
            return Err(malformed());
        }
        match read(body)? {
            Some(socket) => each(socket),
            None => Ok(()),
        }
    })
}

/// Parses `struct inet_diag_msg`, if its state is in [`TcpState`].
fn read(body: &[u8]) -> io::Result<Option<KernelSocket>> {
    let message: [u8; 72] = array_at(body, 0).ok_or_else(malformed)?;
    let (family, state, timer) = (message[0], message[1], message[2]);
    let number = |offset| u32_at(&message, offset).ok_or_else(malformed);
    let address = |port_at, ip_at| {
        let ip = if family == INET {
            array_at::<4>(&message, ip_at).map(|octets| IpAddr::V4(octets.into()))
        } else {
            array_at::<16>(&message, ip_at).map(|octets| IpAddr::V6(octets.into()))
        };
        let port = array_at(&message, port_at).map(u16::from_be_bytes);
        ip.zip(port).map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port)).ok_or_else(malformed)
    };
    let Some(state) = TcpState::of(state) else { return Ok(None) };
    let expires = Duration::from_millis(number(52)?.into());
    Ok(Some(KernelSocket {
        source: address(4, 8)?,
        destination: address(6, 24)?,
        state,
        expires: (timer == TIMER_OF_WAITING).then_some(expires),
        uid: number(64)?,
        inode: number(68)?,
        cookie: u64::from(number(44)?) | u64::from(number(48)?) << 32,
    }))
}

impl TcpState {
    const ALL: [Self; 10] = [
        Self::Established,
        Self::SynSent,
        Self::FinWait1,
        Self::FinWait2,
        Self::TimeWait,
        Self::CloseWait,
        Self::LastAck,
        Self::Listen,
        Self::Closing,
        Self::Bound,
    ];

    /// Name, as `ss` prints it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Established => "ESTAB",
            Self::SynSent => "SYN-SENT",
            Self::FinWait1 => "FIN-WAIT-1",
            Self::FinWait2 => "FIN-WAIT-2",
            Self::TimeWait => "TIME-WAIT",
            Self::CloseWait => "CLOSE-WAIT",
            Self::LastAck => "LAST-ACK",
            Self::Listen => "LISTEN",
            Self::Closing => "CLOSING",
            Self::Bound => "BOUND-INACTIVE",
        }
    }

    fn of(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|&state| state as u8 == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    const PATIENCE: Duration = Duration::from_secs(10);

    /// Lists the sockets from one address to another.
    fn states_of(source: SocketAddr, destination: SocketAddr) -> Vec<KernelSocket> {
        sockets(States::CONNECTED | States::BOUND, PATIENCE, |socket| {
            socket.source == source && socket.destination == destination
        })
        .unwrap()
    }

    /// Returns the socket once it has left a state: the peer's kernel needs time for that.
    fn once_past(state: TcpState, source: SocketAddr, destination: SocketAddr) -> KernelSocket {
        let give_up = crate::clock::now() + PATIENCE;
        loop {
            let found = states_of(source, destination);
            if let [socket] = found[..]
                && socket.state != state
            {
                return socket;
            }
            assert!(crate::clock::now() < give_up, "{found:?}");
        }
    }

    #[test]
    fn state_masks_match_states() {
        let connected: u32 = TcpState::ALL
            .into_iter()
            .filter(|state| !matches!(state, TcpState::Listen | TcpState::Bound))
            .map(|state| 1 << state as u8)
            .sum();
        assert_eq!(States::CONNECTED.0, connected);
    }

    #[test]
    fn connection_is_listed_until_time_wait() {
        for host in ["127.0.0.1:0", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
            let listener = TcpListener::bind(host).unwrap();
            let to = listener.local_addr().unwrap();
            let client = TcpStream::connect(to).unwrap();
            let canonical = |a: SocketAddr| SocketAddr::new(a.ip().to_canonical(), a.port());
            let (from, to) = (canonical(client.local_addr().unwrap()), canonical(to));
            let (server, _) = listener.accept().unwrap();
            let [socket] = states_of(from, to)[..] else { panic!("{host}") };
            assert_eq!((socket.state, socket.expires), (TcpState::Established, None));
            assert_ne!((socket.inode, socket.cookie), (0, 0));
            drop(client);
            let orphan = once_past(TcpState::FinWait1, from, to);
            assert_eq!((orphan.state, orphan.inode), (TcpState::FinWait2, 0));
            assert!(orphan.expires.is_some_and(|left| left > Duration::from_secs(1)), "{orphan:?}");
            drop(server);
            let waiting = once_past(TcpState::FinWait2, from, to);
            assert_eq!(waiting.state, TcpState::TimeWait);
            let left = waiting.expires.unwrap();
            assert!((50..=61).contains(&left.as_secs()), "{left:?}");
            let listening = sockets(States::LISTENING, PATIENCE, |s| s.source == to).unwrap();
            assert_eq!(listening.len(), 1, "{host}");
        }
    }

    #[test]
    fn reset_socket_is_listed_until_closed() {
        if !lists_bound(PATIENCE).unwrap() {
            return; // Linux before 6.8
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let client = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        client.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        let from = client.local_addr().unwrap().as_socket().unwrap();
        client.connect(&to.into()).unwrap();
        let (server, _) = listener.accept().unwrap();
        socket2::SockRef::from(&server).set_linger(Some(Duration::ZERO)).unwrap();
        drop(server);
        assert_eq!(once_past(TcpState::Established, from, to).state, TcpState::Bound);
    }

    #[test]
    fn expired_deadline_yields_nothing() {
        let error = sockets(States::CONNECTED, Duration::ZERO, |_| true).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn short_message_is_refused() {
        for length in 0..72 {
            assert!(read(&[0; 72][..length]).is_err(), "{length}");
        }
        assert_eq!(read(&[0; 72]).unwrap(), None);
    }
}
