//! Comparison of the ledger with the kernel: at start, to learn of connections of an earlier process, and periodically,
//! to find discrepancies.
//!
//! Neither side is a snapshot: flows start and end while the kernel lists its sockets. A socket on a port that the
//! ledger calls free is therefore reported only if the same socket, by its cookie, is still in a second listing and the
//! port is still free; a flow of ours that ended in between is gone by then. A lease without a socket is reported only
//! if it existed before and after each listing, and in two comparisons in a row.

use super::Pools;
use super::destination_key::DestinationKey;
use super::lingering::LingeringPort;
use super::share::Share;
use crate::addr::{DialAddr, LeasedSource, SourceAddr};
use crate::sys::sock_diag::{KernelSocket, TcpState};
use ipnet::IpNet;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Addresses with more busy ports than this are not searched for leases without a socket: the search copies all of them
/// while it holds the lock, at some ten nanoseconds each.
const MOST_LEASES: usize = 262_144;

/// Source of the kernel's socket lists.
pub trait KernelSockets {
    /// Lists the TCP sockets that `keep` selects, without listeners. Includes orphans, sockets that are closed but
    /// still open in a program if the kernel lists them, and those in `TIME_WAIT` if `waiting`.
    fn sockets(
        &mut self,
        waiting: bool,
        keep: &dyn Fn(&KernelSocket) -> bool,
    ) -> io::Result<Vec<KernelSocket>>;
    /// True if it lists those closed sockets. If not, a lease without a socket means nothing.
    fn lists_bound(&self) -> bool;
    /// Pauses between two listings; longer than a cleanly closed connection needs to disappear from the kernel.
    fn pause(&mut self);
}

/// State kept between comparisons.
#[derive(Debug, Default)]
pub struct Reconciler {
    /// Leases without a socket in the last comparison.
    unseen: HashSet<ConnectionKey>,
}

/// Discrepancies between ledger and kernel.
#[derive(Debug, Clone, Default)]
pub struct Discrepancies {
    /// Sockets on ports that the ledger called free. The ledger holds these ports now.
    pub foreign: Vec<KernelSocket>,
    /// Leases without a socket.
    pub unseen: Vec<(LeasedSource, DialAddr)>,
}

impl Discrepancies {
    /// Number of discrepancies for a source address, or for all addresses in a network.
    pub fn difference(&self, source: IpNet) -> u64 {
        let foreign = self.foreign.iter().map(|socket| socket.source.ip());
        let all = foreign.chain(self.unseen.iter().map(|(leased, _)| leased.ip()));
        all.filter(|ip| source.contains(ip)).count() as u64
    }
}

/// A connection's identity in the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct ConnectionKey {
    source: SourceAddr,
    port: u16,
    to: DestinationKey,
}

impl ConnectionKey {
    fn of(socket: &KernelSocket) -> Self {
        Self {
            source: SourceAddr::new(socket.source.ip()),
            port: socket.source.port(),
            to: DialAddr::tcp(socket.destination).into(),
        }
    }

    /// Holds the port for no tenant; whether the connection uses timestamps is unknown.
    fn linger(self, first_look: Duration, now: Instant) -> LingeringPort {
        LingeringPort::new((self.to, self.port), first_look, false, Share::NONE, now)
    }
}

/// The kernel's sockets on addresses of the pools.
type KernelListing = HashMap<ConnectionKey, KernelSocket>;

/// One listing of both sides.
struct ListingPair {
    listed: KernelListing,
    foreign: Vec<ConnectionKey>,
    unseen: HashSet<ConnectionKey>,
}

impl Reconciler {
    /// Holds every port of the pools that the kernel uses, until it is released; to be called once, before the first
    /// lease. Returns their number.
    pub fn seed(
        &mut self,
        pools: &Pools,
        kernel: &mut impl KernelSockets,
        now: Instant,
    ) -> io::Result<usize> {
        let own = PoolAddresses::new(pools);
        let listed = unique(kernel.sockets(true, &|socket| own.has(socket.source.ip()))?);
        let mut held = 0;
        for (quad, socket) in listed {
            let Some((book, space)) = pools.open(quad.source) else { continue };
            let first_look = match what_remains(&socket) {
                ReuseTime::Nothing => continue,
                ReuseTime::For(left) => left,
                ReuseTime::Orphan | ReuseTime::Connection => Duration::ZERO,
            };
            held += usize::from(book.hold(space, quad.linger(first_look, now)));
        }
        Ok(held)
    }

