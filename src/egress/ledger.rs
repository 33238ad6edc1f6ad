//! The account of all ports of the process.

use super::book::SourceBook;
use super::pair_use::PairUse;
use super::port_space::PortSpace;
use super::share_table::ShareTable;
use super::visits::ReaperVisits;
use crate::addr::{DialAddr, LeasedSource, SourceAddr};
use dashmap::DashMap;
use hashbrown::DefaultHashBuilder;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

/// Shards of the table of books. It is asked only for addresses derived per client, and at reload.
const SHARDS: usize = 64;
/// Memory of so many books that are gone is kept for those to come.
const SPARE: usize = 1024;
/// Books that one sweep looks at, at most about.
const PER_SWEEP: usize = 16_384;

/// Every source port that flows leave from. One lives as long as the process; configurations come and go above it, so
/// that the leases of an old one still count in the next.
#[derive(Debug)]
pub struct Ledger {
    books: DashMap<SourceAddr, Arc<SourceBook>, DefaultHashBuilder>,
    /// The part at which the next sweep goes on.
    cursor: AtomicUsize,
    collisions: AtomicU64,
    /// Those that nobody has explained yet, at most [`REMEMBERED`].
    unexplained: Mutex<Vec<(LeasedSource, DialAddr)>>,
    generations: AtomicU64,
    /// By the name of the pool.
    shares: Mutex<HashMap<Arc<str>, Weak<ShareTable>>>,
    visits: Arc<ReaperVisits>,
}

/// Collisions that are kept until somebody asks who was in the way.
const REMEMBERED: usize = 64;

impl Default for Ledger {
    fn default() -> Self {
        Self::new()
    }
}

impl Ledger {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            books: DashMap::with_capacity_and_hasher_and_shard_amount(
                0,
                DefaultHashBuilder::default(),
                SHARDS,
            ),
            cursor: AtomicUsize::new(0),
            collisions: AtomicU64::new(0),
            unexplained: Mutex::default(),
            generations: AtomicU64::new(0),
            shares: Mutex::default(),
            visits: Arc::default(),
        }
    }

    /// Number of ports that the ledger thought free and the kernel had in use. 0 unless something else binds ports of
    /// the pools, or Egret's picture of Linux is wrong.
    pub fn collisions(&self) -> u64 {
        self.collisions.load(Ordering::Relaxed)
    }

    /// The collisions since the last call, at most 64 of them: what was leased, towards which destination.
    pub fn take_collisions(&self) -> Vec<(LeasedSource, DialAddr)> {
        std::mem::take(&mut self.unexplained.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Use of the ports between a source address and a destination; `None` if the source was never used or has
    /// been forgotten.
    pub fn pair(&self, source: SourceAddr, to: DialAddr, now: Instant) -> Option<PairUse> {
        Some(self.find(source)?.pair(to.into(), now))
    }

    /// Brings back held ports that are due, and forgets addresses that no configuration names and nobody uses. To be
    /// called about once a second. It looks at some 16,000 addresses at most and goes on from there the next time.
    pub fn sweep(&self, now: Instant) {
        let part = self.cursor.fetch_add(1, Ordering::Relaxed);
        let mut forgotten = 0;
        for book in self.part(part) {
            if book.sweep(now) {
                let source = book.source();
                drop(book);
                forgotten += usize::from(self.forget(source, now));
            }
        }
        if forgotten > 0 && self.books.capacity() > self.books.len() * 4 + SPARE {
            self.books.shrink_to_fit();
        }
    }

    /// Removes a book that only the table knows. Whoever has got hold of one, a pool or a lease, got it under the lock that
    /// is held meanwhile: nobody can be about to use a book that is removed.
    fn forget(&self, source: SourceAddr, now: Instant) -> bool {
        let is_unused =
            |_: &SourceAddr, book: &mut Arc<SourceBook>| Arc::strong_count(book) == 1 && book.sweep(now);
        self.books.remove_if_mut(&source, is_unused).is_some()
    }

    /// Some 16,000 of the books: part by part, all of them.
    fn part(&self, part: usize) -> Vec<Arc<SourceBook>> {
        let parts = self.books.len() / PER_SWEEP + 1;
        let hasher = self.books.hasher();
        #[expect(clippy::cast_possible_truncation, reason = "any bits of a hash will do")]
        let is_in_part = |source: &SourceAddr| hasher.hash_one(source) as usize % parts == part % parts;
        self.books.iter().filter(|book| is_in_part(book.key())).map(|book| Arc::clone(&book)).collect()
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

    /// The reaper's due visits.
    pub(super) fn visits(&self) -> &ReaperVisits {
        &self.visits
    }

    pub(super) fn count_collision(&self, source: LeasedSource, to: DialAddr) {
        self.collisions.fetch_add(1, Ordering::Relaxed);
        let mut unexplained = self.unexplained.lock().unwrap_or_else(PoisonError::into_inner);
        if unexplained.len() < REMEMBERED {
            unexplained.push((source, to));
        }
    }

    pub(super) fn find(&self, source: SourceAddr) -> Option<Arc<SourceBook>> {
        self.books.get(&source).map(|book| Arc::clone(&book))
    }

    /// The book of an address, opened with `space` if it is new.
    pub(super) fn open(&self, source: SourceAddr, space: &Arc<PortSpace>) -> Arc<SourceBook> {
        let new = || Arc::new(SourceBook::new(source, space, &self.visits));
        Arc::clone(&self.books.entry(source).or_insert_with(new))
    }

    /// Calls `each` for every book, with no lock held meanwhile.
    pub(super) fn for_each(&self, mut each: impl FnMut(&SourceBook)) {
        let books: Vec<_> = self.books.iter().map(|book| Arc::clone(&book)).collect();
        for book in books {
            each(&book);
        }
    }

    /// Calls `each` for some 16,000 books, of the part that `cursor` counts, with no lock held meanwhile.
    pub(super) fn for_some(&self, cursor: &mut usize, mut each: impl FnMut(&SourceBook)) {
        let books = self.part(*cursor);
        *cursor = cursor.wrapping_add(1);
        for book in books {
            each(&book);
        }
    }
}
