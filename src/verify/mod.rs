//! Verification that the address a client dials belongs to the name it requests.
//!
//! [`Names`] caches DNS answers: they are merged over servers and lookups, and valid for a grace period beyond their
//! TTL, because content networks rotate their addresses. docs/verify.md explains the guarantees. [`Certificates`]
//! probes the servers themselves for proof of a name. Both run on the thread of a [`Verifier`]; workers read the
//! caches, and wait for missing entries.

mod anchors;
mod certificate;
mod certificates;
mod dns;
mod flights;
mod known;
mod memory;
mod names;
mod places;
mod refresh;
mod shards;
#[cfg(test)]
mod tests;
mod verifier;

pub use anchors::{Anchor, Anchors};
pub use certificate::{Certificate, Roots};
pub use certificates::{Begun, Certificates, ProbeMeters};
pub use dns::system_servers;
pub use known::Answer;
pub use names::{Ask, LookupMeters, Match, Names, Trouble, Unresolved};
pub use places::Asker;
pub use shards::Key;
pub use verifier::{Settings, Verifier};
