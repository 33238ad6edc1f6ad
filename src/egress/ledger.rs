//! The account of all ports of the process.

use super::book::{Book, PairUse};
use super::port_space::PortSpace;
use super::reaper::Visits;
use super::share_table::ShareTable;
use crate::addr::{DialAddr, LeasedSource, SourceAddr};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

/// Shards of the table of books. It is asked only for addresses derived per client, and at reload.
const SHARDS: usize = 64;
/// Books that one sweep looks at, at most about.
const PER_SWEEP: usize = 16_384;

/// Every source port that flows leave from. One lives as long as the process; configurations come and go above it, so
/// that the leases of an old one still count in the next.
#[derive(Debug)]
pub struct Ledger {
    shards: Box<[Shard]>,
    /// The shard at which the next sweep goes on.
    cursor: AtomicUsize,
    collisions: AtomicU64,
    /// Those that nobody has explained yet, at most [`REMEMBERED`].
    unexplained: Mutex<Vec<(LeasedSource, DialAddr)>>,
    generations: AtomicU64,
    /// By the name of the pool.
    shares: Mutex<HashMap<Arc<str>, Weak<ShareTable>>>,
    visits: Arc<Visits>,
}

/// Collisions that are kept until somebody asks who was in the way.
const REMEMBERED: usize = 64;

type Shard = Mutex<HashMap<SourceAddr, Arc<Book>>>;

impl Default for Ledger {
    fn default() -> Self {
        Self::new()
    }
}

impl Ledger {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            cursor: AtomicUsize::new(0),
            collisions: AtomicU64::new(0),
            unexplained: Mutex::default(),
            generations: AtomicU64::new(0),
            shares: Mutex::default(),
            visits: Arc::default(),
        }
    }

    /// How often a port that the ledger thought free was taken in the kernel. 0 unless something else binds ports of
    /// the pools, or Egret's picture of Linux is wrong.
    pub fn collisions(&self) -> u64 {
        self.collisions.load(Ordering::Relaxed)
    }

    /// The collisions since the last call, at most 64 of them: what was leased, towards which destination.
    pub fn take_collisions(&self) -> Vec<(LeasedSource, DialAddr)> {
        std::mem::take(&mut self.unexplained.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How the ports between a source address and a destination are used; `None` if the source was never used or has
    /// been forgotten.
    pub fn pair(&self, source: SourceAddr, to: DialAddr, now: Instant) -> Option<PairUse> {
        Some(self.find(source)?.pair(to.into(), now))
    }

    /// Brings back held ports that are due, and forgets addresses that no configuration names and nobody uses. To be
    /// called about once a second. It looks at some 16,000 addresses at most and goes on from there the next time.
    pub fn sweep(&self, now: Instant) {
        let mut seen = 0;
        for _ in 0..SHARDS {
            let shard = &self.shards[self.cursor.fetch_add(1, Ordering::Relaxed) % SHARDS];
            let books: Vec<_> = lock(shard).values().map(Arc::clone).collect();
            seen += books.len();
            let idle: Vec<_> =
                books.iter().filter(|book| book.sweep(now)).map(|book| book.source()).collect();
            drop(books);
            forget(shard, &idle, now);
            if seen >= PER_SWEEP {
                break;
            }
        }
    }

    /// One more than every generation before.
    pub(super) fn next_generation(&self) -> u64 {
        self.generations.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The counts of the tenants that share the pool of that name: those of the last configuration, as long as that
    /// or a port of one of its tenants is still there.
    pub(super) fn shares(&self, pool: &Arc<str>) -> Arc<ShareTable> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        shares.retain(|_, table| table.strong_count() > 0);
        if let Some(table) = shares.get(pool).and_then(Weak::upgrade) {
            return table;
        }
        let table = Arc::new(ShareTable::default());
        shares.insert(Arc::clone(pool), Arc::downgrade(&table));
        table
    }

    /// Where the reaper is told to come.
    pub(super) fn visits(&self) -> &Visits {
        &self.visits
    }

    pub(super) fn count_collision(&self, source: LeasedSource, to: DialAddr) {
        self.collisions.fetch_add(1, Ordering::Relaxed);
        let mut unexplained = self.unexplained.lock().unwrap_or_else(PoisonError::into_inner);
        if unexplained.len() < REMEMBERED {
            unexplained.push((source, to));
        }
    }

    pub(super) fn find(&self, source: SourceAddr) -> Option<Arc<Book>> {
        lock(self.shard(source)).get(&source).cloned()
    }

    /// The book of an address, opened with `space` if it is new.
    pub(super) fn open(&self, source: SourceAddr, space: &Arc<PortSpace>) -> Arc<Book> {
        let mut books = lock(self.shard(source));
        Arc::clone(books.entry(source).or_insert_with(|| Arc::new(Book::new(source, space, &self.visits))))
    }

    /// Calls `each` for every book, with no lock held meanwhile.
    pub(super) fn for_each(&self, mut each: impl FnMut(&Book)) {
        for shard in &self.shards {
            let books: Vec<_> = lock(shard).values().map(Arc::clone).collect();
            for book in books {
                each(&book);
            }
        }
    }

    /// Calls `each` for some 16,000 books, from the shard on that `cursor` counts, with no lock held meanwhile.
    pub(super) fn for_some(&self, cursor: &mut usize, mut each: impl FnMut(&Book)) {
        let mut seen = 0;
        for _ in 0..SHARDS {
            let books: Vec<_> = lock(&self.shards[*cursor % SHARDS]).values().map(Arc::clone).collect();
            *cursor = cursor.wrapping_add(1);
            seen += books.len();
            for book in books {
                each(&book);
            }
            if seen >= PER_SWEEP {
                break;
            }
        }
    }

    fn shard(&self, source: SourceAddr) -> &Shard {
        // the lowest bits: neighbours, and the derived addresses of a prefix, spread over all shards
        let low = match source.ip() {
            std::net::IpAddr::V4(ip) => ip.octets()[3],
            std::net::IpAddr::V6(ip) => ip.octets()[15],
        };
        &self.shards[usize::from(low) % SHARDS]
    }
}

/// Removes those of the books that only the table knows. Whoever has got hold of one, a pool or a lease, got it under
/// the shard's lock, which is held here: nobody can be about to use a book that is removed.
fn forget(shard: &Shard, idle: &[SourceAddr], now: Instant) {
    if idle.is_empty() {
        return;
    }
    let mut books = lock(shard);
    for source in idle {
        if books.get(source).is_some_and(|book| Arc::strong_count(book) == 1 && book.sweep(now)) {
            books.remove(source);
        }
    }
    if books.len() < books.capacity() / 4 {
        let room = books.len() * 2;
        books.shrink_to(room);
    }
}

fn lock(shard: &Shard) -> MutexGuard<'_, HashMap<SourceAddr, Arc<Book>>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
