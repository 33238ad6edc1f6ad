//! Exact questions about single connections.

use super::{BY_FAMILY, INET, INET6, TCP, TcpState, read};
use crate::sys::netlink::{Netlink, Want};
use nix::sys::socket::SockProtocol;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Kernel state of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketPresence {
    /// None: the 4-tuple can be used at once.
    Gone,
    /// `TIME_WAIT`, or a `FIN_WAIT2` that no program has open, for this long unless another FIN arrives.
    Waiting(Duration),
    /// A socket in any other state, including a listener on the source address and port.
    Socket,
}

/// Socket for exact queries about single connections.
#[derive(Debug)]
pub struct Inquirer(Netlink);

/// Maximum queries per system call: their answers fit the smallest receive buffer.
const AT_ONCE: usize = 32;
/// `INET_DIAG_NOCOOKIE`
const NO_COOKIE: [u8; 8] = [0xff; 8];

impl Inquirer {
    /// Opens a socket to ask on, where the kernel can tell: without its part for TCP (the module `tcp_diag`) every question
    /// would be refused with the very errno that means "no such connection".
    pub fn open(patience: Duration) -> io::Result<Self> {
        let netlink = Netlink::open(SockProtocol::NetlinkSockDiag)?;
        can_tell(&netlink, TCP, patience)?;
        Ok(Self(netlink))
    }

    /// Returns the kernel's state of each connection, given as local and peer address, in the same order. Each takes a
    /// hash table lookup in the kernel, some microseconds. After an error a new inquirer is needed.
    pub fn ask(
        &self,
        pairs: &[(SocketAddr, SocketAddr)],
        patience: Duration,
    ) -> io::Result<Vec<SocketPresence>> {
        let deadline = crate::clock::now() + patience;
        let mut found = Vec::with_capacity(pairs.len());
        for pairs in pairs.chunks(AT_ONCE) {
            let bodies: Vec<_> = pairs.iter().map(|&(source, to)| exact(source, to)).collect();
            let base = found.len();
            found.resize(base + pairs.len(), SocketPresence::Socket);
            self.0.ask_each(BY_FAMILY, &bodies, deadline, |number, answer| {
                found[base + number] = match answer {
                    Err(libc::ENOENT) => SocketPresence::Gone,
                    Err(errno) => return Err(io::Error::from_raw_os_error(errno)),
                    Ok(body) => match read(body)?.and_then(|socket| Some((socket.state, socket.expires?))) {
                        Some((TcpState::TimeWait | TcpState::FinWait2, left)) => {
                            SocketPresence::Waiting(left)
                        }
                        Some(_) | None => SocketPresence::Socket,
                    },
                };
                Ok(())
            })?;
        }
        Ok(found)
    }
}

/// An error unless the kernel lists sockets of a protocol: it is asked for those in no state, in both families.
fn can_tell(netlink: &Netlink, protocol: u8, patience: Duration) -> io::Result<()> {
    let deadline = crate::clock::now() + patience;
    for family in [INET, INET6] {
        let mut request = [0; 56];
        (request[0], request[1]) = (family, protocol);
        let answer = netlink.ask(BY_FAMILY, Want::List, &request, deadline, |_, _| Ok(()));
        answer.map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT) => io::Error::new(
                io::ErrorKind::Unsupported,
                "the kernel lists no TCP sockets; load the modules inet_diag and tcp_diag",
            ),
            _ => error,
        })?;
    }
    Ok(())
}

/// `struct inet_diag_req_v2` for one connection.
fn exact(source: SocketAddr, to: SocketAddr) -> [u8; 56] {
    let mut body = [0; 56];
    body[0] = if source.is_ipv4() { INET } else { INET6 };
    body[1] = TCP;
    body[8..10].copy_from_slice(&source.port().to_be_bytes());
    body[10..12].copy_from_slice(&to.port().to_be_bytes());
    for (at, ip) in [(12, source.ip()), (28, to.ip())] {
        match ip {
            IpAddr::V4(ip) => body[at..at + 4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => body[at..at + 16].copy_from_slice(&ip.octets()),
        }
    }
    body[48..56].copy_from_slice(&NO_COOKIE);
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn single_connections_are_tracked_until_gone() {
        let inquirer = Inquirer::open(PATIENCE).unwrap();
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(host).unwrap();
            let to = listener.local_addr().unwrap();
            let client = TcpStream::connect(to).unwrap();
            let from = client.local_addr().unwrap();
            let (server, _) = listener.accept().unwrap();
            let until = |wanted: fn(SocketPresence) -> bool| {
                let give_up = crate::clock::now() + PATIENCE;
                // More queries than fit one system call.
                while let found = inquirer.ask(&[(from, to); 70], PATIENCE).unwrap()
                    && !found.iter().all(|&found| wanted(found))
                {
                    assert!(found.len() == 70 && crate::clock::now() < give_up, "{found:?}");
                }
            };
            assert_eq!(inquirer.ask(&[(from, to), (to, to)], PATIENCE).unwrap(), [SocketPresence::Socket; 2]);
            drop(client);
            until(|found| matches!(found, SocketPresence::Waiting(_)));
            drop(server);
            until(|found| matches!(found, SocketPresence::Waiting(left) if left > Duration::from_secs(50)));
            let client = TcpStream::connect(to).unwrap();
            let from = client.local_addr().unwrap();
            socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
            drop(client);
            assert_eq!(inquirer.ask(&[(from, to)], PATIENCE).unwrap(), [SocketPresence::Gone]);
            let mixed = [(to, to), (from, to), (to, to)];
            assert_eq!(
                inquirer.ask(&mixed, PATIENCE).unwrap(),
                [SocketPresence::Socket, SocketPresence::Gone, SocketPresence::Socket]
            );
        }
    }

    /// A protocol without such a part: RFC 3692's 253.
    #[test]
    fn unanswerable_query_is_no_free_port() {
        let netlink = Netlink::open(SockProtocol::NetlinkSockDiag).unwrap();
        let error = can_tell(&netlink, 253, PATIENCE).unwrap_err();
        assert!(error.to_string().contains("tcp_diag"), "{error}");
        assert!(can_tell(&Netlink::open(SockProtocol::NetlinkSockDiag).unwrap(), TCP, PATIENCE).is_ok());
    }
}
