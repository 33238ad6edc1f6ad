//! The ledger held against the kernel: at the start, to learn what an earlier process left behind, and from time to
//! time, to find what the two disagree on.
//!
//! Neither is a snapshot: flows start and end while the kernel lists its sockets. A socket with a port that the ledger
//! calls free is therefore believed only if it, the same socket by its cookie, is still there at a second look and the
//! port is still free: a flow of ours that ended in between is not there any more. A lease without a socket is believed
//! only if it was there before and after each look, and in two comparisons in a row.

use super::Pools;
use super::account::DestinationKey;
use super::lingering::Linger;
use super::share::Share;
use crate::addr::{DialAddr, LeasedSource, SourceAddr};
use crate::sys::sock_diag::{KernelSocket, TcpState};
use ipnet::IpNet;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Leases without a socket are not looked for on addresses with more busy ports than this: a look copies them all
/// while it holds the lock, at some ten nanoseconds each.
const MOST_LEASES: usize = 262_144;

/// Where sockets are listed.
pub trait Kernel {
    /// The TCP sockets that `keep` wants, but no listeners. Orphans too, closed ones that are still open in a program if
    /// the kernel lists them, and those in `TIME_WAIT` if `waiting`.
    fn sockets(
        &mut self,
        waiting: bool,
        keep: &dyn Fn(&KernelSocket) -> bool,
    ) -> io::Result<Vec<KernelSocket>>;
    /// Whether it lists those closed ones. If not, a lease without a socket says nothing.
    fn lists_bound(&self) -> bool;
    /// Some time between two looks; more than a connection needs to be gone from the kernel when it was closed well.
    fn pause(&mut self);
}

/// What the reconciler remembers from one look to the next.
#[derive(Debug, Default)]
pub struct Reconciler {
    /// Leases without a socket in the last comparison.
    unseen: HashSet<Quad>,
}

/// What ledger and kernel disagree on.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Sockets on ports that the ledger called free. The ledger holds them now.
    pub foreign: Vec<KernelSocket>,
    /// Leases without a socket.
    pub unseen: Vec<(LeasedSource, DialAddr)>,
}

impl Report {
    /// How many ports of a source address, or of all in a network, are disagreed on.
    pub fn difference(&self, source: IpNet) -> u64 {
        let foreign = self.foreign.iter().map(|socket| socket.source.ip());
        let all = foreign.chain(self.unseen.iter().map(|(leased, _)| leased.ip()));
        all.filter(|ip| source.contains(ip)).count() as u64
    }
}

/// A connection as the ledger knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Quad {
    source: SourceAddr,
    port: u16,
    to: DestinationKey,
}

impl Quad {
    fn of(socket: &KernelSocket) -> Self {
        Self {
            source: SourceAddr::new(socket.source.ip()),
            port: socket.source.port(),
            to: DialAddr::new(socket.destination).into(),
        }
    }

    /// Nobody's port, of a connection of which it is not known whether it uses timestamps.
    fn linger(self, first_look: Duration, now: Instant) -> Linger {
        Linger::new((self.to, self.port), first_look, false, Share::NONE, now)
    }
}

/// What the kernel has of the pools' addresses.
type Listed = HashMap<Quad, KernelSocket>;

/// One look at both sides.
struct Look {
    listed: Listed,
    foreign: Vec<Quad>,
    unseen: HashSet<Quad>,
}

impl Reconciler {
    /// Holds every port of the pools that the kernel has in use, until it has not; to be called once, before the first
    /// lease. How many there are.
    pub fn seed(&mut self, pools: &Pools, kernel: &mut impl Kernel, now: Instant) -> io::Result<usize> {
        let own = Own::new(pools);
        let listed = unique(kernel.sockets(true, &|socket| own.has(socket.source.ip()))?);
        let mut held = 0;
        for (quad, socket) in listed {
            let Some((book, space)) = pools.open(quad.source) else { continue };
            let first_look = match what_remains(&socket) {
                Remains::Nothing => continue,
                Remains::For(left) => left,
                Remains::Orphan | Remains::Connection => Duration::ZERO,
            };
            held += usize::from(book.hold(space, quad.linger(first_look, now)));
        }
        Ok(held)
    }

    /// Compares; to be called every few seconds, on a thread that may wait.
    pub fn compare(&mut self, pools: &Pools, kernel: &mut impl Kernel, now: Instant) -> io::Result<Report> {
        let own = Own::new(pools);
        let first = Self::look(pools, &own, kernel, now)?;
        if first.foreign.is_empty() && first.unseen.is_empty() {
            self.unseen.clear();
            return Ok(Report::default());
        }
        kernel.pause();
        let second = Self::look(pools, &own, kernel, now)?;
        let cookie = |look: &Look, quad| look.listed.get(quad).map(|socket| socket.cookie);
        let mut report = Report::default();
        for quad in &second.foreign {
            let stayed = first.foreign.contains(quad) && cookie(&first, quad) == cookie(&second, quad);
            let Some((book, space)) = pools.open(quad.source).filter(|_| stayed) else { continue };
            if book.hold(space, quad.linger(Duration::ZERO, now)) {
                report.foreign.extend(second.listed.get(quad));
            }
        }
        let unseen: HashSet<_> = first.unseen.intersection(&second.unseen).copied().collect();
        report.unseen = (unseen.intersection(&self.unseen))
            .map(|quad| {
                let leased = SocketAddr::new(quad.source.ip(), quad.port);
                (LeasedSource::new(leased), quad.to.into())
            })
            .collect();
        self.unseen = unseen;
        Ok(report)
    }

