//! The listing of a flow as one that holds a lease, and may be revoked.

use super::entry::{FlowEntry, Revocation};
use super::live_flow::RevocationReason;
use super::table::FlowTable;
use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// A flow's listing as one that holds a lease, which ends when this is dropped.
pub struct FlowListing<'a> {
    table: &'a FlowTable,
    entry: Arc<FlowEntry>,
    /// [`FlowTable::revocations`] when the flow last looked; `None` if it never did.
    looked: Cell<Option<u32>>,
}

impl<'a> FlowListing<'a> {
    pub(super) fn new(table: &'a FlowTable, entry: Arc<FlowEntry>) -> Self {
        Self { table, entry, looked: Cell::new(None) }
    }

    /// Runs `life` to completion, unless the flow is revoked before. Costs one atomic load for each poll.
    pub fn unless_revoked<T>(
        &self,
        mut life: Pin<&mut impl Future<Output = T>>,
    ) -> impl Future<Output = Result<T, RevocationReason>> {
        poll_fn(move |cx| match self.poll_revoked(cx) {
            Poll::Ready(why) => Poll::Ready(Err(why)),
            Poll::Pending => life.as_mut().poll(cx).map(Ok),
        })
    }

    pub(super) fn poll_revoked(&self, cx: &Context<'_>) -> Poll<RevocationReason> {
        // Read before the entry: a later revocation changes the count, and wakes the flow.
        let revocations = Some(self.table.revocations());
        if self.looked.replace(revocations) == revocations {
            return Poll::Pending;
        }
        match &mut self.entry.lock().listed {
            Some(listed) => match &mut listed.revocation {
                Revocation::None(waker) => {
                    *waker = Some(cx.waker().clone());
                    Poll::Pending
                }
                Revocation::Revoked(why) => Poll::Ready(*why),
            },
            // Unreachable: the entry is listed for as long as this lives.
            None => Poll::Ready(RevocationReason("it is not listed")),
        }
    }
}

impl Drop for FlowListing<'_> {
    fn drop(&mut self) {
        self.entry.lock().listed = None;
    }
}
