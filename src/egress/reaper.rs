//! The reaper: frees held ports once their connections are gone from the kernel.

use super::destination_key::DestinationKey;
use super::ledger::Ledger;
use crate::addr::{DialAddr, SourceAddr};
use crate::sys::sock_diag::SocketPresence;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Most queries in one round.
const PER_ROUND: usize = 1024;
/// Most queries about one address in a round: workers wait for its lock while the answers are processed.
const PER_ADDRESS: usize = 256;
/// Shortest time between two rounds, so that each has some work.
const BETWEEN: Duration = Duration::from_millis(10);

/// Queries the kernel about the held ports of a ledger. One for each ledger, on a thread of its own.
#[derive(Debug)]
pub struct Reaper {
    ledger: Arc<Ledger>,
    due: BinaryHeap<Reverse<(Instant, SourceAddr)>>,
}

/// Ends the reaper of a ledger when dropped.
#[derive(Debug)]
pub struct ReaperStop(Arc<Ledger>);

impl Drop for ReaperStop {
    fn drop(&mut self) {
        self.0.visits().lock().closed = true;
        self.0.visits().changed.notify_one();
    }
}

impl Reaper {
    /// Creates the reaper of a ledger, and the guard that ends it.
    pub fn new(ledger: &Arc<Ledger>) -> (Self, ReaperStop) {
        let reaper = Self { ledger: Arc::clone(ledger), due: BinaryHeap::new() };
        (reaper, ReaperStop(Arc::clone(ledger)))
    }

    /// Waits until a visit is due. False if the reaper is to end.
    pub fn wait(&mut self) -> bool {
        let earliest = crate::clock::now() + BETWEEN;
        loop {
            let visits = self.ledger.visits();
            let mut wanted = visits.lock();
            if wanted.closed {
                return false;
            }
            self.due.extend(wanted.visits.drain(..).map(Reverse));
            let until = self.due.peek().map(|Reverse((at, _))| (*at).max(earliest));
            let now = crate::clock::now();
            match until.map(|until| until.saturating_duration_since(now)) {
                Some(Duration::ZERO) => return true,
                Some(left) => drop(visits.changed.wait_timeout(wanted, left)),
                None => drop(visits.changed.wait(wanted)),
            }
        }
    }

    /// Queries all ports that are due, and frees those that are gone. `ask` returns an answer for each connection (local and
    /// peer address), `None` where the query failed. It is called with no lock held.
    pub fn reap(
        &mut self,
        now: Instant,
        mut ask: impl FnMut(&[(SocketAddr, SocketAddr)]) -> Vec<Option<SocketPresence>>,
    ) {
        self.due.extend(self.ledger.visits().lock().visits.drain(..).map(Reverse));
        while let Some(round) = self.round(now) {
            let found = ask(&round.pairs);
            let mut answers = found.as_slice();
            for (source, count) in round.asked {
                let (own, rest) = answers.split_at(count.min(answers.len()));
                answers = rest;
                let Some(book) = self.ledger.find(source) else { continue };
                let next = book.answer_lingering(own, now);
                self.due.extend(next.map(|next| Reverse((next, source))));
            }
        }
    }

    /// Collects the queries of a round; `None` if none is due.
    fn round(&mut self, now: Instant) -> Option<ReaperRound> {
        let mut round = ReaperRound::default();
        while round.pairs.len() < PER_ROUND
            && let Some(&Reverse((at, source))) = self.due.peek()
            && at <= now
        {
            self.due.pop();
            let Some(book) = self.ledger.find(source) else { continue };
            let questions = book.ask_lingering(at, now, PER_ADDRESS);
            if !questions.is_empty() {
                round.add(source, &questions);
            }
        }
        (!round.pairs.is_empty()).then_some(round)
    }
}

/// The queries of one round.
#[derive(Default)]
struct ReaperRound {
    pairs: Vec<(SocketAddr, SocketAddr)>,
    /// The number of queries about each address, in order.
    asked: Vec<(SourceAddr, usize)>,
}

impl ReaperRound {
    fn add(&mut self, source: SourceAddr, questions: &[(DestinationKey, u16)]) {
        let pair = |&(to, port): &_| (SocketAddr::new(source.ip(), port), DialAddr::from(to).socket());
        self.pairs.extend(questions.iter().map(pair));
        self.asked.push((source, questions.len()));
    }
}
