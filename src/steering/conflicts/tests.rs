//! Conflicts of one machine with several configurations.

use super::super::tests::params;
use super::super::{InterceptedPorts, MachineOutput, SteeredPool};
use super::*;
use crate::addr::PortRange;

fn machine() -> MachineNetwork {
    let told = MachineOutput {
        addresses: r#"[{"ifname":"lo","addr_info":[{"family":"inet","local":"127.0.0.1","prefixlen":8}]},
            {"ifname":"ens5","altnames":["enp0s5"],"addr_info":[
                {"family":"inet","local":"198.51.100.1","prefixlen":24,"broadcast":"198.51.100.255"},
                {"family":"inet","local":"198.51.100.77","prefixlen":24,"secondary":true},
                {"family":"inet6","local":"2001:db8:51::1","prefixlen":64}]},
            {"ifname":"ens6","addr_info":[{"family":"inet","local":"10.0.1.1","prefixlen":24}]},
            {"ifname":"veth7"}]"#
            .into(),
        routes: [
            r#"[{"dst":"default","gateway":"198.51.100.254","dev":"ens5"},
                {"dst":"192.0.2.0/24","nexthops":[{"gateway":"198.51.100.250","dev":"ens5"}]},
                {"dst":"10.0.1.0/24","dev":"ens6","scope":"link"}]"#
                .into(),
            r#"[{"dst":"default","via":{"family":"inet6","host":"2001:db8:51::fe"},"dev":"ens5"}]"#.into(),
        ],
        neighbours:
            r#"[{"dst":"198.51.100.254","dev":"ens5","lladdr":"00:00:00:00:00:01","state":["REACHABLE"]},
            {"dst":"198.51.100.9","dev":"ens5","lladdr":"00:00:00:00:00:02","state":["STALE"]},
            {"dst":"198.51.100.10","dev":"ens5","state":["INCOMPLETE"]}]"#
                .into(),
        resolv_conf:
            "# a comment\nnameserver 198.51.100.53 # vpc\nnameserver\tfe80::1%ens5\nnameserver 127.0.0.53\n"
                .into(),
        resolved_conf: "nameserver 198.51.100.54\nsearch example.org\n".into(),
        first_port: 1024,
        strict_interfaces: Vec::new(),
        bridges: Default::default(),
    };
    MachineNetwork::read(&told, ["2001:db8:51::53".parse().unwrap()])
}

fn of(pool: &str) -> Vec<(bool, String)> {
    of_machine(pool, &machine())
}

fn of_machine(pool: &str, machine: &MachineNetwork) -> Vec<(bool, String)> {
    let pool = SteeredPool { network: pool.parse().unwrap(), ports: PortRange::new(1024, 65535).unwrap() };
    let params = SteeringParams { pools: vec![pool], ports: InterceptedPorts::All, ..params() };
    let found = conflicts(&params, machine).into_iter();
    found.map(|one| (one.gravity == ConflictSeverity::Refused, one.found)).collect()
}

#[test]
fn pool_of_own_addresses_has_no_conflict() {
    for pool in
        ["203.0.113.16/28", "198.51.100.77/32", "198.51.100.16/28", "2001:db8:100::/64", "2001:db8:51:1::/64"]
    {
        assert_eq!(of(pool), [], "{pool}");
    }
}

#[test]
fn pool_with_ends_of_links_names_them() {
    let told = MachineOutput {
        addresses: r#"[
            {"ifname":"ppp0","addr_info":[{"local":"192.0.2.1","address":"192.0.2.2","prefixlen":32}]},
            {"ifname":"vxlan7","linkinfo":{"info_kind":"vxlan","info_data":{"remote":"192.0.2.3"}}},
            {"ifname":"vxlan8","linkinfo":{"info_kind":"vxlan","info_data":{"remote6":"2001:db8:52::3"}}},
            {"ifname":"gre0","linkinfo":{"info_kind":"gre","info_data":{"remote":"any"}}}]"#
            .into(),
        ..MachineOutput::default()
    };
    let machine = MachineNetwork::read(&told, []);
    for (pool, end) in [
        ("192.0.2.2/32", "192.0.2.2 of ppp0"),
        ("192.0.2.3/32", "192.0.2.3 of vxlan7"),
        ("2001:db8:52::/64", "2001:db8:52::3 of vxlan8"),
    ] {
        let expected = format!("pool addresses {pool} include the other end of a link or tunnel: {end}");
        assert_eq!(of_machine(pool, &machine), [(false, expected)]);
    }
    assert_eq!(of_machine("192.0.2.4/32", &machine), []);
}

