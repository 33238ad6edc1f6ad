//! The metric catalogue, the flow log, the audit log, and traces of flows.

mod audit_log;
pub mod catalogue;
mod exposition;
pub mod flow_log;
mod flow_traces;
mod journal;
pub mod metrics;
mod process;
mod queue_share;
mod recorder;
mod sink;
mod standing_problem;
mod tenants;

pub use audit_log::AuditLog;
pub use flow_log::{FlowLog, FlowLogConfig, FlowLogHandle, FlowLogThread};
pub use flow_traces::{
    FlowTraces, LONGEST as LONGEST_TRACE, MOST_FLOWS as MOST_TRACED_FLOWS, TraceLayer, TraceReport,
    TraceRequest, TracedStep,
};
pub use journal::is_journal;
pub use metrics::{
    CandidateInfo, FlowLogMeters, GatewayMeters, HotDestination, Metrics, MonitoredTenant, SOURCE_STATES,
    Scrape, SockDiagMeters, SourcePortMetrics, SteeringMetrics,
};
pub use sink::LogTarget;
pub use standing_problem::StandingProblem;
