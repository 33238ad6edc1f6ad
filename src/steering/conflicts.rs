//! Conflicts between configuration and machine: interfaces that are missing or whose packets arrive on another one, and pool
//! addresses that other hosts have.

mod clients;
mod conflict;
mod needed;

pub use conflict::{Conflict, ConflictSeverity};
pub(super) use needed::of_needed_hosts;

use super::SteeringParams;
use super::machine::{LinkEntry, MachineNetwork};
use super::watched::TAKE_OVER;
use crate::interface::Interface;
use conflict::{of_others, some};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Configured interfaces that the machine does not have. Empty if the machine's are not known.
pub fn missing_interfaces(params: &SteeringParams, machine: &MachineNetwork) -> Vec<Conflict> {
    if machine.links.is_empty() {
        return Vec::new();
    }
    let there = |one: &Interface| machine.links.iter().any(|link| one.covers(&link.ifname));
    let missing = params.interfaces.iter().filter(|one| !there(one));
    missing.map(|one| missing_interface(one, machine)).collect()
}

fn missing_interface(wanted: &Interface, machine: &MachineNetwork) -> Conflict {
    const WHY: &str = "packets that arrive on other interfaces are not intercepted";
    // Interfaces that match a pattern may appear later.
    let gravity = if wanted.is_pattern() { ConflictSeverity::Doubtful } else { ConflictSeverity::Broken };
    let other = machine.links.iter().find(|link| link.altnames.iter().any(|name| wanted.covers(name)));
    if let Some(link) = other.filter(|_| !wanted.is_pattern()) {
        return Conflict {
            gravity,
            found: format!(
                "{wanted} is an alternative name of {}, which packet filters do not accept",
                link.ifname
            ),
            why: WHY,
            fix: format!("write \"{}\" in [steering] interfaces", link.ifname),
        };
    }
    let names: Vec<_> = machine.links.iter().map(|link| &*link.ifname).filter(|name| *name != "lo").collect();
    Conflict {
        gravity,
        found: format!("no interface of this machine is called {wanted}"),
        why: WHY,
        fix: format!(
            "list in [steering] interfaces those that clients' packets arrive on; there are: {}",
            if names.is_empty() { "none yet".to_owned() } else { some(&names) }
        ),
    }
}

/// Steered interfaces that are ports of bridges and the like, or bridges with br_netfilter.
fn bridges(params: &SteeringParams, machine: &MachineNetwork) -> Vec<Conflict> {
    let mut found = Vec::new();
    for wanted in &params.interfaces {
        let covered: Vec<_> = machine.links.iter().filter(|link| wanted.covers(&link.ifname)).collect();
        let bridge_of = |link: &&LinkEntry| {
            link.master.clone().filter(|_| TAKE_OVER.contains(&&*link.linkinfo.kind_of_master))
        };
        let masters: BTreeSet<_> = covered.iter().filter_map(bridge_of).collect();
        let is_steered = |name: &String| params.interfaces.iter().any(|one| one.covers(name));
        if !masters.iter().all(is_steered) && covered.iter().all(|link| bridge_of(link).is_some()) {
            let masters: Vec<_> = masters.into_iter().collect();
            let kind = covered.first().map_or("bridge", |link| &*link.linkinfo.kind_of_master);
            found.push(Conflict {
                gravity: if wanted.is_pattern() {
                    ConflictSeverity::Doubtful
                } else {
                    ConflictSeverity::Broken
                },
                found: format!(
                    "{wanted} is a port of a {kind}: to packet filters its packets arrive on {}",
                    some(&masters)
                ),
                why: "packets that arrive on other interfaces are not intercepted",
                fix: format!("write {} in [steering] interfaces", some(&masters)),
            });
        }
        for link in covered.iter().filter(|link| link.linkinfo.kind == "bridge") {
            let name = &link.ifname;
            let data = &link.linkinfo.data;
            if machine.bridges_call_filters || data.nf_call_iptables != 0 || data.nf_call_ip6tables != 0 {
                found.push(Conflict {
                    gravity: ConflictSeverity::Broken,
                    found: format!("{name} is a bridge, and br_netfilter hands bridged packets to iptables"),
                    why: "between bridge and IP layer the kernel loses the listener that TPROXY assigned, so no connection is accepted",
                    fix: format!(
                        "sysctl -w net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0; \
                         ip link set {name} type bridge nf_call_iptables 0 nf_call_ip6tables 0"
                    ),
                });
            }
        }
    }
    found
}