#[test]
fn pool_with_foreign_addresses_names_them() {
    for (pool, refused, expected) in [
        ("198.51.100.254/32", true, "the next hop of a route: 198.51.100.254"),
        ("198.51.100.250/32", true, "the next hop of a route: 198.51.100.250"),
        ("2001:db8:51::fe/128", true, "the next hop of a route: 2001:db8:51::fe"),
        ("198.51.100.53/32", true, "a DNS server: 198.51.100.53"),
        ("198.51.100.54/32", true, "a DNS server: 198.51.100.54"),
        ("2001:db8:51::53/128", true, "a DNS server: 2001:db8:51::53"),
        ("198.51.100.8/30", false, "other hosts on a link: 198.51.100.9 on ens5"),
        ("198.51.100.255/32", false, "198.51.100.255, the broadcast address of 198.51.100.0/24 on ens5"),
        ("10.0.0.0/16", false, "a whole network of a link: 10.0.1.0/24 on ens6"),
        ("10.0.1.1/32", false, "10.0.1.1, which is on ens6, where clients' packets arrive"),
        ("198.51.100.1/32", false, "198.51.100.1, which this machine's own connections leave from"),
    ] {
        let found = of(pool);
        assert!(
            found.iter().any(|(hard, found)| *hard == refused && found.ends_with(expected)),
            "{pool}: {found:?}"
        );
    }
    let whole = of("198.51.100.0/24");
    assert_eq!(whole.iter().filter(|(refused, _)| *refused).count(), 2, "{whole:?}");
    assert!(whole.len() >= 4, "{whole:?}");
}

#[test]
fn privileged_pool_ports_are_reported() {
    let machine = MachineNetwork { first_port: 2048, ..machine() };
    let found = conflicts(&params(), &machine);
    assert!(found.len() == 1 && found[0].found.contains("below 2048"), "{found:?}");
}

#[test]
fn bridges_bypassing_the_listener_are_reported() {
    let of = |name: &str, call: u8, all: &str| -> Vec<_> {
        let addresses = format!(
            r#"[{{"ifname":"br0","linkinfo":{{"info_kind":"bridge","info_data":{{"nf_call_iptables":{call}}}}}}},
                {{"ifname":"veth7","master":"br0","linkinfo":{{"info_kind":"veth","info_slave_kind":"bridge","info_data":{{}}}}}}]"#
        );
        let told =
            MachineOutput { addresses, bridges: [all.into(), String::new()], ..MachineOutput::default() };
        let interfaces = vec![Interface::parse(name).unwrap()];
        let found = conflicts(&SteeringParams { interfaces, ..params() }, &MachineNetwork::read(&told, []))
            .into_iter();
        found.map(|one| (one.gravity, one.fix)).collect()
    };
    assert_eq!(of("br0", 0, "0"), []);
    for found in [of("br0", 1, "0"), of("br*", 0, "1\n")] {
        assert!(
            found.len() == 1
                && found[0].0 == ConflictSeverity::Broken
                && found[0].1.contains("nf-call-iptables=0")
        );
    }
    assert_eq!(
        of("veth7", 0, ""),
        [(ConflictSeverity::Broken, "write br0 in [steering] interfaces".to_owned())]
    );
    assert_eq!(of("veth*", 0, "")[0].0, ConflictSeverity::Doubtful);
}

