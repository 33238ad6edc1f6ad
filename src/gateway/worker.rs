//! What workers share, and what the flows of one worker share.

use super::admission::Gate;
use super::flow::{Epilogue, Sink};
use super::flow_table::FlowTable;
use super::meters::{Meters, Seat, Seated, TenantMeters};
use super::mismatches::Mismatches;
use super::snapshot::Snapshot;
use crate::clock;
use crate::count::Counter;
use crate::egress::Dialler;
use crate::inspect::Peeker;
use crate::outcome::Outcome;
use crate::relay::{Scratch, Silence};
use crate::sys::event_loop::EventLoop;
use crate::sys::listener::Liveness;
use arc_swap::ArcSwap;
use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

/// What all workers share.
pub struct Gateway {
    /// The running configuration.
    pub snapshot: ArcSwap<Snapshot>,
    /// Places for flows, as many as descriptors allow.
    pub flows: Arc<Gate>,
    /// The flows that hold a port.
    pub table: FlowTable,
    /// Meters of flows that are nobody's.
    pub nobody: TenantMeters,
    /// `egret_accept_errors_total`
    pub accept_errors: Counter,
    /// Flows whose address was none of their name's.
    pub mismatches: Mismatches,
    /// Takes the records of ended flows.
    pub sink: Sink,
    /// Drawn once per process: the first part of flow ids.
    pub process: u32,
    /// Counts flows: the second part of flow ids.
    pub count: AtomicU64,
}

/// How a worker treats its flows.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Bytes that a hello may have.
    pub max_hello: usize,
    /// Time that a client has to send it.
    pub inspect_deadline: Duration,
    /// Whether both legs keep the traffic class of the client's SYN.
    pub keeps_class: bool,
    /// How upstreams are dialled.
    pub dialler: Dialler,
    /// When a peer that does not answer counts as dead.
    pub liveness: Liveness,
    /// How long flows may be silent.
    pub silence: Silence,
    /// Pipes that one worker may have open.
    pub most_pipes: usize,
}

/// What the flows of one worker share.
pub(super) struct Worker {
    pub(super) gateway: Arc<Gateway>,
    pub(super) event_loop: Rc<EventLoop>,
    pub(super) peeker: Peeker,
    pub(super) settings: Settings,
    pub(super) scratch: Scratch,
    pub(super) epilogue: Rc<Epilogue>,
    /// Where it counts.
    pub(super) seat: Seated,
    /// Counts the flows that are nobody's.
    pub(super) nobody: Meters,
    complained: Cell<Option<Instant>>,
}

/// A worker says what is wrong with the machine at most this often: it may go wrong for every flow, and who reads
/// stderr may be slow.
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

    /// Logs an error of the machine's, unless one was logged a moment ago. The flow's record has its outcome anyway.
    pub(super) fn complain(&self, what: &'static str, error: &io::Error) {
        let now = clock::now();
        let due = self.complained.get().is_none_or(|last| now.duration_since(last) >= BETWEEN_COMPLAINTS);
        if due {
            self.complained.set(Some(now));
            tracing::error!(%error, "{what}");
        }
    }
}
