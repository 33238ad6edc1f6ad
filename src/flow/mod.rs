//! Flows as data: one entry for each accepted connection, from accept to its end.
//!
//! The [`FlowTable`] owns the entries. The task of a flow has the one [`FlowHandle`] that writes to its entry; everybody
//! else copies entries out of the table and reads them. When the handle is dropped, for whatever reason, the entry
//! leaves the table, and the finished [`FlowRecord`] goes to every sink.

mod counters;
mod entry;
mod handle;
mod listing;
mod live_flow;
mod pairs;
mod policy_change;
mod probes;
mod record;
mod sinks;
mod state;
mod table;

pub use counters::{MessageCells, MessageCounter};
pub use entry::{FlowEntry, RecordGuard};
pub use handle::{FlowHandle, FlowOpener};
pub use listing::FlowListing;
pub use live_flow::{LiveFlow, RevocationReason};
pub use pairs::{PairFlows, PortHolder, SourceDestination};
pub use policy_change::PolicyChange;
pub use probes::AnnouncedProbes;
#[cfg(test)]
pub(crate) use record::example_record;
pub use record::{
    AddressCheck, CertificateCheck, FlowId, FlowRecord, NameSource, NotAFlowId, PolicyVerdict, UNKNOWN_TENANT,
};
pub use sinks::{FlowEvent, FlowSink};
pub use state::FlowState;

/// The name of the `tracing` span that a flow's task runs in.
pub const FLOW_SPAN: &str = "flow";
pub use table::FlowTable;

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;
