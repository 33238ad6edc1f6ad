//! Ports that are held until their connections are gone from the kernel.

use super::destination_key::DestinationKey;
use super::due::{self, Due, EarliestFirst};
use super::share::Share;
use crate::sys::sock_diag::SocketPresence;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

/// Shortest time before the first query about a port: most connections are gone by then, and one batch covers many ports.
const FIRST_LOOK: Duration = Duration::from_millis(10);
/// Longest pause between two queries, which grows by half each time.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Shortest and longest pause while the kernel waits for a timer alone, which a reset can end early. It doubles each time.
const WAITING_PAUSES: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(16));
/// Pause after a query that failed.
const AFTER_FAILURE: Duration = Duration::from_secs(2);
/// Failures in a row after which a port counts as free: 132 s, in which Linux ends `FIN_WAIT2` and `TIME_WAIT`.
const MOST_FAILURES: u8 = 66;

/// A held port, with the schedule of queries about it.
#[derive(Debug)]
pub(super) struct LingeringPort {
    next: Instant,
    pub(super) to: DestinationKey,
    pub(super) port: u16,
    /// Both ends used TCP timestamps, so that a new connection may reuse a socket in `TIME_WAIT`.
    timestamps: bool,
    failures: u8,
    pause: Duration,
    /// The share that the port counts towards while it is held.
    pub(super) share: Share,
}

/// The lingering ports of one source address.
#[derive(Debug, Default)]
pub(super) struct LingeringPorts {
    queue: BinaryHeap<EarliestFirst<LingeringPort>>,
    /// Ports of the current batch of queries, in its order.
    asked: Vec<LingeringPort>,
    /// Time of the reaper's next visit.
    visit: Option<Instant>,
}

impl LingeringPort {
    /// A port with its first query after `first_look`.
    pub(super) fn new(
        (to, port): (DestinationKey, u16),
        first_look: Duration,
        timestamps: bool,
        share: Share,
        now: Instant,
    ) -> Self {
        let next = now + first_look.max(FIRST_LOOK);
        Self { next, to, port, timestamps, failures: 0, pause: FIRST_LOOK, share }
    }

    /// Takes the answer to a query, `None` if the query failed. True if the port is free.
    fn is_freed_by(&mut self, found: Option<SocketPresence>, now: Instant) -> bool {
        self.failures = if found.is_none() { self.failures + 1 } else { 0 };
        let pause = match found {
            Some(SocketPresence::Gone) => return true,
            Some(SocketPresence::Waiting(_)) if self.timestamps => return true,
            Some(SocketPresence::Waiting(left)) => {
                let (shortest, longest) = WAITING_PAUSES;
                self.pause = (self.pause * 2).clamp(shortest, longest);
                self.pause.min(left.max(FIRST_LOOK))
            }
            Some(SocketPresence::Socket) => {
                self.pause = (self.pause * 3 / 2).min(LONGEST_PAUSE);
                self.pause
            }
            None if self.failures >= MOST_FAILURES => return true,
            None => AFTER_FAILURE,
        };
        self.next = now + pause;
        false
    }
}

impl LingeringPorts {
    /// Adds a port. Returns the time of the reaper's next visit if that is sooner than before.
    pub(super) fn push(&mut self, linger: LingeringPort) -> Option<Instant> {
        let next = linger.next;
        self.queue.push(EarliestFirst(linger));
        let is_sooner = self.visit.is_none_or(|visit| next < visit);
        is_sooner.then(|| *self.visit.insert(next))
    }

    /// True if the next visit is at this time. A visit that was replaced by a sooner one is not.
    pub(super) fn expects(&self, visit: Instant) -> bool {
        self.visit == Some(visit)
    }

    /// Starts a batch of at most `most` due ports. [`LingeringPorts::answer`] must follow.
    pub(super) fn ask(&mut self, now: Instant, most: usize) -> Vec<(DestinationKey, u16)> {
        while self.asked.len() < most
            && self.queue.peek().is_some_and(|EarliestFirst(first)| first.next <= now)
        {
            self.asked.extend(self.queue.pop().map(|EarliestFirst(first)| first));
        }
        self.asked.iter().map(|linger| (linger.to, linger.port)).collect()
    }

