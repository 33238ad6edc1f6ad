//! Verification that the address a client dials belongs to the name it requests.
//!
//! [`NameCache`] caches DNS answers: they are merged over servers and lookups, and valid for a grace period beyond their
//! TTL, because content networks rotate their addresses. docs/verify.md explains the guarantees. [`CertificateCache`]
//! probes the servers themselves for proof of a name. Both run on the thread of a [`Verifier`]; workers read the
//! caches, and wait for missing entries.

mod anchors;
mod certificate;
mod certificates;
mod dns;
mod generation_cache;
mod known;
mod lookup_limiter;
mod missing;
mod names;
mod refresh;
mod resolv_conf;
mod shards;
mod single_flight;
#[cfg(test)]
mod tests;
mod verifier;

pub use anchors::{DnssecAnchors, ZoneKey};
pub use certificate::{CertificateVerdict, TrustedRoots};
pub use certificates::{CertificateCache, ProbeMeters, StartedConnection};
pub use dns::SOCKETS as SOCKETS_OF_A_LOOKUP;
pub use known::NameAnswer;
pub use lookup_limiter::{AT_ONCE as MOST_CHECKS, TenantLookups, VerifierCapacity};
pub use names::{AddressMatch, LookupError, LookupMeters, NameCache, QueryServers, ResolveError};
pub use resolv_conf::{name_servers, system_servers};
pub use shards::NameKey;
pub use verifier::{Verifier, VerifierSettings};
