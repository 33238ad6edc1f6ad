//! Rules that never match, and rules that only seem so.

use super::{GOOD, findings_below, load_files};

#[test]
fn dead_rules_are_reported() {
    let allow = "[[tenant.allow]]\n";
    let deny = "[[tenant.deny]]\n";
    let uninspected = "[[tenant.allow]]\ncidrs = [\"198.51.100.0/24\"]\nports = [5432]\ninspect = \"none\"\n";
    let cases = [
        // covered by an earlier rule
        (
            format!("{allow}hosts = [\"EXAMPLE.com\"]\n"),
            Some("the rule at egret.toml:10 allows whatever it covers"),
        ),
        (format!("{allow}hosts = [\"example.com\", \"b.example\"]\n"), None),
        (format!("{allow}hosts = [\"example.com\"]\nports = [443]\n"), Some("never matches")),
        (
            format!(
                "{allow}hosts = [\"*.example.com\"]\n{allow}hosts = [\"a.b.example.com\", \"example.com\", \"*.c.example.com\"]\n"
            ),
            Some("+3:1: warning: this rule never matches"),
        ),
        (format!("{allow}hosts = [\"*.b.example.com\"]\n{allow}hosts = [\"*.example.com\"]\n"), None),
        (format!("{allow}hosts = [\"b.example\"]\nports = [443]\n{allow}hosts = [\"b.example\"]\n"), None),
        (
            format!(
                "{allow}cidrs = [\"198.51.100.0/25\", \"198.51.100.128/25\"]\n{allow}cidrs = [\"198.51.100.0/24\"]\nports = [443]\n"
            ),
            Some("+3:1: warning: this rule never matches"),
        ),
        (
            format!(
                "{allow}cidrs = [\"198.51.100.0/24\"]\nports = [443]\n{allow}cidrs = [\"198.51.100.0/24\"]\nports = [80, 443]\n"
            ),
            None,
        ),
        (
            format!("{allow}cidrs = [\"0.0.0.0/0\", \"::/0\"]\n{allow}hosts = [\"b.example\"]\n"),
            Some("+3:1: warning: this rule never matches"),
        ),
        // rules by name do not reach private addresses, so the second rule still has an effect
        (format!("{allow}hosts = [\"example.com\"]\ncidrs = [\"10.9.0.0/16\"]\n"), None),
        // deny rules
        (
            format!("{deny}hosts = [\"example.com\"]\n"),
            Some(
                "10:1: warning: this rule never matches: the rule at egret.toml:12 denies whatever it covers",
            ),
        ),
        (format!("{deny}ports = [25]\n"), Some("`ports`: flows to 25 never come here")),
        (format!("{deny}ports = [80]\n"), None),
        (
            format!("{deny}ports = [80]\n{deny}hosts = [\"b.example\"]\nports = [80]\n"),
            Some("+3:1: warning: this rule never matches"),
        ),
        (format!("{deny}hosts = [\"x.example\"]\n"), None),
        // uninspected
        (uninspected.to_owned(), None),
        (format!("{allow}cidrs = [\"198.51.100.0/24\"]\n{uninspected}"), None),
        (
            format!(
                "{uninspected}{allow}cidrs = [\"198.51.100.0/25\"]\nhosts = [\"b.example\"]\nports = [5432]\n"
            ),
            Some("+5:1: warning: this rule never matches"),
        ),
        (
            format!(
                "{uninspected}{deny}cidrs = [\"198.51.100.0/25\"]\nhosts = [\"b.example\"]\nports = [5432]\n"
            ),
            Some("lets the same flows through before a name is known"),
        ),
        (format!("{uninspected}{deny}cidrs = [\"198.51.100.0/25\"]\nports = [5432]\n"), None),
        (format!("{uninspected}{deny}hosts = [\"b.example\"]\n"), None),
        // within one rule
        (
            format!("{allow}hosts = [\"b.example\", \"B.example.\"]\n"),
            Some("+2:9: warning: names that are listed twice: 1, such as b.example"),
        ),
        (
            format!("{allow}hosts = [\"b.example\"]\nports = [443, 8443]\n"),
            Some("+3:9: warning: `ports`: flows to 8443 never come here"),
        ),
        (format!("{allow}hosts = [\"b.example\"]\nports = [\"1-65535\"]\n"), None),
        (
            format!("{allow}cidrs = [\"2001:db8::/32\"]\n"),
            Some("+2:9: warning: `cidrs`: pool \"p\" has no IPv6 address"),
        ),
        (format!("{allow}cidrs = [\"2001:db8::/32\", \"192.0.2.0/24\"]\n"), None),
    ];
    for (text, expected) in cases {
        let (_folder, result) = load_files(&[("egret.toml", &format!("{GOOD}{text}"))]);
        assert!(result.is_ok(), "{text}\n{result:?}");
        let found = findings_below(&text);
        match expected {
            None => assert!(found.is_empty(), "{text}\n{found:#?}"),
            Some(part) => {
                assert!(
                    found.len() == 1 && found[0].contains(part),
                    "{text}\nwanted {part}\nfound {found:#?}"
                );
            }
        }
    }
}

#[test]
fn ipv6_clients_without_listener_are_warned() {
    let found = |listen: &str, sources: &str| {
        let text = format!(
            "[gateway]\nlisten = \"{listen}:15001\"\n[steering]\ninterfaces = [\"ens6\"]\n[[pool]]\nname = \"p\"\n\
             addresses = [\"203.0.113.16\", \"2001:db8:100::1\"]\n[[tenant]]\nname = \"acme\"\nsources = [{sources}]\npool = \"p\"\n\
             [[tenant.allow]]\nhosts = [\"a.example\"]\n"
        );
        let (_folder, result) = load_files(&[("egret.toml", &text)]);
        result.unwrap().warnings.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let both = "\"10.0.1.0/24\", \"fd00:1::/64\"";
    let warned = found("0.0.0.0", both);
    assert!(warned.len() == 1 && warned[0].contains("\"acme\" has IPv6 clients"), "{warned:?}");
    assert_eq!((found("[::]", both), found("0.0.0.0", "\"10.0.1.0/24\"")), (vec![], vec![]));
}

#[test]
fn required_certificates_alone_are_warned() {
    let rule =
        |more: &str| format!("[[tenant.allow]]\nhosts = [\"a.example\"]\ncertificate = \"require\"\n{more}");
    for (more, warned) in [
        ("", true),
        ("destination = \"observe\"\n", true),
        ("destination = \"verify\"\n", false),
        ("destination = \"resolve\"\n", false),
        ("cidrs = [\"198.51.100.0/24\"]\n", false),
        ("cidrs = [\"198.51.100.0/24\", \"2001:db8::/32\"]\n", false),
        ("cidrs = [\"0.0.0.0/0\", \"::/0\"]\n", true),
        ("cidrs = [\"0.0.0.0/1\", \"128.0.0.0/1\"]\n", true),
        ("cidrs = [\"198.51.100.0/24\", \"2000::/3\"]\n", true),
    ] {
        let found = findings_below(&rule(more));
        let told = found.iter().any(|line| line.contains("warning: `certificate = \"require\"` by itself"));
        assert_eq!(told, warned, "{more}: {found:?}");
    }
}