/// All conflicts except missing interfaces: bridges, clients on other interfaces, pool addresses of other hosts, and ports that the gateway may not use.
pub fn conflicts(params: &SteeringParams, machine: &MachineNetwork) -> Vec<Conflict> {
    let mut found = bridges(params, machine);
    found.extend(clients::elsewhere(params, machine));
    found.extend(clients::filtered(params, machine));
    let mut pools: Vec<_> = params.pools.iter().map(|pool| pool.network.trunc()).collect();
    pools.dedup();
    for pool in pools {
        found.extend(of_pool(pool, params, machine));
    }
    let first_port = params.pools.iter().map(|pool| pool.ports.first()).min();
    if first_port.is_some_and(|first| first < machine.first_port) {
        found.push(Conflict {
            gravity: ConflictSeverity::Doubtful,
            found: format!(
                "pools have ports below {}, which are privileged on this machine",
                machine.first_port
            ),
            why: "the gateway does not use them, so the pools are smaller than configured",
            fix: format!(
                "let [[pool]] ports begin at {0}, or sysctl -w net.ipv4.ip_unprivileged_port_start=1024",
                machine.first_port
            ),
        });
    }
    found
}

/// Pool addresses that are, or may be, those of others: of next hops, DNS servers, neighbours, networks.
fn of_pool(pool: IpNet, params: &SteeringParams, machine: &MachineNetwork) -> Vec<Conflict> {
    let mut found =
        of_needed_hosts(pool, &machine.next_hops, &machine.resolvers, |address| machine.has(address));
    let mut others = |what: &str, addresses: Vec<String>| {
        found.extend(of_others(ConflictSeverity::Doubtful, pool, what, &addresses));
    };
    let elsewhere = |address: &&IpAddr| pool.contains(*address) && !machine.has(**address);
    let neighbours = machine.neighbours.iter();
    let neighbours =
        neighbours.filter(|(address, _)| elsewhere(&address) && !machine.next_hops.contains(address));
    others("other hosts on a link", neighbours.map(|(address, dev)| format!("{address} on {dev}")).collect());
    let ends = machine.peers().filter(|(address, _)| elsewhere(&address));
    others(
        "the other end of a link or tunnel",
        ends.map(|(address, name)| format!("{address} of {name}")).collect(),
    );
    let networks = machine.addresses().filter(|(_, own)| own.prefix_len() + 1 < own.max_prefix_len());
    for (link, own) in networks {
        let (name, network) = (&link.ifname, own.trunc());
        if pool.contains(&network) {
            others("a whole network of a link", vec![format!("{network} on {name}")]);
        } else if own.addr().is_ipv4() && network.contains(&pool) {
            let reserved = [(network.network(), "network"), (network.broadcast(), "broadcast")];
            let reserved = reserved.iter().filter(|(address, _)| pool.contains(address));
            let reserved = reserved
                .map(|(address, kind)| format!("{address}, the {kind} address of {network} on {name}"));
            others("an address that is not a host's", reserved.collect());
        }
    }
    found.extend(own_addresses(pool, params, machine));
    found
}

/// Pool addresses that the machine has on an interface.
fn own_addresses(pool: IpNet, params: &SteeringParams, machine: &MachineNetwork) -> Vec<Conflict> {
    let mut found = Vec::new();
    for (link, own) in machine.addresses().filter(|(_, own)| pool.contains(&own.addr())) {
        let (name, address) = (&link.ifname, own.addr());
        if params.interfaces.iter().any(|one| one.covers(name)) {
            let on = format!(
                "pool addresses {pool} include {address}, which is on {name}, where clients' packets arrive"
            );
            let fix = "remove it from [[pool]] addresses".to_owned();
            found.push(Conflict {
                gravity: ConflictSeverity::Doubtful,
                found: on,
                why: "servers' answers may not reach it",
                fix,
            });
        } else if machine.uplinks[usize::from(address.is_ipv6())].contains(name) && is_first(link, address) {
            let leaves = format!(
                "pool addresses {pool} include {address}, which this machine's own connections leave from"
            );
            let fix = "give the pool an address of its own, or let the firewall accept untracked packets (docs/steering.md)";
            let why = "Egret's flows are not tracked by conntrack, and a stateful nftables firewall drops their answers";
            found.push(Conflict {
                gravity: ConflictSeverity::Doubtful,
                found: leaves,
                why,
                fix: fix.to_owned(),
            });
        }
    }
    found
}

/// True if the kernel prefers the address as the source of packets on its link.
fn is_first(link: &LinkEntry, address: IpAddr) -> bool {
    let mut same =
        link.addr_info.iter().filter(|one| one.local.is_some_and(|own| own.is_ipv4() == address.is_ipv4()));
    address.is_ipv4() && same.find(|one| !one.secondary).is_some_and(|one| one.local == Some(address))
}

#[cfg(test)]
mod tests;
