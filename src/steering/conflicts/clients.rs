//! Networks of tenants that the machine reaches by other interfaces than the steered ones, and that reverse-path filtering
//! drops therefore.

use super::conflict::{Conflict, ConflictSeverity, some};
use crate::steering::SteeringParams;
use crate::steering::machine::MachineNetwork;
use ipnet::IpNet;
use std::collections::BTreeSet;

/// One conflict for each network whose packets strict reverse-path filtering drops: the kernel takes no packet by an interface that
/// it would not answer by. There a default route tells, too.
pub(super) fn filtered(params: &SteeringParams, machine: &MachineNetwork) -> Vec<Conflict> {
    let steered = machine.links.iter().map(|link| &*link.ifname);
    let steered: Vec<_> =
        steered.filter(|name| params.interfaces.iter().any(|one| one.covers(name))).collect();
    let is_strict = |name: &&str| machine.strict_interfaces.iter().any(|strict| strict == name);
    if steered.is_empty() || !steered.iter().all(is_strict) {
        return Vec::new();
    }
    let of_source = |source: &IpNet| {
        let mut names = interfaces_to(*source, machine);
        if names.is_empty() {
            let [uplinks, _] = &machine.uplinks;
            names.extend(uplinks.iter().map(String::as_str));
        }
        if names.is_empty() || names.iter().any(|name| steered.contains(name)) {
            return None;
        }
        let names = some(&names.into_iter().collect::<Vec<_>>());
        let by = some(&steered);
        Some(Conflict {
            gravity: ConflictSeverity::Broken,
            found: format!("rp_filter=1 on {by}, and the route to {source} is by {names}"),
            why: "the kernel drops what these clients send, without a trace",
            fix: format!(
                "give {source} a route by {by}; or sysctl -w net.ipv4.conf.all.rp_filter=2, and in /etc/sysctl.d"
            ),
        })
    };
    params.sources.iter().filter(|source| source.addr().is_ipv4()).filter_map(of_source).collect()
}

/// One conflict for each network whose clients arrive by other interfaces: certainly where one of them has an address in that
/// network, probably where a route leads there by a router. Default routes tell nothing: clients may come in elsewhere.
pub(super) fn elsewhere(params: &SteeringParams, machine: &MachineNetwork) -> Vec<Conflict> {
    let is_steered = |name: &&str| params.interfaces.iter().any(|one| one.covers(name));
    let of_source = |source: &IpNet| {
        let names = interfaces_to(*source, machine);
        if names.iter().any(is_steered) {
            return partly_elsewhere(source, params, machine);
        }
        if names.is_empty() {
            return None;
        }
        let around = machine.addresses().filter(|(_, own)| is_around(own, source));
        let mut neighbours: Vec<_> = around.map(|(link, _)| &*link.ifname).collect();
        if neighbours.iter().any(is_steered) {
            return None;
        }
        neighbours.retain(|name| names.contains(name));
        neighbours.dedup();
        if !neighbours.is_empty() {
            let names = some(&neighbours);
            return Some(Conflict {
                gravity: ConflictSeverity::Broken,
                found: format!(
                    "clients in {source} arrive by {names}, which [steering] interfaces does not name"
                ),
                why: "their connections are not intercepted, and they hang or pass by the gateway",
                fix: format!("write {names} in [steering] interfaces, then `egret reload`"),
            });
        }
        let names = some(&names.into_iter().collect::<Vec<_>>());
        Some(Conflict {
            gravity: ConflictSeverity::Doubtful,
            found: format!("the route to {source} is by {names}, which [steering] interfaces does not name"),
            why: "what clients send there is not intercepted, and answers to those on other interfaces get lost",
            fix: format!(
                "write {names} in [steering] interfaces, or give {source} a route by a steered interface"
            ),
        })
    };
    params.sources.iter().filter_map(of_source).collect()
}

/// Bits by which a route may be narrower than a network of clients: some are probably in a sixteenth of it, in less perhaps none.
const LARGE_PART: u8 = 4;

/// The conflict of a network whose answers leave by a steered interface, but for a large part of it. No uplink counts, whose own
/// network may be inside, nor a bridge, which mostly is for containers of this machine.
fn partly_elsewhere(source: &IpNet, params: &SteeringParams, machine: &MachineNetwork) -> Option<Conflict> {
    let is_steered = |name: &str| params.interfaces.iter().any(|one| one.covers(name));
    let uplinks = &machine.uplinks[usize::from(source.addr().is_ipv6())];
    let is_bridge =
        |name: &str| machine.links.iter().any(|link| link.ifname == name && link.linkinfo.kind == "bridge");
    let is_likely = |network: &IpNet, name: &str| {
        let is_large = source.contains(network) && network.prefix_len() - source.prefix_len() <= LARGE_PART;
        let is_told_itself = network != source && params.sources.contains(network);
        let mut same = machine.routes.iter().filter(|(other, _)| other == network);
        is_large
            && !is_told_itself
            && !uplinks.contains(name)
            && !is_bridge(name)
            && !same.any(|(_, name)| is_steered(name))
    };
    let (network, name) = machine.routes.iter().find(|(network, name)| is_likely(network, name))?;
    Some(Conflict {
        gravity: ConflictSeverity::Doubtful,
        found: format!(
            "clients in {network}, of {source}, arrive by {name} if the route there tells, and [steering] interfaces does not name it"
        ),
        why: "what they send there is not intercepted: to intercepted ports it is refused, and never forwarded",
        fix: format!(
            "write {name} in [steering] interfaces, then `egret reload`; or give {network} a route by a steered interface"
        ),
    })
}

/// True if these clients are neighbours of the machine, which has an address in their network.
fn is_around(own: &IpNet, clients: &IpNet) -> bool {
    own.prefix_len() < own.max_prefix_len() && own.contains(clients)
}

/// The interfaces of the narrowest route that covers the network, and of all routes to parts of it.
fn interfaces_to(source: IpNet, machine: &MachineNetwork) -> BTreeSet<&str> {
    let covering = |network: &IpNet| network.prefix_len() > 0 && network.contains(&source);
    let narrowest = machine
        .routes
        .iter()
        .map(|(network, _)| network)
        .filter(|network| covering(network))
        .max_by_key(|network| network.prefix_len());
    let leads = |network: &IpNet| Some(network) == narrowest || source.contains(network);
    machine.routes.iter().filter(|(network, _)| leads(network)).map(|(_, name)| &**name).collect()
}
