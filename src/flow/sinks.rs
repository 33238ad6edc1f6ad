//! Events of flows, and their receivers.

use super::entry::FlowEntry;
use super::record::FlowRecord;

/// Event in the life of a flow.
#[derive(Clone, Copy)]
pub enum FlowEvent<'a> {
    /// Its connection was accepted.
    Opened(&'a FlowEntry),
    /// It has another state.
    Updated(&'a FlowEntry),
    /// It has ended, and is not in the table any more.
    Closed(&'a FlowRecord),
}

/// Receives the events of all flows, each on the thread of the flow's worker; never blocks.
pub type FlowSink = Box<dyn Fn(FlowEvent<'_>) + Send + Sync>;