#[test]
fn clients_on_other_interfaces_are_reported() {
    use ConflictSeverity::{Broken, Doubtful};
    for (interface, source, elsewhere) in [
        // Neighbours.
        ("ens5", "10.0.1.0/24", Some(Broken)),
        ("ens5", "10.0.1.128/25", Some(Broken)),
        ("ens5", "10.0.1.7/32", Some(Broken)),
        ("ens6", "10.0.1.0/24", None),
        ("ens*", "10.0.1.0/24", None),
        // Some of them are neighbours; others may come in elsewhere.
        ("ens5", "10.0.0.0/16", Some(Doubtful)),
        // Behind a router, answers may take another way than questions.
        ("ens5", "10.7.0.0/16", Some(Doubtful)),
        ("ens6", "10.7.0.0/16", None),
        // Nothing is known; of clients anywhere, what leads elsewhere is a hint.
        ("ens6", "172.16.0.0/24", None),
        ("ens5", "172.16.0.0/24", None),
        ("ens5", "0.0.0.0/0", Some(Doubtful)),
        ("ens6", "0.0.0.0/0", None),
        // Two interfaces are in the clients' network.
        ("veth7", "10.9.1.0/24", None),
        ("ens6", "10.9.1.0/24", None),
    ] {
        let interfaces = vec![Interface::parse(interface).unwrap()];
        let params = SteeringParams { interfaces, sources: vec![source.parse().unwrap()], ..params() };
        let mut machine = machine();
        let route = |network: &str, name: &str| (network.parse().unwrap(), name.to_owned());
        machine.routes.push(route("10.7.0.0/16", "ens6"));
        machine.routes.push(route("10.9.1.0/24", "ens6"));
        for (link, address) in [("ens6", "10.9.1.1"), ("veth7", "10.9.1.2")] {
            let link = machine.links.iter_mut().find(|one| one.ifname == link).unwrap();
            let entry = format!(r#"{{"local":"{address}","prefixlen":24}}"#);
            link.addr_info.push(serde_json::from_str(&entry).unwrap());
        }
        let found = conflicts(&params, &machine);
        let told = found.iter().find(|one| {
            one.found.contains(&format!("{source} is by ens6"))
                || one.found.contains(&format!("{source} arrive by ens6"))
        });
        assert_eq!(told.map(|one| one.gravity), elsewhere, "{interface}, {source}: {found:?}");
    }
}

#[test]
fn large_part_of_clients_elsewhere_is_reported() {
    for (source, part, by, told) in [
        ("10.1.0.0/16", "10.1.128.0/17", "wg0", true),
        ("10.1.0.0/16", "10.1.16.0/20", "wg0", true),
        ("10.1.0.0/16", "10.1.0.0/16", "wg0", false),
        // Too narrow to tell, as a network of management.
        ("10.1.0.0/16", "10.1.9.0/24", "wg0", false),
        ("10.0.0.0/8", "10.1.128.0/17", "wg0", false),
        ("0.0.0.0/0", "10.1.128.0/17", "wg0", false),
        // The uplink's own network, that of containers, and one that a steered interface has, too.
        ("10.1.0.0/16", "10.1.128.0/17", "ens5", false),
        ("10.1.0.0/16", "10.1.128.0/17", "docker0", false),
        ("10.1.0.0/16", "10.1.0.0/17", "wg0", false),
    ] {
        let mut machine = machine();
        let route = |network: &str, name: &str| (network.parse().unwrap(), name.to_owned());
        machine
            .links
            .push(serde_json::from_str(r#"{"ifname":"docker0","linkinfo":{"info_kind":"bridge"}}"#).unwrap());
        let steered = [route("10.1.0.0/16", "ens6"), route("10.1.0.0/17", "ens6")];
        machine.routes.extend(steered.into_iter().chain([route(part, by)]));
        let interfaces = vec![Interface::parse("ens6").unwrap()];
        let params = SteeringParams { interfaces, sources: vec![source.parse().unwrap()], ..params() };
        let found = conflicts(&params, &machine);
        let is_told =
            found.iter().any(|one| one.found.starts_with(&format!("clients in {part}, of {source}")));
        assert_eq!(is_told, told, "{source}, {part} by {by}: {found:?}");
    }
}

#[test]
fn clients_that_rp_filter_drops_are_reported() {
    for (interface, source, strict, is_dropped) in [
        ("ens6", "172.16.0.0/24", &["ens6"][..], true),
        ("ens*", "172.16.0.0/24", &["ens5", "ens6"], false),
        ("ens6", "172.16.0.0/24", &["ens5"], false),
        ("ens6", "10.0.1.0/24", &["ens6"], false),
        ("ens6", "0.0.0.0/0", &["ens6"], false),
        ("ens6", "fd00:7::/64", &["ens6"], false),
        ("veth7", "10.0.1.0/24", &["veth7"], true),
    ] {
        let interfaces = vec![Interface::parse(interface).unwrap()];
        let params = SteeringParams { interfaces, sources: vec![source.parse().unwrap()], ..params() };
        let strict_interfaces = strict.iter().map(|name| (*name).to_owned()).collect();
        let found = conflicts(&params, &MachineNetwork { strict_interfaces, ..machine() });
        let told = found
            .iter()
            .any(|one| one.found.starts_with("rp_filter=1 on ") && one.gravity == ConflictSeverity::Broken);
        assert_eq!(told, is_dropped, "{interface}, {source}: {found:?}");
    }
}

#[test]
fn ipv6_routes_tell_nothing_of_ipv4_clients() {
    let [default, _] = machine().uplinks;
    for (v4, v6, told) in [
        (default.clone(), default.clone(), true),
        (default.clone(), BTreeSet::from(["ens6".to_owned()]), true),
        (BTreeSet::new(), default, false),
    ] {
        let source = "172.16.0.0/24".parse().unwrap();
        let params = SteeringParams { sources: vec![source], ..params() };
        let strict_interfaces = ["ens6", "veth7"].map(str::to_owned).into();
        let machine = MachineNetwork { strict_interfaces, uplinks: [v4, v6], ..machine() };
        let found = clients::filtered(&params, &machine);
        assert_eq!(found.len(), usize::from(told), "{:?}: {found:?}", machine.uplinks);
    }
}

#[test]
fn missing_interfaces_are_named() {
    let told = |names: &[&str], machine: &MachineNetwork| -> Vec<String> {
        let interfaces = names.iter().map(|name| Interface::parse(name).unwrap()).collect();
        let missing = missing_interfaces(&SteeringParams { interfaces, ..params() }, machine);
        missing.into_iter().map(|conflict| conflict.found + "; " + &conflict.fix).collect()
    };
    assert_eq!(told(&["ens6", "veth*"], &machine()), Vec::<String>::new());
    let found = told(&["ens7", "br-*", "enp0s5"], &machine());
    assert!(
        found[0].contains("called ens7;") && found[0].ends_with("there are: ens5, ens6, veth7"),
        "{found:?}"
    );
    assert!(found[1].contains("called br-*;"), "{found:?}");
    assert!(
        found[2].contains("alternative name of ens5") && found[2].contains("write \"ens5\""),
        "{found:?}"
    );
    assert_eq!(told(&["ens7"], &MachineNetwork::default()), Vec::<String>::new());
}
