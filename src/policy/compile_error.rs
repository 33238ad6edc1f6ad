//! Errors of compiling tenants.

use std::sync::Arc;

/// Reason why tenants cannot be compiled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// A client would belong to two tenants.
    #[error("the source network {network} belongs to both `{first}` and `{second}`")]
    SourceTwice {
        /// Network of both tenants.
        network: ipnet::IpNet,
        /// First tenant in the file.
        first: Arc<str>,
        /// The other tenant; the same again if it has the network twice.
        second: Arc<str>,
    },
    /// More than 4 GiB of distinct names, or 2^32 mentions of a name or network.
    #[error("tenant `{tenant}` has too many names: more than 4 GiB of them")]
    TooLarge {
        /// Tenant of the rules.
        tenant: Arc<str>,
    },
}
