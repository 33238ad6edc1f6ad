//! State shared by all workers, and state shared by the flows of one worker.

use super::address_mismatches::AddressMismatchLog;
use super::admission::Limit;
use super::meters::{CellWriter, CellWriterClaim, Meters, TenantMeters};
use super::snapshot::Snapshot;
use crate::clock;
use crate::egress::Dialler;
use crate::flow::{FlowOpener, FlowTable};
use crate::inspect::Peeker;
use crate::relay::{IdleTimeouts, WorkerScratch};
use crate::sys::event_loop::EventLoop;
use crate::sys::liveness::Liveness;
use arc_swap::ArcSwap;
use metrics::Counter;
use std::cell::Cell;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

/// State shared by all workers.
pub struct GatewayState {
    /// The running configuration.
    pub snapshot: ArcSwap<Snapshot>,
    /// Limit on flows, as many as descriptors allow.
    pub flows: Arc<Limit>,
    /// Limit on attempts to dial beyond each flow's first.
    pub attempts: Arc<Limit>,
    /// All flows.
    pub table: Arc<FlowTable>,
    /// Meters of flows of no tenant.
    pub nobody: TenantMeters,
    /// Number of workers that may still begin flows.
    pub accepting: AtomicU32,
    /// `egret_accept_errors_total`
    pub accept_errors: Counter,
    /// Sample of flows whose address was not one of their name's.
    pub mismatches: AddressMismatchLog,
    /// Drawn once per process: the first part of flow ids.
    pub process: u32,
    /// Counts flows: the second part of flow ids.
    pub count: AtomicU64,
}

/// Settings of a worker's flows.
#[derive(Debug, Clone, Copy)]
pub struct FlowSettings {
    /// Most bytes of a hello.
    pub max_hello: usize,
    /// Time for the client to send it.
    pub inspect_deadline: Duration,
    /// True if both legs keep the traffic class of the client's SYN.
    pub keeps_class: bool,
    /// Dialler of upstream connections.
    pub dialler: Dialler,
    /// Keepalive: when a peer that does not answer counts as dead.
    pub liveness: Liveness,
    /// Idle and half-open timeouts.
    pub silence: IdleTimeouts,
    /// Most pipes that one worker may have open.
    pub most_pipes: usize,
}

/// State shared by the flows of one worker.
pub(super) struct Worker {
    pub(super) gateway: Arc<GatewayState>,
    pub(super) event_loop: Rc<EventLoop>,
    pub(super) peeker: Peeker,
    pub(super) settings: FlowSettings,
    pub(super) scratch: WorkerScratch,
    pub(super) opener: Rc<FlowOpener>,
    /// Its right to count.
    pub(super) writer: CellWriter,
    /// Meters of flows of no tenant.
    pub(super) nobody: Meters,
    complained: Cell<Option<Instant>>,
}

/// Shortest interval between a worker's log lines about the machine: an error may hit every flow, and stderr may be
/// read slowly.
const BETWEEN_COMPLAINTS: Duration = Duration::from_secs(1);

impl Worker {
    pub(super) fn new(
        gateway: Arc<GatewayState>,
        settings: FlowSettings,
        claim: CellWriterClaim,
        event_loop: Rc<EventLoop>,
    ) -> Self {
        let writer = claim.take();
        Self {
            opener: FlowOpener::new(Arc::clone(&gateway.table)),
            nobody: gateway.nobody.of(&writer),
            writer,
            gateway,
            event_loop,
            peeker: Peeker::new(settings.max_hello, settings.inspect_deadline),
            scratch: WorkerScratch::new(settings.most_pipes),
            settings,
            complained: Cell::new(None),
        }
    }

    /// Logs an error of the machine, rate-limited. The flow's record has its outcome anyway.
    pub(super) fn complain(&self, what: fmt::Arguments<'_>, error: &io::Error) {
        let now = clock::now();
        let due = self.complained.get().is_none_or(|last| now.duration_since(last) >= BETWEEN_COMPLAINTS);
        if due {
            self.complained.set(Some(now));
            tracing::error!(%error, "{what}");
        }
    }
}
