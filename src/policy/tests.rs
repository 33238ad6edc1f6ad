//! Decisions as tables, and the compiled decision against the rules read one by one.

mod judgements;
mod oracle;
mod properties;
pub(crate) mod written;

use super::*;
use crate::addr::{OriginalDestination, PortRange};
use crate::hostname::AskedName;
use crate::outcome::Outcome;

fn rule(effect: RuleEffect, label: &str, hosts: &[&str], cidrs: &[&str], ports: &[(u16, u16)]) -> RuleSpec {
    RuleSpec {
        hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
        cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
        ports: ports.iter().map(|&(first, last)| PortRange::new(first, last).unwrap()).collect(),
        ..RuleSpec::new(label, effect)
    }
}

fn allow(label: &str, hosts: &[&str], cidrs: &[&str], ports: &[(u16, u16)]) -> RuleSpec {
    rule(RuleEffect::Allow, label, hosts, cidrs, ports)
}

fn deny(label: &str, hosts: &[&str], cidrs: &[&str], ports: &[(u16, u16)]) -> RuleSpec {
    rule(RuleEffect::Deny, label, hosts, cidrs, ports)
}

fn uninspected(label: &str, cidrs: &[&str], ports: &[(u16, u16)]) -> RuleSpec {
    RuleSpec { uninspected: true, ..allow(label, &[], cidrs, ports) }
}

fn tenant_spec(name: &str, sources: &[&str], rules: Vec<RuleSpec>) -> TenantSpec {
    TenantSpec {
        sources: sources.iter().map(|source| source.parse().unwrap()).collect(),
        rules,
        ..TenantSpec::new(name, "pool")
    }
}

fn tenant(rules: Vec<RuleSpec>, private: PrivateDestinations) -> Arc<TenantRules> {
    Policy::compile(&[tenant_spec("acme", &["10.0.0.0/8"], rules)], private).unwrap().tenants()[0].clone()
}

fn to(socket: &str) -> OriginalDestination {
    OriginalDestination::tcp(socket.parse().unwrap())
}

/// Name asked for: `-` for none, `?` for another protocol, else the bytes that the client sent.
fn asked(name: &str) -> AskedName {
    match name {
        "-" => AskedName::Absent,
        "?" => AskedName::Unread,
        name => AskedName::from_bytes(name.as_bytes()),
    }
}

/// `rule`, or `outcome`, or `outcome rule`.
fn words(decided: &Result<Permit, Denial>) -> String {
    match decided {
        Ok(permit) => permit.rule().unwrap().to_string(),
        Err(Denial { outcome, rule: None }) => outcome.to_string(),
        Err(Denial { outcome, rule: Some(rule) }) => format!("{outcome} {rule}"),
    }
}

fn check(tenant: &TenantRules, cases: &[(&str, &str, &str)]) {
    for (name, socket, wanted) in cases {
        assert_eq!(words(&tenant.decide(&asked(name), false, to(socket))), *wanted, "{name} at {socket}");
    }
}

#[test]
fn first_fully_matching_rule_decides() {
    let tenant = tenant(
        vec![
            allow("exact", &["api.example.com", "Apex.Example."], &[], &[(443, 443)]),
            allow("wild", &["*.example.com"], &[], &[(443, 443), (8000, 8080)]),
            allow("both", &["db.example.org"], &["203.0.113.0/24", "2001:db8:5::/48"], &[]),
            allow("net", &[], &["198.51.100.0/24"], &[(5432, 5432)]),
            allow("again", &["api.example.com"], &[], &[]),
        ],
        PrivateDestinations::ByCidr,
    );
    check(
        &tenant,
        &[
            ("api.example.com", "8.8.8.8:443", "exact"),
            ("API.example.com.", "8.8.8.8:443", "exact"),
            ("apex.example", "8.8.8.8:443", "exact"),
            ("api.example.com", "8.8.8.8:8001", "wild"),
            ("api.example.com", "8.8.8.8:22", "again"),
            ("a.b.example.com", "[2606:4700::1]:8080", "wild"),
            ("a.b.example.com", "8.8.8.8:8081", "not_allowed"),
            ("example.com", "8.8.8.8:443", "not_allowed"),
            ("example.com.evil.org", "8.8.8.8:443", "not_allowed"),
            ("notexample.com", "8.8.8.8:443", "not_allowed"),
            ("db.example.org", "203.0.113.9:1", "both"),
            ("db.example.org", "[::ffff:203.0.113.9]:1", "both"),
            ("db.example.org", "[2001:db8:5::9]:1", "both"),
            ("db.example.org", "203.0.114.9:1", "not_allowed"),
            ("else.example.org", "203.0.113.9:1", "not_allowed"),
            ("whatever", "198.51.100.1:5432", "net"),
            ("api.example.com", "198.51.100.1:5432", "net"),
            ("-", "198.51.100.1:5432", "net"),
            ("10.0.0.1", "198.51.100.1:5432", "net"),
        ],
    );
}

