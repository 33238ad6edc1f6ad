//! States of families, and the clients that are refused for them.

use super::*;

fn ranges(clients: &[(&str, &str)], v4: bool) -> RefusedClients {
    let states = [
        ("both", [FamilyReachability::Yes, FamilyReachability::Yes]),
        ("old", [FamilyReachability::Yes, FamilyReachability::No]),
        ("new", [FamilyReachability::No, FamilyReachability::Unrouted]),
    ];
    let states = states.into_iter().map(|(name, states)| (Arc::from(name), states)).collect();
    let clients: Vec<_> =
        clients.iter().map(|(network, pool)| (network.parse().unwrap(), Arc::from(*pool))).collect();
    refused(&clients, &states, v4)
}

fn shown(ranges: &[(IpAddr, IpAddr)]) -> Vec<String> {
    ranges.iter().map(|(first, last)| format!("{first}-{last}")).collect()
}

#[test]
fn family_without_clients_is_not_told() {
    let clients = |all: &[(&str, &str)]| -> Vec<ClientPool> {
        all.iter().map(|(network, pool)| (network.parse().unwrap(), Arc::from(*pool))).collect()
    };
    let states =
        ["old", "both"].map(|pool| (Arc::from(pool), [FamilyReachability::Yes, FamilyReachability::No]));
    let of = |all: &[(&str, &str)]| of_used(&used(&clients(all)), &states.iter().cloned().collect());
    let told = |before: &FamilyStates, now: &FamilyStates| -> Vec<_> {
        changes(before, now).map(|((pool, family), state)| (pool.to_string(), *family, state)).collect()
    };
    let dual = of(&[("10.0.1.0/24", "old"), ("10.0.2.0/24", "both"), ("fd00::/8", "both")]);
    let refused = ("both".to_owned(), Family::V6, FamilyReachability::No);
    assert_eq!(told(&FamilyStates::new(), &dual), std::slice::from_ref(&refused));
    // A reload takes the last IPv6 clients away, and another brings some again.
    let single = of(&[("10.0.1.0/24", "old"), ("10.0.2.0/24", "both")]);
    assert_eq!(told(&dual, &single), []);
    assert_eq!(told(&single, &dual), [refused]);
}

#[test]
fn route_for_others_alone_refuses_everywhere() {
    use FamilyReachability::{PoolUnrouted, Yes};
    let states = [(Arc::from("p"), [Yes, PoolUnrouted])].into();
    let refused = refused(&[("2001:db8::/32".parse().unwrap(), Arc::from("p"))], &states, false);
    assert_eq!((refused.everywhere.len(), refused.unrouted.len()), (1, 0));
}

#[test]
fn explanation_follows_the_kernels_refusals() {
    use FamilyReachability::{No, PoolUnrouted, Unrouted, Yes};
    let refused = |state, way| {
        let refused = RefusedFamilies([(Arc::from("p"), [Yes, state])].into());
        assert_eq!(
            refused.refusal_by("p", "192.0.2.1".parse().unwrap(), |_| Some(RouteDecision::Nowhere)),
            None
        );
        assert_eq!(refused.refusal_by("new", "2001:db8::1".parse().unwrap(), |_| None), None);
        refused.refusal_by("p", "2001:db8::1".parse().unwrap(), |_| way)
    };
    let (out, nowhere) = (Some(RouteDecision::Out), Some(RouteDecision::Nowhere));
    for (state, way, expected) in [
        (Yes, nowhere, None),
        (Unrouted, nowhere, Some(FamilyRefusal::NoRoute)),
        (Unrouted, out, None),
        (Unrouted, None, None),
        (PoolUnrouted, out, Some(FamilyRefusal::PoolRuledOut)),
        (No, out, Some(FamilyRefusal::NoAddress)),
    ] {
        assert_eq!(refused(state, way), expected, "{state:?}, {way:?}");
    }
}

#[test]
fn unread_counts_do_not_fall() {
    let mut counted = [0; 2];
    keep_last(&mut counted, &Ok([7, 2]));
    keep_last(&mut counted, &Err(io::ErrorKind::TimedOut.into()));
    assert_eq!(counted, [7, 2]);
}

#[test]
fn longest_prefix_decides_refusal() {
    let clients = [
        ("2001:db8::/32", "old"),
        ("2001:db8:1::/48", "both"),
        ("2001:db8:1:1::/64", "old"),
        ("2001:db9::/32", "old"),
        ("2001:dba::/32", "new"),
        ("10.0.0.0/8", "new"),
        ("10.0.0.0/9", "both"),
    ];
    let v6 = ranges(&clients, false);
    assert_eq!(
        shown(&v6.everywhere),
        [
            "2001:db8::-2001:db8:0:ffff:ffff:ffff:ffff:ffff",
            "2001:db8:1:1::-2001:db8:1:1:ffff:ffff:ffff:ffff",
            "2001:db8:2::-2001:db9:ffff:ffff:ffff:ffff:ffff:ffff"
        ]
    );
    assert_eq!(shown(&v6.unrouted), ["2001:dba::-2001:dba:ffff:ffff:ffff:ffff:ffff:ffff"]);
    assert_eq!(shown(&ranges(&clients, true).everywhere), ["10.128.0.0-10.255.255.255"]);
}

#[test]
fn ranges_include_the_last_address() {
    let all = ranges(&[("::/0", "old"), ("ffff::/16", "both"), ("0.0.0.0/0", "new")], false);
    assert_eq!(shown(&all.everywhere), ["::-fffe:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]);
    let all = ranges(&[("::/0", "old"), ("0.0.0.0/0", "new"), ("255.255.255.255/32", "new")], true);
    assert_eq!(shown(&all.everywhere), ["0.0.0.0-255.255.255.255"]);
}
