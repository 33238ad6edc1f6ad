//! The account held against the kernel.

use super::super::resting::Rested;
use super::super::share::Share;
use super::{Account, DestinationKey};
use std::time::{Duration, Instant};

impl Account {
    /// Of these, the ports that could be leased.
    pub(in crate::egress) fn free_of(&self, ports: &[(DestinationKey, u16)]) -> Vec<(DestinationKey, u16)> {
        let is_free = |&&(to, port): &&(DestinationKey, u16)| {
            let taken = |slot| self.pairs.get(&to).is_some_and(|pair| pair.ports.contains(slot));
            self.space.slot(port).is_some_and(|slot| !taken(slot))
        };
        ports.iter().filter(is_free).copied().collect()
    }

    /// Every port that is live or held, and every one that is held.
    pub(in crate::egress) fn busy_and_held(&self) -> [Vec<(DestinationKey, u16)>; 2] {
        let mut busy = Vec::with_capacity(self.live() + self.held());
        for (&to, pair) in &self.pairs {
            let slots = pair.ports.slots(self.space.capacity());
            busy.extend(slots.into_iter().map(|slot| (to, self.space.port(slot))));
        }
        busy.extend(&self.strays);
        let resting = self.resting.iter().map(|rested| (rested.to, rested.port));
        [busy, resting.chain(self.pinned.iter().copied()).collect()]
    }

    /// Holds a port that the kernel has in use, for as long as it says so. Whether the port was free.
    pub(in crate::egress) fn pin(&mut self, to: DestinationKey, port: u16) -> bool {
        let was_free = self.occupy(to, port);
        if was_free {
            self.pinned.insert((to, port));
        }
        was_free
    }

    /// The kernel has the port in use no more, or has said for how long it still will.
    pub(in crate::egress) fn unpin(&mut self, to: DestinationKey, port: u16, rest: Duration, now: Instant) {
        if self.pinned.remove(&(to, port)) {
            self.resting.push(Rested { until: now + rest, to, port, share: Share::NONE });
        }
    }

    /// Holds a port for a time. Whether it was free.
    pub(in crate::egress) fn hold(
        &mut self,
        to: DestinationKey,
        port: u16,
        rest: Duration,
        now: Instant,
    ) -> bool {
        let was_free = self.occupy(to, port);
        if was_free {
            self.resting.push(Rested { until: now + rest, to, port, share: Share::NONE });
        }
        was_free
    }

    fn occupy(&mut self, to: DestinationKey, port: u16) -> bool {
        if self.free_of(&[(to, port)]).is_empty() {
            return false;
        }
        self.mark_busy(to, port);
        if let Some(pair) = self.pairs.get_mut(&to) {
            pair.held += 1;
        }
        true
    }
}
