//! A minimal relay: the lower bound of a proxy's cost on this machine.
//!
//! It waits for the first bytes, dials from one of its addresses and moves bytes both ways. It parses no names, has no
//! port accounting, timeouts or logs, and does not tell a reset from an end of file.

use crate::poller::{CHANGES, Poller};
use egret::sys::listener;
use egret::sys::liveness::Liveness;
use egret::sys::pipe::Pipe;
use egret::sys::traffic_class::TrafficClass;
use egret::sys::{stream, upstream};
use nix::sys::epoll::EpollFlags;
use serde::{Deserialize, Serialize};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

#[derive(Serialize, Deserialize)]
pub struct Setup {
    pub port: u16,
    pub threads: usize,
    /// As many IPv4 as IPv6 addresses.
    pub sources_v4: Vec<IpAddr>,
    pub sources_v6: Vec<IpAddr>,
    /// First and last port.
    pub source_ports: (u16, u16),
}

/// Relays until it is killed.
pub fn run(setup: &Setup) -> io::Result<()> {
    thread::scope(|scope| {
        let threads: Vec<_> =
            (0..setup.threads).map(|n| scope.spawn(move || Relay::new(setup, n)?.run())).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
    })
}

const LISTENER: usize = 0;

/// Size of one read; one that fills it is followed by a splice.
const COPY: usize = 16 * 1024;
/// In KiB.
const PIPE: u16 = 512;

struct Relay<'a> {
    setup: &'a Setup,
    listener: TcpListener,
    poller: Poller,
    flows: Vec<Option<Flow>>,
    vacant: Vec<usize>,
    /// Number of connections dialled by this thread.
    dialled: usize,
    buffer: Vec<u8>,
}

struct Flow {
    client: TcpStream,
    upstream: Option<TcpStream>,
    connected: bool,
    up: Way,
    down: Way,
}

#[derive(Default)]
struct Way {
    rest: Vec<u8>,
    pipe: Option<Pipe>,
    /// Bytes in the pipe.
    held: usize,
    ended: bool,
}

impl<'a> Relay<'a> {
    fn new(setup: &'a Setup, thread: usize) -> io::Result<Self> {
        let liveness = Liveness {
            idle: Duration::from_secs(60),
            interval: Duration::from_secs(15),
            probes: 4,
            user_timeout: None,
        };
        let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, setup.port));
        let listener = listener::open(address, 4096, &liveness, false)?;
        // Sockets dropped at the end of their flow are closed without a reset.
        stream::close_cleanly(&listener)?;
        let poller = Poller::new();
        poller.watch(&listener, LISTENER, CHANGES);
        let buffer = vec![0; COPY];
        Ok(Self { setup, listener, poller, flows: Vec::new(), vacant: Vec::new(), dialled: thread, buffer })
    }

    fn run(mut self) -> io::Result<()> {
        loop {
            let mut over = Vec::new();
            for n in 0..self.poller.wait(None) {
                let (key, events) = self.poller.event(n);
                let Some(key) = key.checked_sub(LISTENER + 1) else {
                    self.accept()?;
                    continue;
                };
                if self.handle(key / 2, key % 2 == 1, events).is_err() {
                    self.flows[key / 2] = None;
                    over.push(key / 2);
                }
            }
            // Not earlier: late events of the same batch must not reach another flow there.
            self.vacant.append(&mut over);
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let client = match listener::accept(&self.listener) {
                Ok((client, _)) => client,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            let number = self.vacant.pop().unwrap_or_else(|| {
                self.flows.push(None);
                self.flows.len() - 1
            });
            self.poller.watch(&client, LISTENER + 1 + 2 * number, CHANGES);
            let (up, down) = Default::default();
            self.flows[number] = Some(Flow { client, upstream: None, connected: false, up, down });
        }
    }

    /// Handles an event. An error ends the flow, as does its regular end.
    fn handle(&mut self, number: usize, is_upstream: bool, events: EpollFlags) -> io::Result<()> {
        let Some(flow) = &mut self.flows[number] else { return Ok(()) };
        let Some(upstream) = &flow.upstream else {
            match stream::peek(&flow.client, &mut self.buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                peeked => peeked?,
            };
            self.dialled += self.setup.threads;
            let upstream = dial(self.setup, self.dialled, flow.client.local_addr()?)?;
            self.poller.watch(&upstream, LISTENER + 2 + 2 * number, CHANGES);
            flow.upstream = Some(upstream);
            return Ok(());
        };
        let writable = events.intersects(EpollFlags::EPOLLOUT | EpollFlags::EPOLLERR);
        let readable = events.intersects(!EpollFlags::EPOLLOUT);
        let (client, up, down) = (&flow.client, &mut flow.up, &mut flow.down);
        let (forth, back) =
            if is_upstream { ((upstream, client, down), up) } else { ((client, upstream, up), down) };
        let (socket, other, forth) = forth;
        if !flow.connected {
            flow.connected = is_upstream && writable;
            return if flow.connected { back.go_on(other, socket, true, &mut self.buffer) } else { Ok(()) };
        }
        if readable {
            let closed = events.intersects(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP);
            forth.go_on(socket, other, closed, &mut self.buffer)?;
        }
        if writable && back.is_full() {
            back.go_on(other, socket, true, &mut self.buffer)?;
        }
        if forth.ended && back.ended { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

/// Dials from the addresses in round-robin order, and from the next port of each in every round.
fn dial(setup: &Setup, number: usize, to: SocketAddr) -> io::Result<TcpStream> {
    let to = SocketAddr::new(to.ip().to_canonical(), to.port());
    let sources = if to.is_ipv4() { &setup.sources_v4 } else { &setup.sources_v6 };
    let (first, last) = setup.source_ports;
    let port = usize::from(first) + number / sources.len() % usize::from(last - first + 1);
    let source = SocketAddr::new(sources[number % sources.len()], port as u16);
    let socket = upstream::connect(source, to, TrafficClass::default(), None).map_err(|(_, error)| error)?;
    stream::close_cleanly(&socket)?;
    Ok(socket)
}

impl Way {
    fn is_full(&self) -> bool {
        self.held > 0 || !self.rest.is_empty()
    }

    /// Moves what can be moved. A short read is the last, unless more than was reported may be waiting.
    fn go_on(&mut self, from: &TcpStream, to: &TcpStream, more: bool, buffer: &mut [u8]) -> io::Result<()> {
        match self.try_go_on(from, to, more, buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            done => done,
        }
    }

    fn try_go_on(
        &mut self,
        from: &TcpStream,
        to: &TcpStream,
        more: bool,
        buffer: &mut [u8],
    ) -> io::Result<()> {
        loop {
            while !self.rest.is_empty() {
                let sent = stream::write(to, &self.rest)?;
                self.rest.drain(..sent);
            }
            while let Some(pipe) = self.pipe.as_ref().filter(|_| self.held > 0) {
                self.held -= pipe.drain(to, self.held)?;
            }
            if self.ended {
                return Ok(());
            }
            let came = stream::read(from, buffer)?;
            if came == 0 {
                self.ended = true;
                return stream::finish(to);
            }
            let sent = match stream::write(to, &buffer[..came]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                sent => sent?,
            };
            if sent < came {
                self.rest.extend_from_slice(&buffer[sent..came]);
            } else if came == buffer.len() {
                if self.pipe.is_none() {
                    self.pipe = Some(Pipe::of_size(i32::from(PIPE) * 1024)?);
                }
                self.held = self.pipe.as_ref().expect("just made").fill(from, usize::from(PIPE) * 1024)?;
            } else if !more {
                return Ok(());
            }
        }
    }
}
