//! Table of judgements: what the judge makes of a flow, by rules, mode and facts.

use super::written::{judge, written};
use crate::outcome::Outcome;

/// Names, and what a rule by name does not reach.
const NAMES: &str = "web allow a.example *.wild.example :443; secret deny x.wild.example";
/// Flows that leave without inspection, and those that do not.
const RAW: &str = "raw allow 198.51.100.0/25 uninspected; no-mail deny :25; names allow a.example :443; \
                   heard allow 198.51.100.128/25";
/// A rule for each check.
const CHECKS: &str = "v allow v.example verify; r allow r.example resolve; c allow c.example require; \
                      vc allow vc.example verify require; o allow o.example observe watch; \
                      d deny 198.51.100.66/32";

type Row = (&'static str, &'static str, &'static str, &'static str);

/// Fails with all rows that differ.
fn hold(rows: &[Row]) {
    let differing = rows.iter().filter_map(|(rules, mode, facts, expected)| {
        let found = written(&judge(rules, mode, facts), facts);
        (found != *expected)
            .then(|| format!("{mode}: {facts}\n    expected {expected}\n    found    {found}"))
    });
    let differing: Vec<_> = differing.collect();
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

#[test]
fn first_bytes_are_judged() {
    hold(&[
        (NAMES, "enforce", "new 192.0.2.1:443", "inspect"),
        (NAMES, "enforce", "asks a.example 192.0.2.1:443", "web"),
        (NAMES, "enforce", "asks b.wild.example 192.0.2.1:443", "web"),
        (NAMES, "enforce", "asks b.example 192.0.2.1:443", "! not_allowed"),
        (NAMES, "enforce", "asks x.wild.example 192.0.2.1:443", "! denied_by_rule secret"),
        (NAMES, "enforce", "asks - 192.0.2.1:443", "! no_hostname"),
        (NAMES, "enforce", "asks 192.0.2.1 192.0.2.1:443", "! invalid_hostname"),
        (NAMES, "enforce", "asks a.example 10.0.0.1:443", "! destination_private web"),
        (NAMES, "enforce", "unclear inspect_timeout 192.0.2.1:443", "! inspect_timeout"),
        (NAMES, "enforce", "unclear inspection_busy 192.0.2.1:443", "! inspection_busy"),
        // A request without a clear end: none after it could be judged.
        (NAMES, "enforce", "asks a.example 192.0.2.1:443 unframed", "! malformed_http"),
        ("one allow a.example first-request", "enforce", "asks a.example 192.0.2.1:80 unframed", "one"),
        ("e allow a.example ech-denied", "enforce", "asks a.example 192.0.2.1:443 ech", "! ech_denied"),
        ("e allow a.example", "enforce", "asks a.example 192.0.2.1:443 ech", "e"),
    ]);
}

#[test]
fn uninspected_rules_come_first() {
    hold(&[
        (RAW, "enforce", "new 198.51.100.1:5432", "raw"),
        (RAW, "enforce", "new 198.51.100.1:25", "inspect"),
        (RAW, "enforce", "new 198.51.100.200:5432", "inspect"),
        // Whatever the client sent: a new flow would not be inspected.
        (RAW, "enforce", "asks a.example 198.51.100.1:5432", "raw"),
        (RAW, "enforce", "unclear inspect_timeout 198.51.100.1:5432", "raw"),
        (RAW, "enforce", "unclear no_hostname 198.51.100.1:5432", "raw"),
        (RAW, "enforce", "unclear no_hostname 198.51.100.200:5432", "! no_hostname"),
        (RAW, "enforce", "asks - 198.51.100.200:5432", "heard"),
        (
            "raw allow 198.51.100.0/25 uninspected; bad deny b.example",
            "enforce",
            "asks b.example 198.51.100.1:1",
            "raw",
        ),
        // The deny rule by address stops it.
        (RAW, "enforce", "asks a.example 198.51.100.1:25", "! denied_by_rule no-mail"),
    ]);
}

#[test]
fn skipped_inspection_leaves_names_unknown() {
    hold(&[
        (RAW, "enforce", "skipped 198.51.100.1:5432", "raw"), // it would not have listened either
        (RAW, "enforce", "skipped 192.0.2.1:25", "! denied_by_rule no-mail"), // whatever the name
        (RAW, "enforce", "skipped 192.0.2.1:80", "! not_allowed"), // no rule with names covers the port
        (RAW, "enforce", "skipped 192.0.2.1:443", "inspect"), // the name would have decided
        (RAW, "enforce", "skipped 198.51.100.200:5432", "inspect"), // listening may fail
        (RAW, "monitor", "skipped 192.0.2.1:25", "no-mail for denied_by_rule"),
        (RAW, "monitor", "skipped 192.0.2.1:443", "inspect"),
    ]);
}

#[test]
fn monitor_mode_waives_denials() {
    hold(&[
        (NAMES, "monitor", "new 192.0.2.1:443", "inspect"),
        (NAMES, "monitor", "asks a.example 192.0.2.1:443", "web"),
        (NAMES, "monitor", "asks b.example 192.0.2.1:443", "- for not_allowed"),
        (NAMES, "monitor", "asks x.wild.example 192.0.2.1:443", "secret for denied_by_rule"),
        (NAMES, "monitor", "asks - 192.0.2.1:443", "- for no_hostname"),
        (NAMES, "monitor", "asks a.example 10.0.0.1:443", "web for destination_private"),
        (NAMES, "monitor", "unclear malformed_tls 192.0.2.1:443", "- for malformed_tls"),
        (NAMES, "monitor", "unclear no_hostname 192.0.2.1:443", "- for no_hostname"),
        // Metadata addresses stay closed, and so do loops and limits.
        (NAMES, "monitor", "asks b.example 169.254.169.254:80", "! not_allowed"),
        (NAMES, "monitor", "unclear malformed_http 169.254.169.254:80", "! malformed_http"),
        (NAMES, "monitor", "violates policy_revoked 192.0.2.1:443", "! policy_revoked"),
        // The mode has ended.
        (NAMES, "monitored", "asks b.example 192.0.2.1:443", "! not_allowed"),
    ]);
}

#[test]
fn permits_need_required_checks() {
    hold(&[
        (CHECKS, "enforce", "asks v.example 192.0.2.1:443", "v needs address"),
        (CHECKS, "enforce", "asks v.example 192.0.2.1:443 passed address", "v"),
        (CHECKS, "enforce", "asks v.example 192.0.2.1:443 passed certificate", "v needs address"),
        (CHECKS, "enforce", "asks r.example 192.0.2.1:443", "r needs address"),
        (CHECKS, "enforce", "asks c.example 192.0.2.1:443", "c needs certificate"),
        (CHECKS, "enforce", "asks c.example 192.0.2.1:443 passed certificate", "c"),
        (CHECKS, "enforce", "asks vc.example 192.0.2.1:443", "vc needs address certificate"),
        (CHECKS, "enforce", "asks vc.example 192.0.2.1:443 passed address", "vc needs certificate"),
        (CHECKS, "enforce", "asks vc.example 192.0.2.1:443 passed certificate", "vc needs address"),
        (CHECKS, "enforce", "asks vc.example 192.0.2.1:443 passed address passed certificate", "vc"),
        (CHECKS, "enforce", "asks o.example 192.0.2.1:443", "o"),
        // Checks are made in monitor mode too.
        (CHECKS, "monitor", "asks vc.example 192.0.2.1:443", "vc needs address certificate"),
        (CHECKS, "monitor", "asks b.example 192.0.2.1:443", "- for not_allowed"),
    ]);
}

#[test]
fn failed_checks_deny() {
    hold(&[
        (
            CHECKS,
            "enforce",
            "asks v.example 192.0.2.1:443 failed destination_mismatch",
            "! destination_mismatch v",
        ),
        (
            CHECKS,
            "monitor",
            "asks v.example 192.0.2.1:443 failed destination_mismatch",
            "v for destination_mismatch",
        ),
        (
            CHECKS,
            "enforce",
            "asks c.example 192.0.2.1:443 failed certificate_invalid",
            "! certificate_invalid c",
        ),
        (CHECKS, "monitor", "asks c.example 192.0.2.1:443 failed inspection_busy", "c for inspection_busy"),
        // Of addresses that the name was resolved to, none was allowed.
        (CHECKS, "enforce", "asks r.example 192.0.2.1:443 failed denied_by_rule", "! denied_by_rule r"),
        (CHECKS, "monitor", "asks r.example 192.0.2.1:443 failed destination_local", "! destination_local r"),
        // A failure is one for whatever permit it belongs to: it never opens anything.
        (
            CHECKS,
            "enforce",
            "asks o.example 192.0.2.1:443 failed certificate_invalid",
            "! certificate_invalid o",
        ),
        // What the rules deny anyway is denied for that.
        (CHECKS, "enforce", "asks b.example 192.0.2.1:443 failed destination_mismatch", "! not_allowed"),
        (CHECKS, "enforce", "asks b.example 192.0.2.1:443 elsewhere destination_mismatch", "! not_allowed"),
        (
            CHECKS,
            "monitor",
            "asks v.example 192.0.2.1:443 elsewhere destination_mismatch",
            "v for destination_mismatch",
        ),
    ]);
}

/// A check that failed for another policy's rule fails for these rules if they require the same.
#[test]
fn checks_failed_elsewhere_hold_for_same_checks() {
    use Outcome::{
        CertificateInvalid, CertificateUnavailable, DestinationMismatch, InspectionBusy, NameUnresolved,
        ResolverUnavailable,
    };
    let address = [DestinationMismatch, NameUnresolved, ResolverUnavailable, InspectionBusy];
    let certificate = [CertificateInvalid, CertificateUnavailable, InspectionBusy];
    let both = [&address[..], &certificate].concat();
    for (name, stopped_by) in [
        ("o", &[][..]),
        ("v", &address),
        ("r", &address[1..]), // it does not dial the client's address
        ("c", &certificate),
        ("vc", &both),
    ] {
        for &outcome in Outcome::ALL {
            let facts = format!("asks {name}.example 192.0.2.1:443 elsewhere {outcome}");
            let expected = stopped_by.contains(&outcome).then_some(outcome);
            assert_eq!(judge(CHECKS, "enforce", &facts).denies(), expected, "{facts}");
        }
    }
}

#[test]
fn reached_addresses_are_judged_too() {
    hold(&[
        // Of a rule that resolves: the name may lead there.
        (
            CHECKS,
            "enforce",
            "asks r.example 192.0.2.1:443 reached 203.0.113.7:443",
            "r to 203.0.113.7:443 needs address",
        ),
        (
            CHECKS,
            "enforce",
            "asks r.example 192.0.2.1:443 reached 203.0.113.7:443 passed address",
            "r to 203.0.113.7:443",
        ),
        (
            CHECKS,
            "enforce",
            "asks r.example 10.0.0.1:443 reached 203.0.113.7:443 passed address",
            "r to 203.0.113.7:443",
        ),
        (CHECKS, "enforce", "asks r.example 192.0.2.1:443 reached 198.51.100.66:443", "! denied_by_rule"),
        (CHECKS, "enforce", "asks r.example 192.0.2.1:443 reached 10.0.0.1:443", "! destination_private"),
        (
            CHECKS,
            "monitor",
            "asks r.example 192.0.2.1:443 reached 10.0.0.1:443",
            "- for destination_private to 10.0.0.1:443",
        ),
        (
            CHECKS,
            "monitor",
            "asks r.example 192.0.2.1:443 reached 169.254.169.254:443",
            "! destination_private",
        ),
        // Of another rule, as of a flow that was resolved under other rules: both addresses have to be allowed.
        (
            CHECKS,
            "enforce",
            "asks v.example 192.0.2.1:443 reached 203.0.113.7:443 passed address",
            "v to 203.0.113.7:443",
        ),
        (CHECKS, "enforce", "asks v.example 192.0.2.1:443 reached 198.51.100.66:443", "! denied_by_rule d"),
        (CHECKS, "enforce", "asks v.example 198.51.100.66:443 reached 203.0.113.7:443", "! denied_by_rule d"),
        (NAMES, "enforce", "asks a.example 192.0.2.1:443 reached 10.0.0.1:443", "! destination_private web"),
        (RAW, "enforce", "asks r.example 198.51.100.1:1 reached 198.51.100.2:1", "raw to 198.51.100.2:1"),
    ]);
}

#[test]
fn later_requests_are_judged() {
    const BAD: &str = "raw allow 198.51.100.0/25 uninspected; any allow; bad deny b.example";
    hold(&[
        (NAMES, "enforce", "later b.wild.example after a.example 192.0.2.1:443 unbound", "web"),
        (NAMES, "enforce", "later b.example after a.example 192.0.2.1:443 unbound", "! not_allowed"),
        (NAMES, "enforce", "later x.wild.example after a.example 192.0.2.1:443", "! denied_by_rule secret"),
        (NAMES, "monitor", "later x.wild.example after a.example 192.0.2.1:443", "secret for denied_by_rule"),
        (NAMES, "monitor", "later x.wild.example after a.example 169.254.0.1:443", "! denied_by_rule secret"),
        // The address was let out to for the first name alone.
        (
            NAMES,
            "enforce",
            "later b.wild.example after a.example 192.0.2.1:443 bound",
            "! destination_mismatch web",
        ),
        (
            NAMES,
            "monitor",
            "later b.wild.example after a.example 192.0.2.1:443 bound",
            "web for destination_mismatch",
        ),
        (NAMES, "enforce", "later a.example after a.example 192.0.2.1:443 bound", "web"),
        (
            CHECKS,
            "enforce",
            "later v.example after o.example 192.0.2.1:443 unbound",
            "! destination_mismatch v",
        ),
        (
            CHECKS,
            "enforce",
            "later c.example after o.example 192.0.2.1:443 unbound",
            "! destination_mismatch c",
        ),
        (CHECKS, "enforce", "later r.example after r.example 192.0.2.1:443 bound", "r needs address"),
        // By these rules, the first name would have bound the address, or not.
        (CHECKS, "enforce", "later o.example after v.example 192.0.2.1:443", "! destination_mismatch o"),
        (CHECKS, "enforce", "later o.example after b.example 192.0.2.1:443", "o"),
        // It was inspected, so it is judged by name even where a new flow would not be.
        (BAD, "enforce", "later b.example after a.example 198.51.100.1:80 unbound", "! denied_by_rule bad"),
        (BAD, "enforce", "asks b.example 198.51.100.1:80", "raw"),
    ]);
}

#[test]
fn violations_are_waived_by_mode_alone() {
    hold(&[
        (NAMES, "enforce", "violates hello_changed 192.0.2.1:443", "! hello_changed"),
        (NAMES, "monitor", "violates hello_changed 192.0.2.1:443", "- for hello_changed"),
        (NAMES, "monitor", "violates hello_changed 169.254.169.254:443", "! hello_changed"),
        (RAW, "enforce", "violates malformed_http 198.51.100.1:80", "! malformed_http"),
        (RAW, "monitored", "violates malformed_http 198.51.100.1:80", "! malformed_http"),
    ]);
}
