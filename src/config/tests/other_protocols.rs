//! Protocols that are neither TLS nor HTTP beside a deny rule by name.

use super::{findings_below, loaded};

const NET: &str = "[[tenant.allow]]\ncidrs = [\"198.51.100.0/24\"]\n";
const TENANT: &str = "[[tenant]]\nname = \"u\"\nsources = [\"10.0.1.0/24\"]\npool = \"p\"\n";
const DENY: &str = "[[tenant.deny]]\nhosts = [\"b.example\"]\n";

#[test]
fn rules_beside_name_denials_are_warned() {
    for (text, told) in [
        (format!("{NET}{DENY}"), true),
        (format!("{DENY}{NET}"), true),
        (format!("{NET}ports = [443, 5432]\n{DENY}ports = [5432]\n"), true),
        (format!("{NET}{DENY}cidrs = [\"198.51.100.7/32\", \"192.0.2.0/24\"]\n"), true),
        (format!("{NET}other_protocols = \"auto\"\n{DENY}"), false),
        (format!("{NET}other_protocols = \"allow\"\n{DENY}"), false),
        (format!("{NET}inspect = \"none\"\nports = [5432]\n{DENY}"), false),
        (format!("{NET}ports = [80, 443]\n{DENY}"), false),
        (format!("{NET}{DENY}ports = [80, 443]\n"), false),
        (format!("{NET}{DENY}cidrs = [\"192.0.2.0/24\"]\n"), false),
        (format!("{NET}[[tenant.deny]]\ncidrs = [\"198.51.100.7/32\"]\n"), false),
        (NET.to_owned(), false),
        (format!("[[tenant.allow]]\nhosts = [\"c.example\"]\n{DENY}"), false),
    ] {
        let found = findings_below(&text);
        let said =
            |line: &String| line.contains("lets out TLS and HTTP alone where the deny rule at egret.toml:");
        assert_eq!((found.len(), found.iter().any(said)), (usize::from(told), told), "{text}{found:#?}");
    }
}

#[test]
fn rules_where_ech_is_denied_are_warned() {
    for (text, told) in [
        (format!("[policy]\nech = \"deny\"\n{TENANT}{NET}"), true),
        (format!("{TENANT}ech = \"deny\"\n{NET}"), true),
        (format!("{TENANT}ech = \"deny\"\n{NET}{DENY}"), true),
        (format!("{TENANT}ech = \"deny\"\n{NET}other_protocols = \"auto\"\n"), false),
        (format!("{TENANT}ech = \"deny\"\n{NET}inspect = \"none\"\nports = [5432]\n"), false),
        (format!("{TENANT}ech = \"deny\"\n{NET}ports = [80, 443]\n"), false),
        (format!("[policy]\nech = \"deny\"\n{TENANT}ech = \"outer\"\n{NET}"), false),
    ] {
        let found = findings_below(&text);
        let said = |line: &String| line.contains("lets out TLS and HTTP alone where `ech` is \"deny\"");
        assert_eq!((found.len(), found.iter().any(said)), (usize::from(told), told), "{text}{found:#?}");
    }
}

#[test]
fn key_is_for_inspected_rules_by_address() {
    for (text, wanted) in [
        (format!("{NET}hosts = [\"c.example\"]\nother_protocols = \"auto\"\n"), "cannot go with names"),
        (format!("{NET}inspect = \"none\"\nother_protocols = \"allow\"\n"), "cannot go with `inspect"),
        (format!("{NET}other_protocols = \"deny\"\n"), "\"deny\" is not"),
        (format!("{DENY}other_protocols = \"allow\"\n"), "other_protocols"),
    ] {
        let found = findings_below(&text);
        assert!(
            found.len() == 1 && found[0].contains("error: ") && found[0].contains(wanted),
            "{text}{found:#?}"
        );
    }
    for (key, passes) in [("", false), ("other_protocols = \"allow\"\n", true)] {
        let text = format!("{}{NET}{key}", super::GOOD);
        assert_eq!(loaded(&[("egret.toml", &text)]).config.tenants[0].rules[1].other_protocols, passes);
    }
}
