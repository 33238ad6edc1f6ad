//! The compiled decision against the rules read one by one.

use super::*;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

const NAMES: [&str; 7] = ["test", "a.test", "b.a.test", "c.b.a.test", "b.test", "x.y", "y"];
const NETWORKS: [&str; 9] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.0.1.0/24",
    "10.0.1.1/32",
    "8.8.0.0/16",
    "::/0",
    "2001:db8::/32",
    "fd00::/8",
    "::ffff:8.8.8.0/120",
];
const ADDRESSES: [&str; 9] =
    ["10.0.1.1", "10.0.1.2", "10.9.9.9", "8.8.8.8", "8.8.4.4", "127.0.0.1", "2001:db8::1", "fd00::1", "::1"];
const PORTS: [(u16, u16); 6] = [(443, 443), (80, 80), (1, 1024), (400, 500), (444, 65535), (81, 442)];

fn any_rule() -> impl Strategy<Value = RuleSpec> {
    let hosts = (subsequence(&NAMES[..], 0..3), any::<u8>()).prop_map(|(names, wild)| {
        let pattern =
            |(at, name): (usize, &str)| if wild >> at & 1 == 1 { format!("*.{name}") } else { name.into() };
        names.into_iter().enumerate().map(pattern).collect::<Vec<String>>()
    });
    let networks = prop_oneof![Just(vec![]), subsequence(&NETWORKS[..], 0..4)];
    let ports = prop_oneof![Just(vec![]), subsequence(&PORTS[..], 0..4).prop_shuffle()];
    let effect = prop_oneof![3 => Just(RuleEffect::Allow), 1 => Just(RuleEffect::Deny)];
    (effect, hosts, networks, ports, any::<bool>(), any::<bool>(), 0..1000_u32).prop_map(
        |(effect, hosts, networks, ports, unseen, other, label)| {
            let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
            let uninspected = unseen && hosts.is_empty() && effect == RuleEffect::Allow;
            let other_protocols = other && hosts.is_empty() && effect == RuleEffect::Allow;
            RuleSpec {
                uninspected,
                other_protocols,
                ..rule(effect, &label.to_string(), &hosts, &networks, &ports)
            }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn compiled_policy_matches_naive_evaluation(
        rules in prop::collection::vec(any_rule(), 0..8),
        private in select(vec![PrivateDestinations::ByCidr, PrivateDestinations::Allow]),
        ech in select(vec![EchPolicy::Outer, EchPolicy::Deny]),
        offered in any::<bool>(),
        flows in prop::collection::vec(
            (select([&NAMES[..], &["z.test", "d.c.b.a.test", "-", "?", "a..b"]].concat()), select(&ADDRESSES[..]),
                select(vec![1, 80, 81, 443, 450, 65535])),
            16,
        ),
    ) {
        let spec = TenantSpec { ech, ..tenant_spec("acme", &[], rules) };
        let reach = Arc::new(NameReach::new(&private.into(), std::slice::from_ref(&spec)));
        let tenant = TenantRules::compile(&spec, 0, &reach, &mut RuleScopes::default()).unwrap();
        for (name, address, port) in flows {
            let (asked, to) = (asked(name), OriginalDestination::tcp((address.parse::<std::net::IpAddr>().unwrap(), port).into()));
            let explained = oracle::explain(&spec, &reach, &asked, offered, to);
            prop_assert_eq!(&tenant.explain(&asked, offered, to), &explained);
            let unseen = tenant.decide_unseen(to);
            prop_assert_eq!(unseen.is_some(), !explained.inspected);
            let (denied, rule) = match unseen.map_or_else(|| tenant.decide(&asked, offered, to), Ok) {
                Ok(permit) => {
                    prop_assert_eq!(permit.dial().socket(), to.socket());
                    (None, permit.rule().cloned())
                }
                Err(denial) => (Some(denial.outcome), denial.rule),
            };
            prop_assert_eq!((denied, rule), (explained.denied, explained.rule), "{:?} {:?} {}", spec.rules, asked, to);
            // and the deciding rule is reported as such
            let deciding = explained.rules.iter().filter(|rule| rule.finding == MatchFinding::Decides).count();
            let by_rule = explained.denied.is_none() || explained.denied == Some(Outcome::DeniedByRule);
            prop_assert_eq!(deciding, usize::from(by_rule));
        }
    }

    #[test]
    fn added_rules_are_monotonic(
        rules in prop::collection::vec(any_rule(), 0..6),
        more in any_rule(),
        at in 0..7_usize,
        name in select([&NAMES[..], &["-", "?", "a..b"]].concat()),
        address in select(&ADDRESSES[..]),
    ) {
        let mut longer = rules.clone();
        longer.insert(at.min(rules.len()), more.clone());
        let to = OriginalDestination::tcp((address.parse::<std::net::IpAddr>().unwrap(), 443).into());
        let allowed = |rules: Vec<RuleSpec>| {
            tenant(rules, PrivateDestinations::ByCidr).decide(&asked(name), false, to).is_ok()
        };
        let (before, after) = (allowed(rules), allowed(longer));
        match more.effect {
            RuleEffect::Allow => prop_assert!(after || !before),
            RuleEffect::Deny => prop_assert!(before || !after),
        }
    }
}
