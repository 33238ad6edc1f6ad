//! Orders that another thread carries out, one after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::oneshot;

/// Error of an order that comes after the last one that is carried out, or was waiting then.
pub const NO_MORE_ORDERS: &str =
    "the gateway carries out no orders any more: it is stopping, and its log says why";

/// Error of an order that panicked.
pub const ORDER_BUG: &str =
    "the order failed in a way that is a bug; please report it, with what the gateway's log says";

/// An order that has been taken, for whoever waits for its result.
#[derive(Debug)]
pub struct PendingOrder<A> {
    answer: oneshot::Receiver<A>,
    begun: Arc<AtomicBool>,
}

/// The same, for the thread that carries it out.
#[derive(Debug)]
pub struct OrderReply<A> {
    answer: oneshot::Sender<A>,
    begun: Arc<AtomicBool>,
}

/// Creates both ends of an order.
pub fn pending_order<A>() -> (OrderReply<A>, PendingOrder<A>) {
    let (sender, answer) = oneshot::channel();
    let begun = Arc::new(AtomicBool::new(false));
    (OrderReply { answer: sender, begun: Arc::clone(&begun) }, PendingOrder { answer, begun })
}

impl<A> OrderReply<A> {
    /// Notes that the order is being carried out, and waits behind no other any more.
    pub fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    /// Sends the result, which nobody may wait for any more.
    pub fn send(self, answer: A) {
        let _ = self.answer.send(answer);
    }
}

impl<A> PendingOrder<A> {
    /// Waits for the result. `None` if there will be none: the order has panicked if it has begun, else the thread has ended.
    pub(super) async fn answer(&mut self) -> Option<A> {
        (&mut self.answer).await.ok()
    }

    /// False while other orders are carried out before it.
    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }
}
