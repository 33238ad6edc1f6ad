//! Connection setup up to the server's reply, many at a time.

use super::Job;
use crate::hello::Hello;
use crate::poller::{CHANGES, Poller};
use crate::wire::{self, HELLO, REPLY};
use egret::clock;
use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{setsockopt, sockopt::IpBindAddressNoPort};
use socket2::{Domain, SockAddr, Socket, Type};
use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

pub struct Dialler {
    poller: Poller,
    pending: Vec<Option<Pending>>,
    hello: Vec<u8>,
    /// Pairs of destination and source, used in turn.
    ways: Vec<(SockAddr, SockAddr)>,
    next: usize,
    pub failures: u64,
    pub failure: Option<String>,
}

struct Pending {
    socket: Socket,
    began: Instant,
    asked: bool,
    got: usize,
}

/// A connection that has received its reply.
pub struct Connected {
    pub socket: Socket,
    /// Time from the first packet to the reply.
    pub latency: Duration,
}

impl Dialler {
    pub fn new(job: &Job, at_once: usize) -> Self {
        let way = |n: u16, v6| {
            let from = SocketAddr::new(wire::client(n, v6), 0);
            (wire::server(job.kind.service(), v6).into(), from.into())
        };
        let v6 = |n| job.both_families && n % 2 == 1;
        Self {
            poller: Poller::new(),
            pending: (0..at_once).map(|_| None).collect(),
            hello: Hello::to(&job.name).padded_to(HELLO).record(),
            // twice as many: with an odd number of sources, each is used with both families
            ways: (0..job.sources * 2).map(|n| way(n % job.sources, v6(n))).collect(),
            next: 0,
            failures: 0,
            failure: None,
        }
    }

    /// Starts the next connection in this slot.
    pub fn start(&mut self, place: usize) {
        let began = clock::now();
        match self.connect(place) {
            Ok(socket) => self.pending[place] = Some(Pending { socket, began, asked: false, got: 0 }),
            Err(error) => self.fail(place, &error),
        }
    }

    fn connect(&mut self, place: usize) -> std::io::Result<Socket> {
        let (to, from) = &self.ways[self.next];
        self.next = (self.next + 1) % self.ways.len();
        let socket = Socket::new(Domain::from(i32::from(to.family())), Type::STREAM.nonblocking(), None)?;
        setsockopt(&socket, IpBindAddressNoPort, &true)?;
        socket.bind(from)?;
        match socket.connect(to) {
            Err(e) if e.raw_os_error() != Some(Errno::EINPROGRESS as i32) => return Err(e),
            _ => {}
        }
        self.poller.watch(&socket, place, CHANGES);
        Ok(socket)
    }

    /// Waits for events, at most until then; returns their number.
    pub fn wait(&mut self, until: Instant) -> usize {
        self.poller.wait(Some(until))
    }

    /// Handles one event. Returns a slot that is free now, and its connection if that received its reply.
    pub fn handle(&mut self, event: usize) -> Option<(usize, Option<Connected>)> {
        let (place, what) = self.poller.event(event);
        let pending = self.pending[place].as_mut()?;
        match pending.advance(what, &self.hello) {
            Ok(false) => None,
            Ok(true) => {
                let Pending { socket, began, .. } = self.pending[place].take()?;
                Some((place, Some(Connected { socket, latency: clock::now() - began })))
            }
            Err(error) => {
                self.fail(place, &error);
                Some((place, None))
            }
        }
    }

    fn fail(&mut self, place: usize, error: &std::io::Error) {
        self.pending[place] = None;
        self.failures += 1;
        self.failure.get_or_insert_with(|| error.to_string());
    }
}

impl Pending {
    /// True when the reply is complete.
    fn advance(&mut self, what: EpollFlags, hello: &[u8]) -> std::io::Result<bool> {
        if !self.asked && what.contains(EpollFlags::EPOLLOUT) {
            self.asked = true;
            if self.socket.send(hello)? != hello.len() {
                return Err(std::io::Error::other("there was no room for a hello"));
            }
        }
        if !what.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLERR) {
            return Ok(false);
        }
        // until it blocks: an end of file that has arrived is not reported again
        while self.got < REPLY {
            match (&self.socket).read(&mut [0; REPLY][self.got..]) {
                Ok(0) => return Err(std::io::Error::other("closed without a reply")),
                Ok(n) => self.got += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }
}

/// Establishes the job's concurrent connections, up to the reply. One in a hundred may fail, and is retried.
pub fn establish(job: &Job) -> Result<Established, String> {
    const AT_ONCE: usize = 128;
    const PATIENCE: Duration = Duration::from_secs(30);
    let until = clock::now() + PATIENCE;
    let mut started = AT_ONCE.min(job.connections);
    let mut dialler = Dialler::new(job, started);
    let mut sockets = Vec::with_capacity(job.connections);
    for place in 0..started {
        dialler.start(place);
    }
    while sockets.len() < job.connections {
        if let Some(failure) = &dialler.failure
            && dialler.failures > job.connections as u64 / 100
        {
            return Err(format!("connection {} of {}: {failure}", sockets.len() + 1, job.connections));
        }
        if clock::now() > until {
            return Err(format!("{} of {} connections within {PATIENCE:?}", sockets.len(), job.connections));
        }
        for event in 0..dialler.wait(until) {
            let Some((place, connected)) = dialler.handle(event) else { continue };
            let again = connected.is_none();
            sockets.extend(connected.map(|connected| connected.socket));
            if again || started < job.connections {
                started += usize::from(!again);
                dialler.start(place);
            }
        }
    }
    Ok(Established { sockets, failures: dialler.failures, failure: dialler.failure })
}

/// Established connections, and the number of failures that were retried.
pub struct Established {
    pub sockets: Vec<Socket>,
    pub failures: u64,
    pub failure: Option<String>,
}
