//! Entries of lists that are written twice, or that others cover.

use super::super::catalogue;
use super::{GOOD, findings, findings_below};

/// A case: key of a list, table and text with one superfluous entry, and a part of the warning.
const CASES: [(&str, &str, &str); 12] = [
    ("interfaces", "", "\"ens6\" is covered by \"ens*\" in the same list"),
    ("steering ports", "", "443 is covered by \"440-450\""),
    (
        "private_networks",
        "[policy]\nprivate_networks = [\"198.51.100.0/24\", \"198.51.100.7\"]\n",
        "is covered by",
    ),
    ("servers", "[resolver]\nservers = [\"10.0.0.2\", \"10.0.0.2:53\"]\n", "is covered by \"10.0.0.2\""),
    (
        "trust_anchors",
        "[resolver]\ndnssec = \"require\"\ntrust_anchors = [\"root\", \"root\"]\n",
        "\"root\" is listed twice",
    ),
    ("roots", "[certificates]\nroots = [\"system\", \"system\"]\n", "\"system\" is listed twice"),
    ("drain", "", "\"203.0.113.17\" is listed twice"),
    ("addresses", "", "overlaps 203.0.113.16/30"),
    ("sources", "", "10.0.0.7/32 is part of 10.0.0.0/24"),
    (
        "hosts",
        "[[tenant.allow]]\nhosts = [\"*.b.example\", \"a.b.example\"]\n",
        "names that its own wildcards cover: 1, such as a.b.example by *.b.example",
    ),
    (
        "cidrs",
        "[[tenant.allow]]\ncidrs = [\"198.51.101.0/24\", \"198.51.0.0/16\"]\n",
        "\"198.51.101.0/24\" is covered by \"198.51.0.0/16\"",
    ),
    ("ports", "[[tenant.deny]]\nports = [80, 443, 80]\n", "80 is listed twice"),
];

/// Keys whose list is in `GOOD` already, with the text that replaces it.
fn in_good(key: &str) -> Option<(&'static str, &'static str)> {
    Some(match key {
        "interfaces" => ("[\"ens6\"]", "[\"ens6\", \"ens*\"]"),
        "steering ports" => ("[80, 443, 5432]", "[80, 443, \"440-450\"]"),
        "addresses" => ("[\"203.0.113.16/30\"]", "[\"203.0.113.16/30\", \"203.0.113.17\"]"),
        "drain" => {
            ("[\"203.0.113.16/30\"]", "[\"203.0.113.16/30\"]\ndrain = [\"203.0.113.17\", \"203.0.113.17\"]")
        }
        "sources" => ("[\"10.0.0.0/24\"]", "[\"10.0.0.0/24\", \"10.0.0.7\"]"),
        _ => return None,
    })
}

#[test]
fn repeated_entries_are_reported() {
    for (key, text, wanted) in CASES {
        let found = match in_good(key) {
            Some((list, repeated)) => findings(&[("egret.toml", &GOOD.replacen(list, repeated, 1))]),
            None => findings_below(text),
        };
        let severity = if key == "addresses" { "error: " } else { "warning: " };
        let is_it = |line: &&String| line.contains(wanted) && line.contains(severity);
        assert_eq!(found.iter().filter(is_it).count(), 1, "{key}: wanted {wanted}, found {found:#?}");
    }
}

#[test]
fn every_list_has_a_case() {
    let keys = catalogue::ALL.iter().flat_map(|section| section.keys);
    for key in keys.filter(|key| key.describe().contains("list of: ")) {
        assert!(CASES.iter().any(|(name, ..)| *name == key.name()), "{}", key.name());
    }
}

#[test]
fn distinct_entries_are_not_reported() {
    let text = "[[tenant.allow]]\nhosts = [\"*.b.example\", \"b.example\"]\nports = [80, 443]\n\
                [[tenant.allow]]\ncidrs = [\"198.51.100.0/25\", \"198.51.100.128/25\"]\n";
    assert_eq!(findings_below(text), Vec::<String>::new());
}

#[test]
fn long_lists_of_repeats_are_cut() {
    let ports = vec!["80"; 30].join(", ");
    let found = findings_below(&format!("[[tenant.deny]]\nports = [{ports}]\n"));
    assert_eq!(found.len(), 21, "{found:#?}");
    assert!(found[20].ends_with("`ports`: 9 more such entries in the same list"), "{found:#?}");
}
