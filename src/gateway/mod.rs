//! The gateway: flows from accept to record.
//!
//! From the inside out: a [`Flow`] is one connection's side of its entry in the flow table; `session` runs it; `worker` holds
//! state shared by flows; `server` accepts.

mod address_mismatches;
mod admission;
mod candidate;
mod certification;
mod connection_balancer;
mod delivery;
mod effective_rules;
mod ending;
mod flow;
mod flow_end;
mod guard;
mod heartbeat;
mod judged_flow;
mod leftover;
mod meters;
mod policy_views;
mod port_hold;
mod recheck;
mod reevaluate;
mod refusal;
mod server;
mod session;
mod snapshot;
mod unsteered_addresses;
mod upstream;
mod verification;
mod worker;

pub use address_mismatches::{AddressMismatch, AddressMismatchLog, MismatchCount};
pub use admission::{Limit, Slot};
pub use candidate::{
    CanaryTerms, Candidate, CandidateTally, ChangeCounts, ChangeExample, ChangeGroup, ChangeKind, FEWEST,
    FlowCounts, Rollback, WINDOW,
};
pub use certification::certificate_refusal;
pub use connection_balancer::{ConnectionBalancer, MOST_WAITING};
pub use effective_rules::{EffectiveRules, VerificationHandles};
pub use flow::Flow;
pub use heartbeat::Heartbeat;
pub use meters::{
    CellWriter, CellWriterClaim, FlowCounter, FlowDuration, Meters, TenantHandles, TenantMeters,
};
pub use policy_views::{CandidateView, PolicyViews};
pub use recheck::RecheckSettings;
pub use reevaluate::ReevaluationCounts;
pub use refusal::PROBE_NAME;
pub use server::{BACKLOG, ShutdownPhase, run};
pub use snapshot::{ResolveMeters, Snapshot, TenantRuntime};
pub use unsteered_addresses::{NeverSteered, UnsteeredAddresses};
pub use verification::address_refusal;
pub use worker::{FlowSettings, GatewayState};