    fn look(pools: &Pools, own: &Own, kernel: &mut impl Kernel, now: Instant) -> io::Result<Look> {
        let mut before = HashMap::new();
        if kernel.lists_bound() {
            pools.ledger().for_each(|book| {
                let leased = book.leased(MOST_LEASES);
                if !leased.is_empty() {
                    before.insert(book.source().ip(), leased);
                }
            });
        }
        // A busy gateway leaves hundreds of thousands in TIME_WAIT, and holds the ports of those that are in the way.
        let listed = unique(kernel.sockets(false, &|socket| {
            let ip = socket.source.ip();
            own.has(ip) || before.contains_key(&ip)
        })?);
        // bound, and about to connect
        let bound: HashSet<_> = (listed.iter())
            .filter(|(_, s)| s.destination.port() == 0)
            .map(|(q, _)| (q.source, q.port))
            .collect();
        let mut unseen = HashSet::new();
        for (ip, leased) in before {
            let source = SourceAddr::new(ip);
            let Some(book) = pools.ledger().find(source) else { continue };
            let suspects: Vec<_> = (leased.into_iter())
                .filter(|&(to, port)| {
                    !listed.contains_key(&Quad { source, port, to }) && !bound.contains(&(source, port))
                })
                .collect();
            if !suspects.is_empty() {
                let after = book.leased(MOST_LEASES);
                let still = suspects.into_iter().filter(|lease| after.binary_search(lease).is_ok());
                unseen.extend(still.map(|(to, port)| Quad { source, port, to }));
            }
        }
        let mut connections: HashMap<SourceAddr, Vec<(DestinationKey, u16)>> = HashMap::new();
        for (quad, socket) in &listed {
            if matches!(what_remains(socket), Remains::Connection) {
                connections.entry(quad.source).or_default().push((quad.to, quad.port));
            }
        }
        let mut foreign = Vec::new();
        for (source, connections) in connections {
            let Some((book, _)) = pools.open(source) else { continue };
            let free = book.free_of(&connections, now);
            foreign.extend(free.into_iter().map(|(to, port)| Quad { source, port, to }));
        }
        Ok(Look { listed, foreign, unseen })
    }
}

/// Whether a new connection could have the four values of a socket.
enum Remains {
    /// At once.
    Nothing,
    /// After that time, or sooner if both ends use timestamps; the kernel does not say whether they do.
    For(Duration),
    /// No program has it open. At once with timestamps, else when it is gone.
    Orphan,
    /// When it is gone.
    Connection,
}

fn what_remains(socket: &KernelSocket) -> Remains {
    match (socket.state, socket.expires) {
        (TcpState::Bound | TcpState::Listen, _) => Remains::Nothing,
        (TcpState::TimeWait, left) => Remains::For(left.unwrap_or_default()),
        // its timer says when it is given up, but a late FIN turns it into a TIME_WAIT
        (TcpState::FinWait2, Some(_)) => Remains::Orphan,
        (
            TcpState::Established
            | TcpState::SynSent
            | TcpState::FinWait1
            | TcpState::FinWait2
            | TcpState::CloseWait
            | TcpState::LastAck
            | TcpState::Closing,
            _,
        ) => Remains::Connection,
    }
}

/// The kernel has a connection twice while its socket is closed and still open in a program, and a list may have one
/// twice: the one counts that is most in the way.
fn unique(sockets: Vec<KernelSocket>) -> Listed {
    let in_the_way = |socket: &KernelSocket| match what_remains(socket) {
        Remains::Nothing => 0,
        Remains::For(_) => 1,
        Remains::Orphan => 2,
        Remains::Connection => 3,
    };
    let mut listed = Listed::with_capacity(sockets.len());
    for socket in sockets {
        match listed.entry(Quad::of(&socket)) {
            Entry::Occupied(mut known) if in_the_way(known.get()) < in_the_way(&socket) => {
                known.insert(socket);
            }
            Entry::Occupied(_) => {}
            Entry::Vacant(place) => {
                place.insert(socket);
            }
        }
    }
    listed
}

/// The addresses of the pools, for a fast answer: the kernel lists clients' connections too.
struct Own {
    listed: HashSet<IpAddr>,
    wide: Vec<IpNet>,
}

impl Own {
    fn new(pools: &Pools) -> Self {
        let listed = pools.listed().map(SourceAddr::ip).collect();
        Self { listed, wide: pools.wide().copied().collect() }
    }

    fn has(&self, ip: IpAddr) -> bool {
        self.listed.contains(&ip) || self.wide.iter().any(|net| net.contains(&ip))
    }
}

#[cfg(test)]
mod tests;
