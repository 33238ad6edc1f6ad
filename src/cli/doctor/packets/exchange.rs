//! One TCP connection: handshake, an ICMP error about it, data both ways.

use super::answer::ProbeAnswer;
use super::icmp;
use super::probe::ProbeHost;
use crate::cli::interrupted;
use crate::cli::tool::output;
use crate::clock;
use crate::sys::stream;
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

/// The deadlines of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    handshake: Duration,
    /// For each step of the answer.
    silence: Duration,
    /// For the whole answer.
    answer: Duration,
}

impl Patience {
    /// For a first attempt, which nothing is concluded from when it fails.
    pub(super) const SHORT: Self = Self {
        handshake: Duration::from_millis(700),
        silence: Duration::from_millis(1200),
        answer: Duration::from_millis(2500),
    };
    /// For the attempt that decides: the SYN and the one that TCP sends anew after a second, and several of its
    /// retransmissions of data.
    pub(super) const LONG: Self = Self {
        handshake: Duration::from_millis(1700),
        silence: Duration::from_millis(2500),
        answer: Duration::from_secs(4),
    };
}

/// How far a connection came.
#[derive(Debug)]
pub(super) struct ProbeExchange {
    pub(super) handshake: io::Result<()>,
    pub(super) too_big: TooBig,
    /// Bytes sent, and what came back.
    pub(super) sent: usize,
    /// The other end's kernel does not have all of them: those of a connection that is there still.
    pub(super) unacknowledged: bool,
    pub(super) answer: ProbeAnswer,
}

/// Fate of an ICMP error about the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TooBig {
    NotTried,
    /// The sender's path MTU is this, as the error said.
    Heeded(u16),
    Lost,
}

/// Both ends of a connection that is tried.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ends {
    pub(super) client: SocketAddr,
    pub(super) server: SocketAddr,
}

/// Longest wait for a packet of a connection that is there.
const LOOK: Duration = Duration::from_millis(200);

/// The probe's raw sockets.
struct Raw {
    tcp: Socket,
    icmp: Socket,
}

fn raw(probe: &ProbeHost, address: SocketAddr) -> io::Result<Raw> {
    let (domain, protocol) =
        if address.is_ipv4() { (Domain::IPV4, Protocol::ICMPV4) } else { (Domain::IPV6, Protocol::ICMPV6) };
    probe.run(|| {
        let tcp = Socket::new(domain, Type::RAW, Some(Protocol::TCP))?;
        tcp.set_read_timeout(Some(LOOK))?;
        Ok(Raw { tcp, icmp: Socket::new(domain, Type::RAW, Some(protocol))? })
    })
}

impl ProbeExchange {
    fn unanswered(error: io::Error) -> Self {
        let answer = ProbeAnswer::none(io::ErrorKind::NotConnected.into());
        Self { handshake: Err(error), too_big: TooBig::NotTried, sent: 0, unacknowledged: false, answer }
    }

    fn reset(error: io::Error) -> Self {
        let answer = ProbeAnswer::none(error);
        Self { handshake: Ok(()), too_big: TooBig::NotTried, sent: 0, unacknowledged: false, answer }
    }

    /// From the probe's host to a server behind the machine.
    pub(super) fn from_client(
        probe: &ProbeHost,
        ends: Ends,
        request: &[u8],
        tell_too_big: bool,
        patience: Patience,
    ) -> Self {
        let raw = if tell_too_big { raw(probe, ends.client).ok() } else { None };
        let socket = probe.run(|| bound(ends.client, false));
        // The machine's end is the server's: it hears that its packets are too big for the probe.
        let told = Ends { client: ends.server, server: ends.client };
        Self::run(socket, ends, request, raw.as_ref().map(|raw| (raw, told)), patience)
    }

    /// From one of the machine's own addresses to the probe's host, by a socket of the user's.
    pub(super) fn from_machine(
        probe: &ProbeHost,
        ends: Ends,
        request: &[u8],
        user: Option<User>,
        tell_too_big: bool,
        patience: Patience,
    ) -> Self {
        let raw = if tell_too_big { raw(probe, ends.server).ok() } else { None };
        let socket = as_user(user, || bound(ends.client, true));
        Self::run(socket, ends, request, raw.as_ref().map(|raw| (raw, ends)), patience)
    }

