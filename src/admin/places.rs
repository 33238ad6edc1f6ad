//! Places of a listener, shared among its peers: whoever fills them closes connections of its own.

use super::peer::Peer;
use std::cmp::Reverse;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use tokio::sync::oneshot;

/// A fixed number of places. A peer holds at most a quarter of them.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    holders: Mutex<Holders>,
}

#[derive(Debug, Default)]
struct Holders {
    next: u64,
    /// Oldest first.
    held: Vec<Holder>,
}

#[derive(Debug)]
struct Holder {
    number: u64,
    peer: Peer,
    request: RequestMark,
    /// Dropped when another connection takes the place.
    _taken: oneshot::Sender<()>,
}

/// A connection's place. It is free again when this is dropped, or when another connection has taken it.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    request: RequestMark,
    taken: oneshot::Receiver<()>,
}

/// Set once a connection has sent the whole head of its request.
#[derive(Debug, Clone, Default)]
pub(super) struct RequestMark(Arc<AtomicBool>);

impl RequestMark {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Places {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, holders: Mutex::default() })
    }

    /// Gives a place to a new connection, if need be that of another one; `None` if all are held by peers that come before
    /// this one.
    pub(super) fn take(self: &Arc<Self>, peer: Peer) -> Option<Place> {
        let mut holders = self.holders();
        let own = holders.count(peer);
        if own >= self.most.div_ceil(4) {
            holders.end_one(|holder| holder.peer == peer);
        } else if holders.held.len() >= self.most {
            holders.end_one(|holder| peer.may_give_orders() || !holder.peer.may_give_orders());
        }
        if holders.held.len() >= self.most {
            return None;
        }
        let (sender, taken) = oneshot::channel();
        let (number, request) = (holders.next, RequestMark::default());
        holders.next += 1;
        holders.held.push(Holder { number, peer, request: request.clone(), _taken: sender });
        Some(Place { places: Arc::clone(self), number, request, taken })
    }

    fn holders(&self) -> MutexGuard<'_, Holders> {
        // Ignores poisoning: the list is whole wherever something could panic.
        self.holders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.holders().held.len()
    }
}

impl Holders {
    fn count(&self, peer: Peer) -> usize {
        self.held.iter().filter(|holder| holder.peer == peer).count()
    }

    /// Ends one of these connections: of peers that may give no orders before others, then of the peer that holds most, then
    /// one that has sent no request, then the oldest.
    fn end_one(&mut self, may_end: impl Fn(&Holder) -> bool) {
        let candidates = self.held.iter().enumerate().filter(|(_, holder)| may_end(holder));
        let ended = candidates.min_by_key(|(_, holder)| {
            (holder.peer.may_give_orders(), Reverse(self.count(holder.peer)), holder.request.is_set())
        });
        if let Some((at, _)) = ended {
            self.held.remove(at);
        }
    }
}

impl Place {
    /// Mark of this connection's request.
    pub(super) fn request(&self) -> &RequestMark {
        &self.request
    }

    /// Ready once another connection has taken the place.
    pub(super) fn poll_taken(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.taken.is_terminated() {
            Poll::Ready(())
        } else {
            Pin::new(&mut self.taken).poll(cx).map(|_| ())
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.holders().held.retain(|holder| holder.number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    fn is_open(place: &mut Place) -> bool {
        place.poll_taken(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    fn open(places: &mut [Place]) -> Vec<bool> {
        places.iter_mut().map(is_open).collect()
    }

    fn from(last: u8) -> Peer {
        Peer::address([192, 0, 2, last].into())
    }

    fn user(uid: u32, may_give_orders: bool) -> Peer {
        Peer::User { uid: Some(uid), may_give_orders }
    }

    #[test]
    fn peer_beyond_quarter_loses_own_connection() {
        let places = Places::new(8);
        let mut other = places.take(from(2)).unwrap();
        let mut flood: Vec<_> = (0..2).map(|_| places.take(from(1)).unwrap()).collect();
        flood[0].request().set();
        flood.push(places.take(from(1)).unwrap());
        assert_eq!(open(&mut flood), [true, false, true], "one without a request goes first");
        flood[2].request().set();
        flood.push(places.take(from(1)).unwrap());
        flood[3].request().set();
        flood.push(places.take(from(1)).unwrap());
        assert_eq!(open(&mut flood), [false, false, false, true, true], "then the oldest");
        assert!(is_open(&mut other));
        assert_eq!(places.held(), 3);
    }

    #[test]
    fn full_listener_ends_largest_peer() {
        let places = Places::new(8);
        let mut good = places.take(from(9)).unwrap();
        let mut flood: Vec<_> = [1, 1, 2, 2, 3, 3, 4].map(|last| places.take(from(last)).unwrap()).into();
        for place in &flood {
            place.request().set();
        }
        let mut next = places.take(from(8)).unwrap();
        assert_eq!(open(&mut flood), [false, true, true, true, true, true, true]);
        assert!(is_open(&mut good) && is_open(&mut next), "the oldest connection is not that peer's");
        drop((good, next, flood));
        assert_eq!(places.held(), 0, "each place is given back once");
    }

    #[test]
    fn users_without_orders_displace_no_others() {
        let places = Places::new(8);
        let mut ordering: Vec<_> =
            [0, 0, 1, 1, 2, 2, 3].map(|uid| places.take(user(uid, true)).unwrap()).into();
        let mut looking = places.take(user(12, false)).unwrap();
        let mut next = places.take(user(13, false)).unwrap();
        assert!(!is_open(&mut looking) && is_open(&mut next), "of those who only look, one makes room");
        let mut root = places.take(user(3, true)).unwrap();
        assert!(!is_open(&mut next) && is_open(&mut root));
        assert!(places.take(user(12, false)).is_none(), "all places are of those who may give orders");
        assert!(open(&mut ordering).iter().all(|open| *open));
    }

    #[test]
    fn place_taken_twice_is_given_back_once() {
        let places = Places::new(4);
        let first = places.take(from(1)).unwrap();
        let second = places.take(from(1)).unwrap();
        drop(first);
        assert_eq!(places.held(), 1);
        drop(second);
        assert_eq!(places.held(), 0);
    }
}
