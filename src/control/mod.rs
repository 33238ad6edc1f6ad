//! The control plane: what is in force, how it is exchanged, and who may ask and change it. Reload, candidate,
//! reconciliation with the kernel, the network watch, explanations, and the answers of the control API.

mod active_config;
mod api;
mod audit;
mod build_error;
mod candidate;
mod deferred_drop;
mod explain;
mod failure_notice;
mod forecast;
mod handles;
mod last_good;
mod loaded_candidate;
mod log_list;
mod monitoring;
mod network;
mod policy_source;
mod pools;
mod privileged;
mod probe;
mod recheck;
mod reconcile;
mod reload;
mod snapshot;
mod steered;
mod steering_counts;
mod trace;
mod untracked;
mod verification;

pub(crate) use active_config::{ActiveConfig, CompiledConfig};
pub(crate) use api::ControlPlane;
pub(crate) use audit::Auditor;
pub use build_error::BuildError;
pub(crate) use deferred_drop::DeferredDrop;
pub use explain::ExplainError;
pub use explain::Explainer;
#[cfg(test)]
pub(crate) use explain::remedy;
pub(crate) use forecast::ForecastHandle;
pub(crate) use handles::ControlHandles;
pub use last_good::LastGoodStore;
pub(crate) use last_good::{FallbackCause, FallbackReason};
pub(crate) use loaded_candidate::SharedCandidate;
pub(crate) use monitoring::MonitoringLog;
pub use monitoring::last_monitor_end;
pub(crate) use network::{ExpectedNetwork, LastNetworkState, NetworkState, NetworkThread};
pub(crate) use policy_source::PolicySource;
pub(crate) use pools::listeners_in_the_way;
pub(crate) use recheck::RecheckHandle;
pub use reconcile::ephemeral_ports;
pub(crate) use reconcile::{LastReconciliation, ReconcilerThread};
pub(crate) use reload::{ReloadHandle, Reloader};
pub use steered::steering_params;
pub(crate) use steering_counts::counts as steering_counts;
pub(crate) use untracked::UntrackedPools;
pub(crate) use verification::{asked_servers, looked_up, missing};