    /// Takes the answers to the batch, in its order. Returns the ports that are free.
    pub(super) fn answer(&mut self, answers: &[Option<SocketPresence>], now: Instant) -> Vec<LingeringPort> {
        let answers = answers.iter().copied().chain(std::iter::repeat(None));
        let (mut freed, mut kept) = (Vec::new(), Vec::new());
        for (mut linger, found) in self.asked.drain(..).zip(answers) {
            if linger.is_freed_by(found, now) { freed.push(linger) } else { kept.push(EarliestFirst(linger)) }
        }
        self.queue.extend(kept);
        freed
    }

    /// Time of the reaper's next visit; `None` if no port lingers.
    pub(super) fn next_visit(&mut self) -> Option<Instant> {
        self.visit = self.queue.peek().map(|EarliestFirst(first)| first.next);
        self.visit
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len() + self.asked.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (DestinationKey, u16)> {
        let queued = self.queue.iter().map(|EarliestFirst(linger)| linger);
        queued.chain(&self.asked).map(|linger| (linger.to, linger.port))
    }

    /// Gives memory back once less than a quarter of it is in use.
    pub(super) fn shrink(&mut self) {
        due::shrink(&mut self.queue);
        self.asked.shrink_to(self.asked.len());
    }
}

impl Due for LingeringPort {
    fn due(&self) -> Instant {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(first_look: Duration, timestamps: bool, now: Instant) -> LingeringPort {
        LingeringPort::new((DestinationKey::default(), 1), first_look, timestamps, Share::NONE, now)
    }

    /// Time to the next query about a port after one answer; `None` if the port is free.
    fn after(answer: Option<SocketPresence>, timestamps: bool) -> Option<Duration> {
        let now = crate::clock::now();
        let mut lingering = LingeringPorts::default();
        lingering.push(port(Duration::ZERO, timestamps, now));
        let now = now + FIRST_LOOK;
        assert_eq!(lingering.ask(now, 9).len(), 1);
        let freed = lingering.answer(&[answer], now);
        let next = lingering.next_visit().map(|next| next.duration_since(now));
        assert_eq!((freed.len(), lingering.len()), if next.is_none() { (1, 0) } else { (0, 1) });
        next
    }

    #[test]
    fn kernel_answer_decides_release() {
        let left = Duration::from_secs(59);
        for timestamps in [true, false] {
            assert_eq!(after(Some(SocketPresence::Gone), timestamps), None);
            assert_eq!(after(Some(SocketPresence::Socket), timestamps), Some(FIRST_LOOK * 3 / 2));
            assert_eq!(after(None, timestamps), Some(AFTER_FAILURE));
        }
        assert_eq!(after(Some(SocketPresence::Waiting(left)), true), None);
        assert_eq!(after(Some(SocketPresence::Waiting(left)), false), Some(WAITING_PAUSES.0));
        let soon = Duration::from_millis(700);
        assert_eq!(after(Some(SocketPresence::Waiting(soon)), false), Some(soon));
    }

    #[test]
    fn lingering_sockets_are_polled_with_backoff() {
        let mut now = crate::clock::now();
        let mut port = port(Duration::ZERO, false, now);
        let (start, mut questions) = (now, 0);
        while now < start + Duration::from_secs(360) {
            now = port.next;
            assert!(!port.is_freed_by(Some(SocketPresence::Socket), now));
            questions += 1;
        }
        assert!((60..100).contains(&questions), "{questions}");
    }

    #[test]
    fn unanswered_port_is_freed_after_two_time_waits() {
        let start = crate::clock::now();
        let mut port = port(Duration::ZERO, false, start);
        while !port.is_freed_by(None, port.next) {}
        let held = port.next.duration_since(start);
        assert!((Duration::from_secs(120)..Duration::from_secs(140)).contains(&held), "{held:?}");
    }

    #[test]
    fn reaper_wakes_only_for_sooner_visits() {
        let now = crate::clock::now();
        let (soon, late) = (Duration::from_secs(1), Duration::from_secs(60));
        let mut lingering = LingeringPorts::default();
        assert_eq!(lingering.push(port(late, false, now)), Some(now + late));
        assert_eq!(lingering.push(port(late * 2, false, now)), None);
        assert_eq!(lingering.push(port(soon, false, now)), Some(now + soon));
        assert!(lingering.expects(now + soon) && !lingering.expects(now + late));
        assert_eq!(lingering.ask(now, 9), []);
        assert_eq!(lingering.ask(now + soon, 9).len(), 1);
        assert_eq!((lingering.len(), lingering.iter().count()), (3, 3), "held while it is asked about");
        assert_eq!(lingering.answer(&[Some(SocketPresence::Gone)], now + soon).len(), 1);
        assert_eq!(lingering.next_visit(), Some(now + late));
    }
}