    /// `told` are the ends as the machine has them: its own first.
    fn run(
        socket: io::Result<Socket>,
        ends: Ends,
        request: &[u8],
        told: Option<(&Raw, Ends)>,
        patience: Patience,
    ) -> Self {
        let connected = socket.and_then(|socket| {
            socket.connect_timeout(&SockAddr::from(ends.server), patience.handshake)?;
            socket.set_read_timeout(Some(patience.silence))?;
            socket.set_write_timeout(Some(patience.silence))?;
            Ok(socket)
        });
        let mut socket = match connected {
            Ok(socket) => socket,
            // Reset after the handshake: a SYN is refused otherwise (`tcp_reset` in net/ipv4/tcp_input.c).
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Self::reset(error),
            Err(error) => return Self::unanswered(error),
        };
        let too_big = told.map_or(TooBig::NotTried, |(raw, told)| raw.tell_too_big(told));
        let sent = send(&mut socket, request, patience.silence).map(|()| request.len());
        let answer = match &sent {
            Ok(_) => ProbeAnswer::read(&mut socket, patience.silence, patience.answer),
            Err(error) => ProbeAnswer::none(error.kind().into()),
        };
        let unacknowledged = stream::unacknowledged(&socket).is_ok_and(|bytes| bytes > 0);
        Self { handshake: Ok(()), too_big, sent: sent.unwrap_or_default(), unacknowledged, answer }
    }
}

/// User and group that a socket belongs to, as far as the packet filter and routing rules tell.
pub(super) type User = (u32, u32);

/// Runs `work` as the user, as far as files and sockets are concerned. A thread has its own.
fn as_user<T>(user: Option<User>, work: impl FnOnce() -> T) -> T {
    let Some((user, group)) = user else { return work() };
    let before = (setfsgid(Gid::from_raw(group)), setfsuid(Uid::from_raw(user)));
    let result = work();
    setfsuid(before.1);
    setfsgid(before.0);
    result
}

/// A socket with this address; `shared`: the gateway may use the same port towards another destination.
fn bound(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if shared {
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        if address.is_ipv4() { socket.set_freebind_v4(true)? } else { socket.set_freebind_v6(true)? }
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Sends all of it within the time; a write that was cut short by the socket's time-out is not tried again for as long.
fn send(socket: &mut Socket, mut request: &[u8], patience: Duration) -> io::Result<()> {
    let deadline = clock::now() + patience;
    while !request.is_empty() {
        let sent = interrupted::repeat(deadline, || socket.write(request))?;
        request = request.get(sent..).unwrap_or_default();
        if !request.is_empty() && clock::now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
    Ok(())
}

impl Raw {
    /// Tells the machine that its segments are too big, as a router would, and looks whether it believes it.
    fn tell_too_big(&self, ends: Ends) -> TooBig {
        const POLLS: u32 = 12;
        let Some(sequence) = self.sequence(ends) else { return TooBig::NotTried };
        let Some(mtu) = path_mtu(ends).and_then(icmp::smaller) else { return TooBig::NotTried };
        let message = icmp::too_big(ends.client, ends.server, sequence, mtu);
        // To the source of the packet that was too big, as all ICMP errors. A raw socket's port is 0.
        let to = SockAddr::from(SocketAddr::new(ends.client.ip(), 0));
        if self.icmp.send_to(&message, &to).is_err() {
            return TooBig::NotTried;
        }
        for _ in 0..POLLS {
            if path_mtu(ends) == Some(u32::from(mtu)) {
                return TooBig::Heeded(mtu);
            }
            thread::sleep(Duration::from_millis(50));
        }
        TooBig::Lost
    }

    /// The number of the next byte that the machine's end will send: one after that of its SYN.
    fn sequence(&self, ends: Ends) -> Option<u32> {
        const SYN: u8 = 2;
        let mut buffer = [0; 256];
        let deadline = clock::now() + LOOK;
        for _ in 0..16 {
            let length = interrupted::repeat(deadline, || (&self.tcp).read(&mut buffer)).ok()?;
            // IPv4 raw sockets are given the IP header, IPv6 ones are not.
            let skip = if ends.client.is_ipv4() { usize::from(buffer[0] & 0xf) * 4 } else { 0 };
            let Some(tcp) = buffer.get(skip..length).filter(|tcp| tcp.len() >= 20) else { continue };
            let port = |at| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
            let number = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
            if port(0) == ends.client.port() && port(2) == ends.server.port() && tcp[13] & SYN != 0 {
                return Some(number.wrapping_add(1));
            }
        }
        None
    }
}

/// Path MTU of the machine's socket with these ends.
fn path_mtu(ends: Ends) -> Option<u32> {
    let (own, peer) = (ends.client.port(), ends.server.port());
    let sockets = output(&format!("ss -tinHO sport = :{own} and dport = :{peer}")).ok()?;
    let peer = ends.server.ip().to_string();
    let line = sockets.lines().find(|line| line.contains(&peer))?;
    line.split_whitespace().find_map(|word| word.strip_prefix("pmtu:"))?.parse().ok()
}