    /// Compares both sides; to be called every few seconds, on a thread that may block.
    pub fn compare(
        &mut self,
        pools: &Pools,
        kernel: &mut impl KernelSockets,
        now: Instant,
    ) -> io::Result<Discrepancies> {
        let own = PoolAddresses::new(pools);
        let first = Self::look(pools, &own, kernel, now)?;
        if first.foreign.is_empty() && first.unseen.is_empty() {
            self.unseen.clear();
            return Ok(Discrepancies::default());
        }
        kernel.pause();
        let second = Self::look(pools, &own, kernel, now)?;
        let cookie = |look: &ListingPair, quad| look.listed.get(quad).map(|socket| socket.cookie);
        let mut report = Discrepancies::default();
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

    fn look(
        pools: &Pools,
        own: &PoolAddresses,
        kernel: &mut impl KernelSockets,
        now: Instant,
    ) -> io::Result<ListingPair> {
        let mut before = HashMap::new();
        if kernel.lists_bound() {
            pools.ledger().for_each(|book| {
                let leased = book.leased(MOST_LEASES);
                if !leased.is_empty() {
                    before.insert(book.source().ip(), leased);
                }
            });
        }
        // A busy gateway has hundreds of thousands in TIME_WAIT, and holds the ports of those that block a new
        // connection.
        let listed = unique(kernel.sockets(false, &|socket| {
            let ip = socket.source.ip();
            own.has(ip) || before.contains_key(&ip)
        })?);
        // bound sockets that are about to connect
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
                    !listed.contains_key(&ConnectionKey { source, port, to })
                        && !bound.contains(&(source, port))
                })
                .collect();
            if !suspects.is_empty() {
                let after = book.leased(MOST_LEASES);
                let still = suspects.into_iter().filter(|lease| after.binary_search(lease).is_ok());
                unseen.extend(still.map(|(to, port)| ConnectionKey { source, port, to }));
            }
        }
        let mut connections: HashMap<SourceAddr, Vec<(DestinationKey, u16)>> = HashMap::new();
        for (quad, socket) in &listed {
            if matches!(what_remains(socket), ReuseTime::Connection) {
                connections.entry(quad.source).or_default().push((quad.to, quad.port));
            }
        }
        let mut foreign = Vec::new();
        for (source, connections) in connections {
            let Some((book, _)) = pools.open(source) else { continue };
            let free = book.free_of(&connections, now);
            foreign.extend(free.into_iter().map(|(to, port)| ConnectionKey { source, port, to }));
        }
        Ok(ListingPair { listed, foreign, unseen })
    }
}

/// When a new connection could reuse the addresses and ports of a socket.
enum ReuseTime {
    /// At once.
    Nothing,
    /// After that time, or sooner if both ends use timestamps; the kernel does not report whether they do.
    For(Duration),
    /// No program has it open. At once with timestamps, else when the socket is gone.
    Orphan,
    /// When the socket is gone.
    Connection,
}

fn what_remains(socket: &KernelSocket) -> ReuseTime {
    match (socket.state, socket.expires) {
        (TcpState::Bound | TcpState::Listen, _) => ReuseTime::Nothing,
        (TcpState::TimeWait, left) => ReuseTime::For(left.unwrap_or_default()),
        // its timer says when the kernel drops it, but a late FIN turns it into a TIME_WAIT
        (TcpState::FinWait2, Some(_)) => ReuseTime::Orphan,
        (
            TcpState::Established
            | TcpState::SynSent
            | TcpState::FinWait1
            | TcpState::FinWait2
            | TcpState::CloseWait
            | TcpState::LastAck
            | TcpState::Closing,
            _,
        ) => ReuseTime::Connection,
    }
}

/// Removes duplicates: the kernel lists a connection twice while its socket is closed but still open in a program, and
/// a list may repeat one. Keeps the entry that blocks reuse the longest.
fn unique(sockets: Vec<KernelSocket>) -> KernelListing {
    let in_the_way = |socket: &KernelSocket| match what_remains(socket) {
        ReuseTime::Nothing => 0,
        ReuseTime::For(_) => 1,
        ReuseTime::Orphan => 2,
        ReuseTime::Connection => 3,
    };
    let mut listed = KernelListing::with_capacity(sockets.len());
    for socket in sockets {
        match listed.entry(ConnectionKey::of(&socket)) {
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

/// Addresses of the pools, for a fast lookup: the kernel lists clients' connections too.
struct PoolAddresses {
    listed: HashSet<IpAddr>,
    wide: Vec<IpNet>,
}

impl PoolAddresses {
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
