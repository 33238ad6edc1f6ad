//! Preview of a flow's lease, without taking it.

use super::super::addresses;
use super::super::pair_use::PairUse;
use super::super::sources::AddressCandidate;
use super::super::state::SourceState;
use super::{Pool, SourceSelection};
use crate::addr::{ClientAddr, DialAddr, SourceAddr};
use crate::family::Family;
use std::time::Instant;

impl Pool {
    /// Source address of a flow that began now, and its port usage towards the destination: a full address only if all
    /// are. Where `least-used` has a tie, the flow itself may get another.
    pub fn next(&self, client: ClientAddr, to: DialAddr, now: Instant) -> Option<(SourceAddr, PairUse)> {
        let (sources, hash) = (self.sources(Family::of(to.ip())), addresses::hash(client.ip()));
        let look = |n: usize| {
            let source = match sources.candidate(hash, n) {
                AddressCandidate::Listed(book) if book.state() != SourceState::Available => return None,
                AddressCandidate::Listed(book) => book.source(),
                AddressCandidate::Derived(address) => address,
            };
            let unused = PairUse { capacity: self.capacity(), live: 0, held: 0 };
            Some((source, self.ledger.pair(source, to, now).unwrap_or(unused)))
        };
        let has_room = |(_, in_use): &(_, PairUse)| in_use.free() > 0;
        let with_room = |n: usize| look(n).filter(has_room);
        let found = match self.select {
            SourceSelection::Paired => sources.by_weight(hash).find_map(with_room),
            SourceSelection::LeastUsed => {
                sources.by_use(hash, |source| self.in_use(source, to.into())).find_map(with_room)
            }
        };
        found.or_else(|| sources.by_weight(hash).find_map(look))
    }

    /// Addresses that give out no new ports now.
    pub fn out_of_use(&self) -> Vec<SourceAddr> {
        let books = self.v4.listed().chain(self.v6.listed());
        books.filter(|book| book.state() != SourceState::Available).map(|book| book.source()).collect()
    }
}
