//! Wildcards beside many names.

use super::*;

fn tally() -> TargetTally {
    TargetTally {
        flows: 1,
        answered: 1,
        would_deny: 0,
        last: Timestamp::UNIX_EPOCH,
        to: crate::addr::OriginalDestination::tcp("198.51.100.7:443".parse().unwrap()),
        outcome: None,
        sent: Vec::new(),
    }
}

fn name(label: &str, number: u16) -> Hostname {
    Hostname::canonicalize(format!("{label}{number}.example.org").as_bytes()).unwrap()
}

#[test]
fn wildcards_look_at_few_of_many_names() {
    const NAMES: u16 = 20_000;
    // Each five names have a port of their own beside 443, and so a rule.
    let names: BTreeMap<_, _> = (0..NAMES / 2)
        .flat_map(|number| [443, 1000 + number / 5].map(|port| ((name("ok", number), port), tally())))
        .collect();
    let denied: Tallies =
        (0..NAMES).map(|number| ((SeenTarget::Name(name("bad", number)), 443), tally())).collect();
    let around = Surroundings::new(&names, &denied);
    let rules = grouped(&names);
    assert_eq!(rules.len(), usize::from(NAMES / 10));
    for rule in &rules {
        let (count, looked_at) = around.opened(&rule.domain, &rule.ports);
        assert_eq!((count, looked_at.len()), (NAMES.into(), LOOKED_AT));
        let wildcards = around.wildcards(rule);
        assert_eq!((wildcards.len(), wildcards[0].covers, wildcards[0].opens_denied), (1, 5, NAMES.into()));
    }
}

#[test]
fn name_denied_on_two_ports_counts_once() {
    let denied: Tallies =
        [80, 443, 8443].into_iter().map(|port| ((SeenTarget::Name(name("bad", 1)), port), tally())).collect();
    let names = BTreeMap::new();
    let around = Surroundings::new(&names, &denied);
    assert_eq!(around.opened("example.org", &[80, 443]), (1, [&name("bad", 1)].into()));
    assert_eq!(around.opened("example.org", &[22]), (0, BTreeSet::new()));
}
