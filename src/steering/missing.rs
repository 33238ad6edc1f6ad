//! Steering never moves from interfaces that clients' packets arrive on to ones that do not exist or that have no clients: every
//! client would be cut off.

use super::origin;
use crate::family::Family;
use crate::interface::Interface;
use crate::sys::addresses;
use crate::sys::routing::{self, RoutingRule};
use ipnet::IpNet;
use std::error::Error;
use std::fmt;

/// Interfaces of the files that must not take the place of those in force.
#[derive(Debug, PartialEq, Eq)]
pub enum RefusedInterfaces {
    /// The machine does not have them, while traffic is intercepted on others.
    Missing {
        /// Those that it does not have.
        missing: String,
        /// Those in force.
        steered: String,
        /// Those that it has.
        present: String,
    },
    /// One that clients of a tenant arrive by, and that is in force, is not among them.
    LeftOut {
        /// That interface.
        interface: String,
        /// A network of the tenant's, in which the interface has an address.
        clients: IpNet,
    },
}

impl RefusedInterfaces {
    /// Names them.
    pub fn found(&self) -> String {
        match self {
            Self::Missing { missing, steered, .. } => format!(
                "[steering] interfaces: this machine has no interface {missing}, and clients' packets were intercepted on {steered} so far"
            ),
            Self::LeftOut { interface, clients } => format!(
                "[steering] interfaces: clients in {clients} arrive by {interface}, which was intercepted so far and is not named any more"
            ),
        }
    }

    /// The cure.
    pub fn fix(&self) -> String {
        match self {
            Self::Missing { present, .. } => format!(
                "there are: {present}; correct the name, or create the interface first (a pattern such as \"veth*\" beside the others \
                 is for interfaces that come later)"
            ),
            Self::LeftOut { interface, clients } => format!(
                "name {interface} too; or first move the address in {clients} to a named interface, or take the network out of the \
                 tenant's sources"
            ),
        }
    }
}

impl fmt::Display for RefusedInterfaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; help: {}", self.found(), self.fix())
    }
}

impl Error for RefusedInterfaces {}

/// Refuses interfaces that are missing, or that leave out one by which clients of these networks arrive, where `before` are those
/// in force. Where the kernel does not list interfaces or addresses, nothing is known to be wrong.
///
/// # Errors
/// The reason.
pub fn replace_interfaces(
    before: &[Interface],
    after: &[Interface],
    clients: &[IpNet],
) -> Result<(), RefusedInterfaces> {
    routing::interfaces().map_or(Ok(()), |present| compare(before, after, &present))?;
    addresses::networks().map_or(Ok(()), |networks| keep_clients(before, after, clients, &networks))
}

/// Those that Egret's rules of policy routing are for, which everybody may read. Empty on a machine that is not steered,
/// and where the kernel does not list its rules.
pub fn steered_interfaces() -> Vec<Interface> {
    interfaces_of(&routing::rules(Family::V4).unwrap_or_default()).collect()
}

/// The same, by rules of policy routing.
pub(super) fn interfaces_of(rules: &[RoutingRule]) -> impl Iterator<Item = Interface> {
    let ours = rules.iter().filter(|rule| rule.protocol == origin::UP);
    let names = ours.filter_map(|rule| rule.interface.as_deref()).filter(|name| *name != "lo");
    names.filter_map(|name| Interface::parse(name).ok())
}

/// True if the machine has none of these interfaces, so that rules for them intercept nothing. Where rules are for such ones
/// alone, the files that they were made from are wrong.
pub fn are_absent(interfaces: &[Interface], present: &[String]) -> bool {
    !interfaces.iter().any(|one| present.iter().any(|name| one.covers(name)))
}

/// An interface that was named before may be missing, and so may those of patterns, as long as another one is there.
fn compare(before: &[Interface], after: &[Interface], present: &[String]) -> Result<(), RefusedInterfaces> {
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
    Err(RefusedInterfaces::Missing {
        missing: listed(&missing),
        steered: listed(&steered),
        present: others.join(", "),
    })
}

/// Refuses to leave out an interface that has an address in a network of clients. No interfaces at all are no steering, which
/// is meant.
fn keep_clients(
    before: &[Interface],
    after: &[Interface],
    clients: &[IpNet],
    networks: &[(String, IpNet)],
) -> Result<(), RefusedInterfaces> {
    let covers = |all: &[Interface], name: &str| all.iter().any(|one| one.covers(name));
    for clients in clients.iter().filter(|_| !after.is_empty()) {
        let mut around = networks.iter().filter(|(_, own)| own.contains(clients));
        let within = || networks.iter().filter(|(_, own)| own.contains(clients) || clients.contains(own));
        let still = within().any(|(name, _)| covers(after, name));
        if let Some((interface, _)) = around.find(|(name, _)| !still && covers(before, name)) {
            return Err(RefusedInterfaces::LeftOut { interface: interface.clone(), clients: *clients });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_interface_is_not_left_out() {
        let parsed =
            |names: &[&str]| -> Vec<_> { names.iter().map(|name| Interface::parse(name).unwrap()).collect() };
        let networks = [("c0", "10.0.1.1/24"), ("s0", "198.51.100.1/24"), ("c1", "10.0.2.1/24")]
            .map(|(name, network)| (name.to_owned(), network.parse().unwrap()));
        for (before, after, clients, refused) in [
            (&["c0"][..], &["s0"][..], "10.0.1.0/24", true),
            (&["c0"], &["s*"], "10.0.1.7/32", true),
            (&["c0"], &["c0", "s0"], "10.0.1.0/24", false),
            (&["c0"], &["c*"], "10.0.1.0/24", false),
            // Others of the network's may still arrive; and of routed or any clients nothing is known.
            (&["c0", "c1"], &["c1"], "10.0.0.0/8", false),
            (&["c0"], &["s0"], "10.0.0.0/8", false),
            (&["c0"], &["s0"], "172.16.0.0/24", false),
            (&["c0"], &["s0"], "0.0.0.0/0", false),
            // It is not in force either; and nothing is to be steered.
            (&["s0"], &["s0"], "10.0.1.0/24", false),
            (&["c0"], &[], "10.0.1.0/24", false),
        ] {
            let clients = [clients.parse().unwrap()];
            let result = keep_clients(&parsed(before), &parsed(after), &clients, &networks);
            assert_eq!(result.is_err(), refused, "{before:?} to {after:?}, {clients:?}: {result:?}");
        }
    }

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
            let found =
                compare(&parsed(before), &parsed(after), &present).err().and_then(|error| match error {
                    RefusedInterfaces::Missing { missing, .. } => Some(missing),
                    RefusedInterfaces::LeftOut { .. } => None,
                });
            assert_eq!(found.as_deref(), missing, "{before:?} to {after:?}");
        }
    }
}
