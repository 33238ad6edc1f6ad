//! Cures for every place in the packet filter.

use super::*;
use crate::cli::mend::tests::assert_runnable;
use crate::interface::Interface;
use crate::steering::{SteeredPool, UdpTreatment, default_ephemeral};
use crate::transport::Transport;

const OWNERS: [RuleOwner; 10] = [
    RuleOwner::Egret,
    RuleOwner::Ufw,
    RuleOwner::Firewalld,
    RuleOwner::Docker,
    RuleOwner::Kubernetes,
    RuleOwner::Libvirt,
    RuleOwner::Fail2ban,
    RuleOwner::CloudImage,
    RuleOwner::NftablesService,
    RuleOwner::Administrator,
];

fn params(ports: InterceptedPorts) -> SteeringParams {
    let pool = |network: &str| SteeredPool {
        network: network.parse().unwrap(),
        ports: PortRange::new(1024, 65535).unwrap(),
    };
    SteeringParams {
        interfaces: vec![Interface::parse("c0").unwrap()],
        sources: Vec::new(),
        transport: Transport::Tcp,
        ports,
        udp: UdpTreatment::Reject,
        listen_port: 15001,
        mark: 0x4000,
        table: 4321,
        pools: vec![pool("203.0.113.16/28"), pool("2001:db8:100::/64")],
        resolvers: Vec::new(),
        ephemeral: default_ephemeral(),
    }
}

fn web() -> InterceptedPorts {
    InterceptedPorts::List(
        [(443, 443), (80, 80), (8000, 8010)].map(|(a, b)| PortRange::new(a, b).unwrap()).into(),
    )
}

/// The commands for every hook, owner, family, leg and state of the mark.
fn all(params: &SteeringParams, each: impl Fn(&PacketEnd<'_>, Leg, &str)) {
    let sources: Vec<IpNet> = vec!["10.0.1.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()];
    for (hook, v4) in Hook::ALL.into_iter().flat_map(|hook| [(hook, true), (hook, false)]) {
        let ip = if v4 { "ip" } else { "ip6" };
        for (family, table, chain) in
            [(ip, "filter", hook.builtin()), ("inet", "others", "chain"), ("netdev", "others", "chain")]
        {
            for (owner, marked) in OWNERS.into_iter().flat_map(|owner| [(owner, true), (owner, false)]) {
                for leg in [Leg::Client, Leg::Pool] {
                    let end = PacketEnd { family, table, chain, hook, owner, marked };
                    let cure = Cure { params, leg, v4, device: "c0", sources: &sources };
                    each(&end, leg, cure.accept(&end).commands());
                }
            }
        }
    }
}

#[test]
fn every_cure_runs_in_a_shell() {
    let mut seen = std::collections::BTreeSet::new();
    for params in [params(web()), params(InterceptedPorts::All)] {
        let commands = std::cell::RefCell::new(Vec::new());
        all(&params, |_, _, command| commands.borrow_mut().push(command.to_owned()));
        seen.extend(commands.into_inner());
    }
    assert!(seen.len() > 50, "{seen:#?}");
    for commands in &seen {
        assert_runnable(commands);
    }
}

/// A whole interface's TCP includes ssh to the gateway.
#[test]
fn no_cure_opens_a_whole_interface() {
    const LIMITS: [&str; 11] = [
        "icmpv6-type",
        "icmpv6 type",
        "--mark",
        "meta mark",
        "--dport",
        "tcp dport",
        "tcp sport",
        "UNTRACKED",
        "untracked",
        "203.0.113.16",
        "2001:db8:100",
    ];
    const OF_ALL_PORTS: [&str; 2] = ["10.0.1.0/24", "fd00:1::/64"];
    for (ports, more) in [(web(), &[][..]), (InterceptedPorts::All, &OF_ALL_PORTS)] {
        all(&params(ports), |end, leg, commands| {
            let rules =
                commands.split("; ").filter(|rule| rule.contains("ACCEPT") || rule.ends_with("accept'"));
            for rule in rules.filter(|rule| !rule.starts_with("firewall-cmd")) {
                let is_narrow = LIMITS.iter().chain(more).any(|limit| rule.contains(limit));
                assert!(is_narrow, "{end:?}, {leg:?}: {rule}");
            }
        });
    }
}

/// A firewall that drops what is not named takes neighbour discovery with the SYN, and one cure has to do.
#[test]
fn ipv6_cures_let_neighbour_discovery_pass() {
    all(&params(web()), |end, leg, commands| {
        let is_v6 = end.family == "ip6" || end.family == "inet";
        let takes_it = [Hook::Input, Hook::Output].contains(&end.hook);
        if is_v6 && takes_it && end.owner != RuleOwner::Firewalld {
            for [iptables, nft] in [
                ["neighbour-solicitation", "nd-neighbor-solicit"],
                ["neighbour-advertisement", "nd-neighbor-advert"],
                ["router-advertisement", "nd-router-advert"],
            ] {
                assert!(
                    commands.contains(iptables) || commands.contains(nft),
                    "{end:?}, {leg:?}: {commands}"
                );
            }
        }
        assert!(end.family != "ip" || !commands.contains("icmpv6 type"), "{commands}");
    });
}
