//! The gateway: flows from accept to record.
//!
//! From the inside out: a [`Flow`] is one connection and leaves one [`FlowRecord`]; `session` runs it; `worker` holds
//! state shared by flows; `server` accepts.

mod admission;
mod again;
mod candidate;
mod certification;
mod delivery;
mod ending;
mod flow;
mod flow_table;
mod guard;
mod intake;
mod leftover;
mod meters;
mod mismatches;
mod pulse;
mod recheck;
mod record;
mod refusal;
mod server;
mod session;
mod snapshot;
mod upstream;
mod verification;
mod worker;

pub use admission::{Gate, OwnAddresses, Pass};
pub use again::Judged;
pub use candidate::{
    Candidate, Change, Changes, Example, FEWEST, FellBack, Kept, Kind, Ruling, Tally, Terms, Times, WINDOW,
};
pub use certification::certificate_refusal;
pub use flow::{Epilogue, Flow, Observed, Sink};
pub use flow_table::{FlowTable, Holder, Listed, LiveFlow, Pair, PairFlows, Proof, Revoked};
pub use intake::{Intake, MOST_WAITING};
pub use meters::{Counted, Meters, PerMessage, Seat, Seated, TenantHandles, TenantMeters, Timed};
pub use mismatches::{Mismatch, Mismatches, Sightings};
pub use pulse::Pulse;
pub use recheck::Recheck;
#[cfg(test)]
pub(crate) use record::example_record;
pub use record::{AddressCheck, CertificateCheck, FlowId, FlowRecord, NameSource, NotAFlowId, Verdict};
pub use server::{Stage, run};
pub use snapshot::{ResolveMeters, Snapshot, Tenant, Verification};
pub use verification::address_refusal;
pub use worker::{Gateway, Settings};
