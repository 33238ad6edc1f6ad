//! The thread on which live flows are asked what another policy asks of them: lookups may take long, and so may a look at
//! every flow.

use crate::gateway::{Gateway, Judged, Recheck};
use crate::sys::priority;
use std::io;
use std::sync::Arc;
use std::thread;
use tokio::sync::mpsc;

/// Where that is ordered. The thread ends when this is gone.
pub(super) struct Rechecks(mpsc::Sender<()>);

impl Rechecks {
    pub(super) fn start(gateway: Arc<Gateway>, how: Recheck) -> io::Result<Self> {
        // One order that waits is enough: when it is its turn, all is looked at that is there.
        let (orders, ordered) = mpsc::channel(1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("recheck".to_owned()).spawn(move || {
            priority::yield_to_others();
            runtime.block_on(gateway.recheck(how, ordered));
        })?;
        Ok(Self(orders))
    }

    /// Has those flows asked that go on only if something is found out of them.
    pub(super) fn order(&self, judged: Judged) {
        if judged.unproved > 0 {
            // If an order waits already, it is this one too.
            let _ = self.0.try_send(());
        }
    }
}
