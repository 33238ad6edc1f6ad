//! Is the address that a client dials really the one of the name that it asks for?
//!
//! [`Names`] remembers what DNS servers say of names: answers add up over servers and lookups, and count for a grace
//! period beyond their TTL, because content networks rotate their addresses. docs/verify.md explains what that
//! promises. [`Certificates`] asks servers themselves: which of them proved which name. Both work on the thread of a [`Verifier`]; workers look at what is known, and wait for what is not.

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
