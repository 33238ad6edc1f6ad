//! The account of one source address, with its lock.

use super::account::PortAccount;
use super::destination_key::DestinationKey;
use super::lingering::LingeringPort;
use super::pair_use::PairUse;
use super::port_space::PortSpace;
use super::share::Share;
use super::share_table::ShareTable;
use super::state::SourceState;
use super::visits::ReaperVisits;
use crate::addr::SourceAddr;
use crate::sys::sock_diag::SocketPresence;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Number of due ports freed per lock acquisition in the background.
const PER_LOCK: usize = 1024;

/// Totals of a source address over all destinations.
#[derive(Debug, Clone, Copy)]
pub(super) struct PortTotals {
    pub(super) live: usize,
    pub(super) held: usize,
    pub(super) busiest: u16,
    pub(super) state: SourceState,
}

/// Account of one source address with its own lock, held for a table lookup and a pick, never across a system call.
#[derive(Debug)]
pub(super) struct SourceBook {
    source: SourceAddr,
    account: Mutex<PortAccount>,
    /// Schedule of the reaper's visits.
    visits: Arc<ReaperVisits>,
}

impl SourceBook {
    pub(super) fn new(source: SourceAddr, space: &Arc<PortSpace>, visits: &Arc<ReaperVisits>) -> Self {
        let account = Mutex::new(PortAccount::new(Arc::clone(space), source));
        Self { source, account, visits: Arc::clone(visits) }
    }

    pub(super) fn source(&self) -> SourceAddr {
        self.source
    }

    /// Takes a port that is free towards the destination, under the newest configuration seen by the account. `share`
    /// has claimed it.
    pub(super) fn take(
        &self,
        space: &Arc<PortSpace>,
        to: DestinationKey,
        share: &Share,
        now: Instant,
    ) -> Option<u16> {
        // rand's thread generator is ChaCha, seeded by the kernel: not predictable from ports seen
        let mut rng = rand::rng();
        let mut account = self.lock();
        account.adopt(space, self.source);
        let port = account.take(to, now, &mut rng)?;
        account.count(to, share);
        Some(port)
    }

    pub(super) fn give_back(
        &self,
        to: DestinationKey,
        port: u16,
        rest: Duration,
        share: Share,
        now: Instant,
    ) {
        self.lock().give_back(to, port, rest, share, now);
    }

    /// Ends a lease whose connection may still exist in the kernel.
    pub(super) fn linger(&self, linger: LingeringPort) {
        let visit = self.lock().linger(linger);
        self.schedule_visit(visit);
    }

    /// Starts a visit of the reaper: at most `most` ports to query the kernel about. [`SourceBook::answer_lingering`] must
    /// follow.
    pub(super) fn ask_lingering(
        &self,
        visit: Instant,
        now: Instant,
        most: usize,
    ) -> Vec<(DestinationKey, u16)> {
        self.lock().ask_lingering(visit, now, most)
    }

    /// Frees the ports that the kernel has released. Returns the time of the reaper's next visit.
    pub(super) fn answer_lingering(
        &self,
        answers: &[Option<SocketPresence>],
        now: Instant,
    ) -> Option<Instant> {
        self.lock().answer_lingering(answers, now)
    }

    fn schedule_visit(&self, at: Option<Instant>) {
        if let Some(at) = at {
            self.visits.add(at, self.source);
        }
    }

    pub(super) fn pair(&self, to: DestinationKey, now: Instant) -> PairUse {
        self.release_due(now);
        self.lock().pair(to)
    }

    /// Ports in use towards the destination, including ones that are due.
    pub(super) fn in_use(&self, to: DestinationKey) -> u16 {
        self.lock().pair(to).in_use()
    }

    pub(super) fn totals(&self, space: &Arc<PortSpace>, now: Instant) -> PortTotals {
        self.release_due(now);
        let mut account = self.lock();
        account.adopt(space, self.source);
        let (live, held, busiest) = (account.live(), account.held(), account.busiest());
        PortTotals { live, held, busiest, state: account.state() }
    }

    /// Returns at most `most` of the destinations with many ports in use, the hottest first.
    pub(super) fn hottest(&self, space: &Arc<PortSpace>, most: usize) -> Vec<(DestinationKey, PairUse)> {
        let mut account = self.lock();
        account.adopt(space, self.source);
        account.hottest().take(most).collect()
    }

    /// Frees due ports and unused memory. True if the account is empty.
    pub(super) fn sweep(&self, now: Instant) -> bool {
        self.release_due(now);
        let mut account = self.lock();
        account.shrink();
        account.live() == 0 && account.held() == 0
    }

    /// Applies a newer configuration now, rather than at its first lease.
    pub(super) fn adopt(&self, space: &Arc<PortSpace>) {
        self.lock().adopt(space, self.source);
    }

    /// Removes the ports from the counts of that pool.
    pub(super) fn leave(&self, table: &Arc<ShareTable>) {
        self.lock().leave(table);
    }

    pub(super) fn state(&self) -> SourceState {
        self.lock().state()
    }

    /// Sets the state as in [`super::Pools::set_state`]; returns the resulting one.
    pub(super) fn set_state(&self, state: SourceState) -> SourceState {
        let mut account = self.lock();
        account.set_state(state);
        account.state()
    }

    /// Returns those of the ports that could be leased.
    pub(super) fn free_of(
        &self,
        ports: &[(DestinationKey, u16)],
        now: Instant,
    ) -> Vec<(DestinationKey, u16)> {
        self.release_due(now);
        ports.chunks(PER_LOCK).flat_map(|ports| self.lock().free_of(ports)).collect()
    }

    /// Returns every leased port, in ascending order; none if more than `most` are leased and held.
    pub(super) fn leased(&self, most: usize) -> Vec<(DestinationKey, u16)> {
        let [mut busy, held] = {
            let account = self.lock();
            if account.live() == 0 || account.live() + account.held() > most {
                return Vec::new();
            }
            account.busy_and_held()
        };
        let held: HashSet<_> = held.into_iter().collect();
        busy.retain(|port| !held.contains(port));
        busy.sort_unstable();
        busy
    }

    /// Like [`PortAccount::hold`], under the configuration of `space`. True if the port was free.
    pub(super) fn hold(&self, space: &Arc<PortSpace>, linger: LingeringPort) -> bool {
        let mut account = self.lock();
        account.adopt(space, self.source);
        let (was_free, visit) = account.hold(linger);
        drop(account);
        self.schedule_visit(visit);
        was_free
    }

    /// Frees every held port that is due.
    pub(super) fn release_due(&self, now: Instant) {
        while self.lock().release_due(now, PER_LOCK) {}
    }

    /// Ignores poisoning: a panic in one flow must not disable the address, and the account is consistent between
    /// calls.
    fn lock(&self) -> MutexGuard<'_, PortAccount> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