#[test]
fn deny_rules_win_in_any_order() {
    let tenant = tenant(
        vec![
            allow("all", &[], &[], &[]),
            deny("bad", &["*.bad.example"], &[], &[(443, 443)]),
            deny("net", &[], &["192.0.2.0/24", "2001:db8:bad::/48"], &[]),
        ],
        PrivateDestinations::ByCidr,
    );
    check(
        &tenant,
        &[
            ("x.bad.example", "8.8.8.8:443", "denied_by_rule bad"),
            ("x.bad.example", "8.8.8.8:80", "all"),
            ("bad.example", "8.8.8.8:443", "all"),
            ("good.example", "192.0.2.1:443", "denied_by_rule net"),
            ("-", "[2001:db8:bad::1]:443", "denied_by_rule net"),
            ("x.bad.example", "192.0.2.1:443", "denied_by_rule bad"),
            ("-", "8.8.8.8:443", "all"),
            ("bad..example", "8.8.8.8:443", "invalid_hostname"),
            ("bad..example", "8.8.8.8:80", "all"),
            ("bad..example", "192.0.2.1:443", "denied_by_rule net"),
        ],
    );
}

#[test]
fn missing_and_invalid_names_are_distinguished() {
    let tenant = tenant(
        vec![allow("name", &["a.example"], &[], &[(443, 443)]), allow("net", &[], &["192.0.2.0/24"], &[])],
        PrivateDestinations::ByCidr,
    );
    check(
        &tenant,
        &[
            ("-", "8.8.8.8:443", "no_hostname"),
            ("-", "8.8.8.8:80", "not_allowed"),
            ("-", "192.0.2.1:443", "net"),
            ("127.0.0.1", "8.8.8.8:443", "invalid_hostname"),
            ("a.example\0.org", "8.8.8.8:80", "invalid_hostname"),
            ("127.0.0.1", "192.0.2.1:443", "net"),
        ],
    );
    check(&self::tenant(vec![], PrivateDestinations::Allow), &[("a.example", "8.8.8.8:443", "not_allowed")]);
}

#[test]
fn other_protocols_need_key_beside_name_denials() {
    let any_protocol =
        |label, cidrs: &[&str]| RuleSpec { other_protocols: true, ..allow(label, &[], cidrs, &[]) };
    let rules = vec![
        allow("net", &[], &["192.0.2.0/24"], &[]),
        any_protocol("any", &["192.0.2.128/25", "198.51.100.0/24"]),
        allow("name", &["a.example"], &[], &[(443, 443)]),
    ];
    let open = tenant(rules.clone(), PrivateDestinations::ByCidr);
    check(
        &open,
        &[
            ("?", "192.0.2.1:22", "net"),
            ("?", "192.0.2.200:22", "net"),
            ("?", "8.8.8.8:443", "no_hostname"),
            ("?", "8.8.8.8:22", "not_allowed"),
        ],
    );
    let rules = [
        rules,
        vec![
            deny("bad", &["*.bad.example"], &[], &[(1, 1024)]),
            deny("worse", &["worse.example"], &["192.0.2.7/32"], &[]),
            deny("mail", &[], &[], &[(25, 25)]),
        ],
    ];
    check(
        &tenant(rules.concat(), PrivateDestinations::ByCidr),
        &[
            ("?", "192.0.2.1:22", "unknown_protocol net"),
            ("?", "192.0.2.1:2222", "net"),
            ("?", "192.0.2.7:2222", "unknown_protocol net"),
            ("?", "192.0.2.200:22", "any"),
            ("?", "198.51.100.1:22", "any"),
            ("?", "198.51.100.1:25", "denied_by_rule mail"),
            ("?", "8.8.8.8:443", "no_hostname"),
            ("x.bad.example", "198.51.100.1:443", "denied_by_rule bad"),
            ("-", "192.0.2.1:443", "net"),
        ],
    );
}

