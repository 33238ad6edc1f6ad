//! Comparison of the account with the kernel.

use super::super::destination_key::DestinationKey;
use super::super::lingering::LingeringPort;
use super::PortAccount;
use crate::sys::sock_diag::SocketPresence;
use std::time::Instant;

impl PortAccount {
    /// Returns those of `ports` that could be leased.
    pub(in crate::egress) fn free_of(&self, ports: &[(DestinationKey, u16)]) -> Vec<(DestinationKey, u16)> {
        let is_free = |&&(to, port): &&(DestinationKey, u16)| {
            let taken = |slot| self.pairs.get(&to).is_some_and(|pair| pair.ports.contains(slot));
            self.space.slot(port).is_some_and(|slot| !taken(slot))
        };
        ports.iter().filter(is_free).copied().collect()
    }

    /// Returns every port that is live or held, and every port that is held.
    pub(in crate::egress) fn busy_and_held(&self) -> [Vec<(DestinationKey, u16)>; 2] {
        let mut busy = Vec::with_capacity(self.live() + self.held());
        for (&to, pair) in &self.pairs {
            let slots = pair.ports.slots(self.space.capacity());
            busy.extend(slots.into_iter().map(|slot| (to, self.space.port(slot))));
        }
        busy.extend(&self.strays);
        let resting = self.resting.iter().map(|rested| (rested.to, rested.port));
        [busy, resting.chain(self.lingering.iter()).collect()]
    }

    /// Ends a lease whose connection may still exist in the kernel: the port counts for its tenant until that is gone.
    /// Returns the reaper's next visit if that is sooner than before.
    pub(in crate::egress) fn linger(&mut self, linger: LingeringPort) -> Option<Instant> {
        self.live -= 1;
        if let Some(pair) = self.space.slot(linger.port).and_then(|_| self.pairs.get_mut(&linger.to)) {
            pair.held += 1;
        }
        self.lingering.push(linger)
    }

    /// Holds a port while the kernel uses it. Returns true if it was free, and the reaper's next visit if that is
    /// sooner.
    pub(in crate::egress) fn hold(&mut self, linger: LingeringPort) -> (bool, Option<Instant>) {
        let was_free = self.occupy(linger.to, linger.port);
        let visit = if was_free { self.lingering.push(linger) } else { None };
        (was_free, visit)
    }

    /// Returns ports to query the kernel about, if the reaper's visit is expected now.
    pub(in crate::egress) fn ask_lingering(
        &mut self,
        visit: Instant,
        now: Instant,
        most: usize,
    ) -> Vec<(DestinationKey, u16)> {
        if self.lingering.expects(visit) { self.lingering.ask(now, most) } else { Vec::new() }
    }

    /// Frees the ports that the kernel has released. Returns the time of the reaper's next visit.
    pub(in crate::egress) fn answer_lingering(
        &mut self,
        answers: &[Option<SocketPresence>],
        now: Instant,
    ) -> Option<Instant> {
        for LingeringPort { to, port, share, .. } in self.lingering.answer(answers, now) {
            self.release_held(to, port, &share);
        }
        self.lingering.next_visit()
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
