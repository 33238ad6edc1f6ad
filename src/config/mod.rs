//! TOML to a checked configuration.
//!
//! Loading has three steps. `catalogue` defines every table and key once: name, form, default, meaning; the reader can
//! only ask for keys that are defined there, and docs/config.md is generated from it. `sections` and `tenants` read the
//! tables. `cross_checks`, `dead_rules` and `other_protocols` check what takes all files. Findings are collected rather than
//! returned one by one: a single run shows all of them, with file, line and column.

mod catalogue;
mod comparisons;
mod config_diff;
mod cross_checks;
mod dead_rules;
mod diagnostic;
mod ech_names;
mod file_stamp;
mod host_type;
mod hosts_file;
mod load;
mod modes;
mod moment;
mod nearest;
mod network_types;
mod other_protocols;
mod path_types;
mod plain_http;
mod policy_folder;
mod public_suffix;
mod read_budget;
mod reference;
mod repeats;
mod rule_reach;
mod schema;
mod sections;
mod settings;
mod shares;
mod source;
mod source_types;
mod table;
mod tenants;
#[cfg(test)]
mod tests;
mod texts;
mod value;
mod value_types;
mod version;

pub use config_diff::ConfigDigest;
pub use diagnostic::{ConfigReport, Diagnostic, ReadFile, Severity};
pub use file_stamp::FileStamps;
pub use load::{LoadedConfig, control_socket, flow_log_target, load, load_as, load_texts};
pub use policy_folder::policy_files;
pub use reference::reference;
pub use settings::{
    AuditTarget, Config, FlowLogSection, FlowLogTarget, GatewaySection, Inspect, Keepalive, Resolver,
    SteeringPorts, SteeringSection, TenantLimits, UdpSetting,
};
pub use texts::Texts;
pub use version::digest_of;

/// Default path of the control socket.
pub const ADMIN_SOCKET: &str = "/run/egret/admin.sock";