#[test]
fn other_protocols_need_key_where_ech_is_denied() {
    let any_protocol = RuleSpec { other_protocols: true, ..allow("any", &[], &["198.51.100.0/24"], &[]) };
    let rules = vec![
        allow("net", &[], &["192.0.2.0/24"], &[]),
        any_protocol,
        uninspected("raw", &["203.0.113.0/24"], &[]),
        allow("name", &["a.example"], &[], &[]),
    ];
    let spec = TenantSpec { ech: EchPolicy::Deny, ..tenant_spec("acme", &["10.0.0.0/8"], rules) };
    let policy = Policy::compile(&[spec], PrivateDestinations::ByCidr).unwrap();
    let tenant = &policy.tenants()[0];
    check(
        tenant,
        &[
            ("?", "192.0.2.1:22", "unknown_protocol net"),
            ("?", "198.51.100.1:22", "any"),
            ("?", "203.0.113.1:22", "raw"),
            ("?", "8.8.8.8:22", "no_hostname"),
            ("-", "192.0.2.1:443", "net"),
            ("a.example", "192.0.2.1:443", "net"),
        ],
    );
    assert!(tenant.decide_unseen(to("203.0.113.1:22")).is_some());
}

#[test]
fn name_rules_reach_only_public_addresses() {
    let rules = vec![
        allow("name", &["a.example"], &[], &[(443, 443)]),
        allow("pinned", &["db.example"], &["10.9.0.0/16", "169.254.169.254/32"], &[]),
        allow("net", &[], &["10.1.0.0/16", "::ffff:10.2.0.0/112"], &[]),
    ];
    let never = [
        ("a.example", "127.0.0.1:443", "destination_private name"),
        ("a.example", "169.254.169.254:443", "destination_private name"),
        ("a.example", "[fd00:ec2::254]:443", "destination_private name"),
        ("a.example", "[::1]:443", "destination_private name"),
        ("a.example", "[64:ff9b::a9fe:a9fe]:443", "destination_private name"),
        ("a.example", "224.0.0.1:443", "destination_private name"),
        ("a.example", "[fd00::1]:80", "not_allowed"),
        ("a.example", "203.0.113.1:443", "name"),
        ("a.example", "10.1.0.1:443", "net"),
        ("a.example", "10.2.0.1:443", "net"),
        ("db.example", "10.9.0.1:443", "pinned"),
        ("db.example", "169.254.169.254:80", "pinned"),
        ("-", "10.9.0.1:443", "no_hostname"),
    ];
    let by_cidr = tenant(rules.clone(), PrivateDestinations::ByCidr);
    check(&by_cidr, &never);
    // one name's permission does not extend to another
    check(&by_cidr, &[("a.example", "10.9.0.1:443", "destination_private name")]);
    check(&by_cidr, &[("a.example", "[fd00::1]:443", "destination_private name")]);
    let allowed = tenant(rules, PrivateDestinations::Allow);
    check(&allowed, &never[..8]);
    check(&allowed, &[("a.example", "10.9.0.1:443", "name"), ("a.example", "[fd00::1]:443", "name")]);
}

#[test]
fn nameless_deny_rules_stop_uninspected_flows() {
    let tenant = tenant(
        vec![
            allow("inspected", &[], &["192.0.2.0/24"], &[]),
            uninspected("db", &["192.0.2.0/25"], &[(5432, 5432)]),
            uninspected("wide", &["192.0.0.0/16"], &[(5000, 6000)]),
            deny("net", &[], &["192.0.2.7/32"], &[]),
            deny("name", &["*.bad.example"], &[], &[]),
        ],
        PrivateDestinations::ByCidr,
    );
    let unseen = |socket| tenant.decide_unseen(to(socket)).map(|permit| permit.rule().unwrap().to_string());
    assert_eq!(unseen("192.0.2.1:5432").as_deref(), Some("db"));
    assert_eq!(unseen("192.0.2.200:5432").as_deref(), Some("wide"));
    assert_eq!(unseen("192.0.2.1:443"), None);
    assert_eq!(unseen("192.0.2.7:5432"), None);
    assert_eq!(unseen("8.8.8.8:5432"), None);
    check(&tenant, &[("-", "192.0.2.7:5432", "denied_by_rule net"), ("-", "192.0.2.1:443", "inspected")]);
}

