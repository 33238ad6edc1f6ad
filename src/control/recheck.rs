//! Thread that verifies live flows after a change of policy: lookups may be slow, and so may a scan of all flows.

use crate::gateway::{GatewayState, RecheckSettings, ReevaluationCounts};
use crate::sys::priority;
use crate::threads;
use std::io;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Handle for requests. The thread ends when it is dropped.
pub(crate) struct RecheckHandle(mpsc::Sender<()>);

impl RecheckHandle {
    pub(crate) fn start(gateway: Arc<GatewayState>, how: RecheckSettings) -> io::Result<Self> {
        // One pending request is enough: it covers all flows present when it is handled.
        let (orders, ordered) = mpsc::channel(1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        threads::spawn("recheck", move || {
            priority::yield_to_others();
            runtime.block_on(gateway.recheck(how, ordered));
        })?;
        Ok(Self(orders))
    }

    /// Requests a recheck if any flow has to be verified.
    pub(crate) fn order(&self, judged: ReevaluationCounts) {
        if judged.unproved > 0 {
            // A pending request covers this one.
            let _ = self.0.try_send(());
        }
    }
}
