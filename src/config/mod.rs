//! TOML to a checked configuration.
//!
//! Loading has three steps. `catalogue` defines every table and key once: name, form, default, meaning; the reader can
//! only ask for keys that are defined there, and docs/config.md is generated from it. `sections` and `tenants` read the
//! tables. `whole`, `dead_rules` and `other_protocols` check what takes all files. Findings are collected rather than
//! returned one by one: a single run shows all of them, with file, line and column.

mod catalogue;
mod dead_rules;
mod diagnostic;
mod ech_names;
mod footprint;
mod host_kind;
mod hosts_file;
mod kinds;
mod load;
mod modes;
mod moment;
mod nearest;
mod network_kinds;
mod other_protocols;
mod outline;
mod policy_folder;
mod public_suffix;
mod reference;
mod schema;
mod sections;
mod settings;
mod shares;
mod source;
mod source_kinds;
mod table;
mod tenants;
#[cfg(test)]
mod tests;
mod texts;
mod value;
mod version;
mod whole;

pub use diagnostic::{Diagnostic, ReadFile, Report, Severity};
pub use footprint::Footprint;
pub use load::{Loaded, control_socket, load, load_as, load_texts};
pub use outline::Outline;
pub use policy_folder::policy_files;
pub use reference::reference;
pub use settings::{
    Admin, AuditTarget, Config, FlowLog, FlowLogTarget, Gateway, Inspect, Keepalive, Ports, Resolver,
    Steering, Udp,
};
pub use texts::Texts;
pub use version::digest_of;

/// Default path of the control socket.
pub const ADMIN_SOCKET: &str = "/run/egret/admin.sock";