#[test]
fn permit_is_for_dialled_address() {
    let tenant = tenant(vec![allow("all", &[], &[], &[])], PrivateDestinations::ByCidr);
    let Ok(permit) = tenant.decide(&AskedName::Absent, false, to("[::ffff:8.8.8.8]:443")) else {
        panic!("it is allowed");
    };
    assert_eq!(permit.dial().to_string(), "8.8.8.8:443");
    assert_eq!(permit.into_dial().to_string(), "8.8.8.8:443");
}

#[test]
fn longest_source_prefix_selects_the_tenant() {
    let specs = [
        tenant_spec("wide", &["10.0.0.0/8", "2001:db8::/32"], vec![]),
        tenant_spec("narrow", &["10.0.1.0/24", "2001:db8:1::/48", "::ffff:172.16.0.0/108"], vec![]),
        tenant_spec("host", &["10.0.1.7/32", "2001:db8:1::7/128"], vec![]),
    ];
    let policy = Policy::compile(&specs, PrivateDestinations::ByCidr).unwrap();
    let cases = [
        ("10.0.0.1", Some("wide")),
        ("10.0.1.1", Some("narrow")),
        ("10.0.1.7", Some("host")),
        ("::ffff:10.0.1.7", Some("host")),
        ("172.16.3.4", Some("narrow")),
        ("11.0.0.1", None),
        ("2001:db8::1", Some("wide")),
        ("2001:db8:1::1", Some("narrow")),
        ("2001:db8:1::7", Some("host")),
        ("2001:db9::1", None),
        ("::1", None),
    ];
    for (client, name) in cases {
        let client = ClientAddr::new((client.parse::<std::net::IpAddr>().unwrap(), 1).into());
        assert_eq!(policy.tenant_of(client).map(|tenant| &*tenant.name), name, "{client}");
    }
    for (index, tenant) in policy.tenants().iter().enumerate() {
        assert_eq!((tenant.index, &tenant.name), (index, &specs[index].name));
    }
}

#[test]
fn no_client_belongs_to_two_tenants() {
    let specs =
        [tenant_spec("a", &["10.0.0.0/8"], vec![]), tenant_spec("b", &["::ffff:10.0.0.0/104"], vec![])];
    let error = Policy::compile(&specs, PrivateDestinations::ByCidr).unwrap_err();
    assert!(
        matches!(&error, CompileError::SourceTwice { first, second, .. } if **first == *"a" && **second == *"b")
    );
}

#[test]
fn explanation_covers_every_rule() {
    use MatchFinding::*;
    let spec = tenant_spec(
        "acme",
        &["10.0.0.0/8"],
        vec![
            allow("other", &["b.example"], &[], &[]),
            allow("port", &["a.example"], &[], &[(80, 80)]),
            allow("address", &["a.example"], &["192.0.2.0/24"], &[]),
            allow("name", &["a.example"], &[], &[]),
            allow("net", &[], &["8.0.0.0/8", "10.0.0.0/8"], &[]),
            uninspected("unseen", &["203.0.113.0/24"], &[]),
            deny("bad", &["bad.example"], &[], &[]),
        ],
    );
    let findings = |name: &str, socket: &str| {
        let compiled = Policy::compile(std::slice::from_ref(&spec), PrivateDestinations::ByCidr).unwrap();
        let explained = compiled.tenants()[0].explain(&asked(name), false, to(socket));
        explained.rules.iter().map(|rule| rule.finding).collect::<Vec<_>>()
    };
    assert_eq!(
        findings("a.example", "8.8.8.8:443"),
        [OtherHostname, OtherPort, OtherAddress, Decides, Covers, OtherAddress, OtherHostname]
    );
    assert_eq!(findings("a.example", "10.0.0.1:443")[3..5], [PrivateDestination, Decides]);
    assert_eq!(findings("a.example", "127.0.0.1:443")[3..5], [PrivateDestination, OtherAddress]);
    assert_eq!(findings("-", "9.9.9.9:443")[..2], [NoHostname, NoHostname]);
    assert_eq!(
        findings("1.2.3.4", "8.8.8.8:443")[3..],
        [InvalidHostname, Covers, OtherAddress, CannotBeJudged]
    );
    assert_eq!(
        findings("bad.example", "203.0.113.1:443"),
        [NotReached, NotReached, NotReached, NotReached, OtherAddress, Decides, NotReached]
    );
}
