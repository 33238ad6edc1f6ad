//! Balances connections among workers.
//!
//! The kernel distributes them by a hash (`SO_REUSEPORT`) that ignores load: of sixteen long flows one of two workers
//! may get eleven, and one whose core has other work to do gets as many as any. So a worker passes a connection on,
//! before it is a flow, to one that has notably fewer.

use std::cell::Cell;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::sync::mpsc::{self, Receiver, Sender};

/// Most connections, with a descriptor each, that may wait for one worker; beyond that, others keep theirs.
pub const MOST_WAITING: usize = 64;

/// A worker's source of connections.
#[derive(Debug)]
pub struct ConnectionBalancer {
    load: Arc<ConnectionCount>,
    passed_on: Receiver<AcceptedConnection>,
    others: Vec<PeerWorker>,
    /// Index of the other worker to compare with next.
    next: Cell<usize>,
}

/// Number of a worker's connections. On a cache line of its own, as it changes often.
#[derive(Debug, Default)]
#[repr(align(64))]
struct ConnectionCount(AtomicU32);

#[derive(Debug)]
struct PeerWorker {
    load: Arc<ConnectionCount>,
    inbox: Sender<AcceptedConnection>,
}

/// An accepted connection.
#[derive(Debug)]
pub(super) struct AcceptedConnection {
    pub(super) socket: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) load_guard: LoadGuard,
}

/// Counts as one connection of a worker until it is dropped.
#[derive(Debug)]
pub(super) struct LoadGuard(Arc<ConnectionCount>);

impl LoadGuard {
    fn on(load: &Arc<ConnectionCount>) -> Self {
        load.0.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(load))
    }
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ConnectionCount {
    fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

impl ConnectionBalancer {
    /// Creates one for each of `count` workers.
    pub fn of_workers(count: usize) -> Vec<Self> {
        let loads: Vec<Arc<ConnectionCount>> = (0..count).map(|_| Arc::default()).collect();
        let (inboxes, receivers): (Vec<_>, Vec<_>) = (0..count).map(|_| mpsc::channel(MOST_WAITING)).unzip();
        let others = |me: usize| {
            let all = loads
                .iter()
                .zip(&inboxes)
                .map(|(load, inbox)| PeerWorker { load: Arc::clone(load), inbox: inbox.clone() });
            // Each begins with a different one.
            let mut others: Vec<_> = all.collect();
            others.rotate_left(me);
            others.remove(0);
            others
        };
        let of_one = |(me, passed_on)| Self {
            load: Arc::clone(&loads[me]),
            passed_on,
            others: others(me),
            next: Cell::new(0),
        };
        receivers.into_iter().enumerate().map(of_one).collect()
    }

    /// Passes a connection that this worker has accepted on to another; returns it if it stays here.
    pub(super) fn share(&self, socket: TcpStream, peer: SocketAddr) -> Option<AcceptedConnection> {
        let own = |socket| AcceptedConnection { socket, peer, load_guard: LoadGuard::on(&self.load) };
        let Some(other) = self.others.get(self.next.get()) else { return Some(own(socket)) };
        self.next.set((self.next.get() + 1) % self.others.len());
        if !is_notably_fewer(other.load.get(), self.load.get()) {
            return Some(own(socket));
        }
        let passed_on = AcceptedConnection { socket, peer, load_guard: LoadGuard::on(&other.load) };
        // The other's queue is full or closed.
        other.inbox.try_send(passed_on).err().map(|error| own(error.into_inner().socket))
    }

    /// Waits for a connection that another worker has accepted.
    pub(super) async fn passed_on(&mut self) -> AcceptedConnection {
        match self.passed_on.recv().await {
            Some(connection) => connection,
            // There are no other workers.
            None => std::future::pending().await,
        }
    }

    /// Accepts no more from other workers.
    pub(super) fn close(&mut self) {
        self.passed_on.close();
    }

    /// Returns the next connection that was passed on before the close; `None` once there can be no more. Waits for a
    /// worker that is about to pass one on.
    pub(super) async fn drain_next(&mut self) -> Option<AcceptedConnection> {
        self.passed_on.recv().await
    }
}

/// True if the difference is worth a move, which costs two wakes and a cold cache.
fn is_notably_fewer(theirs: u32, ours: u32) -> bool {
    ours > theirs + theirs / 8 + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::event_loop::EventLoop;
    use std::net::TcpListener;

    fn connections(count: usize) -> Vec<(TcpStream, SocketAddr)> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = |_| {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            drop(client);
            listener.accept().unwrap()
        };
        (0..count).map(connect).collect()
    }

    fn waiting(balancer: &mut ConnectionBalancer) -> Vec<AcceptedConnection> {
        std::iter::from_fn(|| balancer.passed_on.try_recv().ok()).collect()
    }

    #[test]
    fn skewed_accepts_are_rebalanced() {
        for workers in [2, 3, 4] {
            let mut balancers = ConnectionBalancer::of_workers(workers);
            let mut kept = Vec::new();
            for (socket, peer) in connections(32 * workers) {
                kept.extend(balancers[1].share(socket, peer));
            }
            let counts: Vec<_> = balancers.iter().map(|balancer| balancer.load.get()).collect();
            assert_eq!(counts.iter().sum::<u32>() as usize, 32 * workers);
            assert_eq!(counts[1] as usize, kept.len());
            let least = *counts.iter().min().unwrap();
            assert!(counts.iter().all(|count| !is_notably_fewer(least, count - 1)), "{counts:?}");
            drop(kept);
            for balancer in &mut balancers {
                drop(waiting(balancer));
            }
            assert!(balancers.iter().all(|balancer| balancer.load.get() == 0), "every load is taken off");
        }
    }

    #[test]
    fn single_worker_keeps_its_connections() {
        let balancers = ConnectionBalancer::of_workers(1);
        let kept: Vec<_> = connections(20)
            .into_iter()
            .filter_map(|(socket, peer)| balancers[0].share(socket, peer))
            .collect();
        assert_eq!(kept.len(), 20);
    }

    #[test]
    fn closed_worker_loses_no_connection() {
        let [first, mut second] =
            <[ConnectionBalancer; 2]>::try_from(ConnectionBalancer::of_workers(2)).unwrap();
        let mut kept = Vec::new();
        for (socket, peer) in connections(10) {
            kept.extend(first.share(socket, peer));
        }
        second.close();
        let passed_on = waiting(&mut second);
        assert!(!passed_on.is_empty());
        assert_eq!(kept.len() + passed_on.len(), 10);
        drop(passed_on);
        let before = kept.len();
        for (socket, peer) in connections(10) {
            kept.extend(first.share(socket, peer));
        }
        assert_eq!(kept.len(), before + 10, "it is gone");
    }

    #[test]
    fn handover_during_close_keeps_every_connection() {
        for _ in 0..50 {
            let [first, mut second] =
                <[ConnectionBalancer; 2]>::try_from(ConnectionBalancer::of_workers(2)).unwrap();
            let connections = connections(8);
            let (kept, left) = std::thread::scope(|scope| {
                let sharing = scope.spawn(move || {
                    let shared =
                        connections.into_iter().filter_map(|(socket, peer)| first.share(socket, peer));
                    shared.collect::<Vec<_>>().len()
                });
                let closing = EventLoop::run(async |_| {
                    second.close();
                    let mut left = 0;
                    while let Some(connection) = second.drain_next().await {
                        drop(connection);
                        left += 1;
                    }
                    left
                });
                (sharing.join().unwrap(), closing.unwrap())
            });
            assert_eq!(kept + left, 8);
        }
    }
}
