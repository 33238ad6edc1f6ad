//! Faults of the steered interfaces: those by which nothing comes in, and those whose packets the kernel drops.

use super::fault::{Lost, Part, Remedy};
use crate::interface::Interface;
use crate::sys::links::Port;
use std::fs;

/// Kinds of interfaces that take over their ports' packets before packet filters see them.
pub(in crate::steering) const TAKE_OVER: [&str; 3] = ["bridge", "bond", "team"];

/// The faults of interfaces that have a name, among those that are present. Interfaces of patterns come and go.
pub(super) fn faults(
    interfaces: &[Interface],
    present: &[String],
    ports: &[Port],
    drops: impl Fn(&str) -> bool,
) -> Vec<Lost> {
    let lost = |what, remedy| Lost { part: Part::Interfaces, what, remedy };
    let is_steered = |name: &str| interfaces.iter().any(|one| one.covers(name));
    let mut found = Vec::new();
    for interface in interfaces.iter().filter(|interface| !interface.is_pattern()) {
        let Some(name) = present.iter().find(|name| interface.covers(name)) else {
            let what = format!("there is no interface {interface}, so nothing comes in there");
            found.push(lost(what, Remedy::Interfaces));
            continue;
        };
        let mut takers = ports.iter().filter(|port| port.name == *name);
        if let Some(Port { master, kind, .. }) =
            takers.find(|port| TAKE_OVER.contains(&&*port.kind) && !is_steered(&port.master))
        {
            let what = format!(
                "{name} is a port of {kind} {master}, so nothing comes in there: name {master} in [steering] interfaces"
            );
            found.push(lost(what, Remedy::Interfaces));
        }
        if drops(name) {
            let what = format!(
                "src_valid_mark=1 with rp_filter on {name}: the kernel drops every intercepted IPv4 packet there"
            );
            found.push(lost(what, Remedy::SourceValidation));
        }
    }
    found
}

/// True if the kernel's settings drop intercepted IPv4 packets that come in by an interface. With `src_valid_mark`,
/// reverse-path filtering looks up the client by the mark too, finds it local, and drops the packet.
pub fn drops_marked(interface: &str) -> bool {
    together_drop(settings(interface, "rp_filter"), settings(interface, "src_valid_mark"))
}

/// True if the kernel drops IPv4 packets that it would not answer by the interface: `rp_filter` is 1, of `all` and the interface
/// the larger value.
pub fn is_strict(interface: &str) -> bool {
    settings(interface, "rp_filter").into_iter().max() == Some(1)
}

/// A setting of `all` and of the interface.
fn settings(interface: &str, name: &str) -> [u64; 2] {
    ["all", interface].map(|of| {
        let value = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{of}/{name}")).unwrap_or_default();
        value.trim().parse().unwrap_or_default()
    })
}

/// The kernel takes the larger value of `all` and the interface for `rp_filter`, and either one for `src_valid_mark`.
fn together_drop(rp_filter: [u64; 2], src_valid_mark: [u64; 2]) -> bool {
    rp_filter.iter().any(|value| *value > 0) && src_valid_mark.iter().any(|value| *value > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(interfaces: &[&str], drops: &str) -> Vec<String> {
        let port = |name: &str, master: &str, kind: &str| Port {
            name: name.into(),
            master: master.into(),
            kind: kind.into(),
        };
        let ports =
            [port("ens6", "br0", "bridge"), port("ens7", "bond0", "bond"), port("ens8", "red", "vrf")];
        let present = ["lo", "ens6", "ens7", "ens8", "br0", "bond0", "red"].map(str::to_owned);
        let parsed: Vec<_> = interfaces.iter().map(|name| Interface::parse(name).unwrap()).collect();
        let faults = faults(&parsed, &present, &ports, |name| name == drops);
        faults.into_iter().map(|lost| lost.what).collect()
    }

    #[test]
    fn interfaces_match_by_whole_name() {
        assert_eq!(told(&["ens8", "br-*"], ""), Vec::<String>::new());
        assert_eq!(told(&["ens"], ""), ["there is no interface ens, so nothing comes in there"]);
    }

    #[test]
    fn ports_of_unsteered_masters_are_told() {
        let found = told(&["ens6", "ens7", "ens8"], "");
        assert!(
            found[0].contains("ens6 is a port of bridge br0")
                && found[0].ends_with("name br0 in [steering] interfaces")
        );
        assert!(found[1].contains("ens7 is a port of bond bond0"), "{found:?}");
        assert_eq!(found.len(), 2, "packet filters see what comes in by a VRF: {found:?}");
        assert_eq!(told(&["ens6", "br0", "ens7", "bond*"], ""), Vec::<String>::new());
    }

    #[test]
    fn dropped_packets_are_told() {
        assert!(told(&["ens8"], "ens8")[0].contains("drops every intercepted IPv4 packet"));
        let both = [[0, 1], [1, 0], [2, 2]];
        for rp_filter in both {
            for src_valid_mark in both {
                assert!(together_drop(rp_filter, src_valid_mark));
            }
            assert!(!together_drop(rp_filter, [0, 0]) && !together_drop([0, 0], rp_filter));
        }
    }
}
