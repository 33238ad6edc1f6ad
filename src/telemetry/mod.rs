//! The metric catalogue and the flow log.

pub mod catalogue;
mod exposition;
pub mod flow_log;
pub mod metrics;
mod process;

pub use flow_log::{FlowLog, FlowLogConfig, FlowLogHandle, FlowLogTarget, FlowLogThread};
pub use metrics::{
    FlowLogMeters, GatewayMeters, HotDestination, Metrics, MonitoredTenant, SOURCE_STATES, Scrape,
    SourceUsage, UNKNOWN_TENANT,
};
