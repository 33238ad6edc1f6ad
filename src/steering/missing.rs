//! Steering never moves from interfaces that exist to ones that do not: every client would be cut off.

use super::origin;
use crate::interface::Interface;
use crate::sys::routing::{self, IpFamily};
use std::error::Error;
use std::fmt;

/// Interfaces that the files name and the machine does not have, while traffic is intercepted on others.
#[derive(Debug, PartialEq, Eq)]
pub struct MissingInterfaces {
    missing: String,
    steered: String,
    present: String,
}

impl MissingInterfaces {
    /// Names them.
    pub fn found(&self) -> String {
        format!(
            "[steering] interfaces: this machine has no interface {}, and clients' packets are intercepted on {}",
            self.missing, self.steered
        )
    }

    /// The cure.
    pub fn fix(&self) -> String {
        format!(
            "there are: {}; correct the name, or create the interface first (a pattern such as \"veth*\" beside the others is for \
             interfaces that come later)",
            self.present
        )
    }
}

impl fmt::Display for MissingInterfaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; help: {}", self.found(), self.fix())
    }
}

impl Error for MissingInterfaces {}

/// Refuses interfaces that are missing, where `before` are those in force. Where the kernel does not list them, nothing is known
/// to be missing.
///
/// # Errors
/// Which are missing.
pub fn replace_interfaces(before: &[Interface], after: &[Interface]) -> Result<(), MissingInterfaces> {
    routing::interfaces().map_or(Ok(()), |present| compare(before, after, &present))
}

/// Those that Egret's rules of policy routing are for, which everybody may read. Empty on a machine that is not steered.
pub fn steered_interfaces() -> Vec<Interface> {
    let rules = routing::rules(IpFamily::V4).unwrap_or_default().into_iter();
    let names = rules.filter(|rule| rule.protocol == origin::UP).filter_map(|rule| rule.interface);
    names.filter(|name| name != "lo").filter_map(|name| Interface::parse(&name).ok()).collect()
}

/// True if the machine has none of these interfaces, so that rules for them intercept nothing. Where rules are for such ones
/// alone, the files that they were made from are wrong.
pub fn are_absent(interfaces: &[Interface], present: &[String]) -> bool {
    !interfaces.iter().any(|one| present.iter().any(|name| one.covers(name)))
}

/// An interface that was named before may be missing, and so may those of patterns, as long as another one is there.
fn compare(before: &[Interface], after: &[Interface], present: &[String]) -> Result<(), MissingInterfaces> {
    let exists = |one: &&Interface| present.iter().any(|name| one.covers(name));
    let steered: Vec<_> = before.iter().filter(exists).collect();
    let some_left = !are_absent(after, present);
    let may_be_missing = |one: &Interface| some_left && (one.is_pattern() || before.contains(one));
    let missing: Vec<_> = after.iter().filter(|one| !exists(one) && !may_be_missing(one)).collect();
    if steered.is_empty() || missing.is_empty() {
        return Ok(());
    }
    let listed = |all: &[&Interface]| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let others: Vec<_> = present.iter().map(String::as_str).filter(|name| *name != "lo").take(8).collect();
    Err(MissingInterfaces {
        missing: listed(&missing),
        steered: listed(&steered),
        present: others.join(", "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steering_never_moves_to_missing_interfaces() {
        let parsed =
            |names: &[&str]| -> Vec<_> { names.iter().map(|name| Interface::parse(name).unwrap()).collect() };
        let present = ["lo", "ens5", "ens6"].map(str::to_owned);
        for (before, after, missing) in [
            (&["ens6"][..], &["ens7"][..], Some("ens7")),
            (&["ens6"], &["ens6", "ens7"], Some("ens7")),
            (&["ens6"], &["enp*"], Some("enp*")),
            (&["ens6", "ens7"], &["ens7"], Some("ens7")),
            (&["ens6"], &["ens6", "enp*"], None),
            (&["ens6", "ens7"], &["ens6", "ens7"], None),
            (&["ens6"], &["ens5"], None),
            (&["ens6"], &[], None),
            (&["ens7"], &["ens8"], None),
            (&[], &["ens7"], None),
        ] {
            let found = compare(&parsed(before), &parsed(after), &present).err().map(|error| error.missing);
            assert_eq!(found.as_deref(), missing, "{before:?} to {after:?}");
        }
    }
}
