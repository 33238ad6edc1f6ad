//! State shared by all workers, and state shared by the flows of one worker.

use super::admission::Gate;
use super::flow::{Epilogue, Sink};
use super::flow_table::FlowTable;
use super::meters::{Meters, Seat, Seated, TenantMeters};
use super::mismatches::Mismatches;
use super::snapshot::Snapshot;
use crate::clock;
use crate::egress::Dialler;
use crate::inspect::Peeker;
use crate::outcome::Outcome;
use crate::relay::{Scratch, Silence};
use crate::sys::event_loop::EventLoop;
use crate::sys::liveness::Liveness;
use arc_swap::ArcSwap;
use metrics::Counter;
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

/// State shared by all workers.
pub struct Gateway {
    /// The running configuration.
    pub snapshot: ArcSwap<Snapshot>,
    /// Limit on flows, as many as descriptors allow.
    pub flows: Arc<Gate>,
    /// The flows that hold a port.
    pub table: FlowTable,
    /// Meters of flows of no tenant.
    pub nobody: TenantMeters,
    /// `egret_accept_errors_total`
    pub accept_errors: Counter,
    /// Sample of flows whose address was not one of their name's.
    pub mismatches: Mismatches,
    /// Receiver of the records of ended flows.
    pub sink: Sink,
    /// Drawn once per process: the first part of flow ids.
    pub process: u32,
    /// Counts flows: the second part of flow ids.
    pub count: AtomicU64,
}

/// Settings of a worker's flows.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
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
    pub silence: Silence,
    /// Most pipes that one worker may have open.
    pub most_pipes: usize,
}

/// State shared by the flows of one worker.
pub(super) struct Worker {
    pub(super) gateway: Arc<Gateway>,
    pub(super) event_loop: Rc<EventLoop>,
    pub(super) peeker: Peeker,
    pub(super) settings: Settings,
    pub(super) scratch: Scratch,
    pub(super) epilogue: Rc<Epilogue>,
    /// Its right to count.
    pub(super) seat: Seated,
    /// Meters of flows of no tenant.
    pub(super) nobody: Meters,
    complained: Cell<Option<Instant>>,
}

/// Shortest interval between a worker's log lines about the machine: an error may hit every flow, and stderr may be
/// read slowly.
const BETWEEN_COMPLAINTS: Duration = Duration::from_secs(1);

impl Worker {
    pub(super) fn new(
        gateway: Arc<Gateway>,
        settings: Settings,
        seat: Seat,
        event_loop: Rc<EventLoop>,
    ) -> Self {
        let seat = seat.take();
        let epilogue =
            Epilogue { sink: Arc::clone(&gateway.sink), cut_off: Cell::new(Outcome::InternalError) };
        Self {
            nobody: gateway.nobody.of(&seat),
            seat,
            gateway,
            event_loop,
            peeker: Peeker::new(settings.max_hello, settings.inspect_deadline),
            scratch: Scratch::new(settings.most_pipes),
            settings,
            epilogue: Rc::new(epilogue),
            complained: Cell::new(None),
        }
    }

    /// Logs an error of the machine, rate-limited. The flow's record has its outcome anyway.
    pub(super) fn complain(&self, what: &'static str, error: &io::Error) {
        let now = clock::now();
        let due = self.complained.get().is_none_or(|last| now.duration_since(last) >= BETWEEN_COMPLAINTS);
        if due {
            self.complained.set(Some(now));
            tracing::error!(%error, "{what}");
        }
    }
}
