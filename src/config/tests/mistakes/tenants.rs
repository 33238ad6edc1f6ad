//! Mistakes in tenants and their rules.

use super::Mistake;

pub(super) const ALL: &[Mistake] = &[
    // networks
    (
        "cidrs = [\"10.0.0.1/8\"]",
        "+1:10: error: `cidrs`: \"10.0.0.1/8\" is an address inside a network",
        "the network is \"10.0.0.0/8\", the address alone \"10.0.0.1\"",
    ),
    (
        "cidrs = [\"::ffff:10.0.0.0/104\"]",
        "+1:10: error: `cidrs`: \"::ffff:10.0.0.0/104\" is an IPv4-mapped network",
        "\"10.0.0.0/8\"",
    ),
    ("cidrs = [\"10.0.0/8\"]", "+1:10: error: `cidrs`: \"10.0.0/8\" is not a network", ""),
    ("cidrs = \"10.0.0.0/8\"", "+1:9: error: `cidrs`: \"10.0.0.0/8\" is not a list", "brackets"),
    // tenants
    (
        "[[tenant]]\nname = \"t\"\nsources = [\"10.1.0.0/24\"]\npool = \"p\"",
        "+2:8: error: tenant \"t\" is there already, at egret.toml:7",
        "",
    ),
    (
        "[[tenant]]\nname = \"u\"\nsources = [\"10.0.0.0/24\"]\npool = \"p\"",
        "+3:12: error: `sources`: 10.0.0.0/24 is a source of tenant \"t\" already, at egret.toml:8",
        "remove one",
    ),
    (
        "[[tenant]]\nname = \"u\"\nsources = [\"203.0.113.17\"]\npool = \"p\"",
        "+3:12: error: `sources`: 203.0.113.17/32 lies in 203.0.113.16/30 of pool \"p\"",
        "no client's",
    ),
    (
        "[[tenant]]\nname = \"u\"\nsources = [\"10.0.0.7\"]\npool = \"p\"",
        "+3:12: warning: `sources`: 10.0.0.7/32 lies in 10.0.0.0/24 of tenant \"t\"",
        "its clients belong to \"u\"",
    ),
    (
        "[[tenant]]\nname = \"u\"\nsources = [\"10.1.0.0/24\"]\npool = \"pp\"",
        "+4:8: error: `pool`: there is no pool \"pp\"",
        "did you mean \"p\"?",
    ),
    (
        "[[tenant]]\nname = \"u\"\nsources = [\"10.1.0.0/24\"]\npool = \"p\"\nmode = \"watch\"",
        "+5:8: error: `mode`: \"watch\" is not a valid value",
        "\"enforce\" or \"monitor\"",
    ),
    (
        "[[tenant]]\nname = \"u\"\nsources = [\"10.1.0.0/24\"]\npool = \"p\"\nmode = \"monitor\"\nmonitor_until = \"soon\"",
        "+6:17: error: `monitor_until`: \"soon\" is not a date",
        "\"2026-12-31\" or",
    ),
    (
        "[[tenant]]\nname = \"u\"\nsources = [\"10.1.0.0/24\"]\npool = \"p\"\nmode = \"monitor\"\nmonitor_until = 2020-01-01",
        "+6:17: warning: `monitor_until`: 2020-01-01T00:00:00Z is past, and the tenant enforces",
        "set `mode = \"enforce\"`",
    ),
    (
        "[[tenant]]\nname = \"u\"\nsources = [\"10.1.0.0/24\"]\npool = \"p\"\nmonitor_until = 2999-01-01T00:00:00Z",
        "+5:17: warning: `monitor_until` changes nothing: the tenant enforces",
        "`mode = \"monitor\"`",
    ),
    (
        "[[tenant]]\nname = \"u\"\nsources = [\"10.1.0.0/24\"]\npool = \"p\"",
        "+2:8: warning: tenant \"u\" has no allow rule",
        "",
    ),
    // rules
    ("[[tenant.allow]]", "+1:1: error: the rule does not say what it allows", "`hosts`"),
    ("[[tenant.allow]]\nports = [443]", "+1:1: error: the rule does not say what it allows", ""),
    ("[[tenant.deny]]\nname = \"x\"", "+1:1: error: the rule does not say what it denies", ""),
    (
        "[[tenant.deny]]\nhosts = [\"a.example\"]\ninspect = \"none\"",
        "+3:1: error: unknown key \"inspect\" in [[tenant.deny]]",
        "belongs to [[tenant.allow]]",
    ),
    ("inspect = \"none\"", "+1:11: error: `inspect = \"none\"` cannot go with names", "`cidrs`"),
    (
        "[[tenant.allow]]\ncidrs = [\"192.0.2.1\"]\ninspect = \"none\"\nhttp = \"every-request\"",
        "+4:8: error: `http` cannot go with `inspect = \"none\"`",
        "remove one",
    ),
    ("http = \"first\"", "+1:8: error: `http`: \"first\" is not a valid value", "first-request"),
    ("inspect = \"off\"", "+1:11: error: `inspect`: \"off\" is not a valid value", "\"auto\" or \"none\""),
    (
        "name = \"a\"\n[[tenant.allow]]\nname = \"a\"\nhosts = [\"a.example\"]",
        "+3:8: error: rule \"a\" is there already, at egret.toml:12",
        "",
    ),
    ("ports = [443, 70000]", "+1:15: error: `ports`: 70000 is not a port", ""),
    ("ports = []", "+1:9: error: `ports`: the list is empty", "name at least one, or leave the key out"),
    // names
    (
        "[[tenant.allow]]\nhosts = [\"ok.example\", \"*.com\"]",
        "+2:24: error: `hosts`: \"*.com\" is a wildcard over a public suffix",
        "",
    ),
    (
        "[[tenant.allow]]\nhosts = [\"*.s3.amazonaws.com\"]",
        "+2:10: warning: `hosts`: *.s3.amazonaws.com covers names of many owners",
        "",
    ),
    (
        "[[tenant.allow]]\nhosts = [\"192.0.2.1\"]",
        "+2:10: error: `hosts`: \"192.0.2.1\" is not a hostname: the name is an IP address",
        "`cidrs`",
    ),
    ("[[tenant.allow]]\nhosts = [\"https://a.example/\"]", "+2:10: error: `hosts`", "without scheme"),
    ("[[tenant.allow]]\nhosts = [\"a.example:443\"]", "+2:10: error: `hosts`", "the port in `ports`"),
    ("[[tenant.allow]]\nhosts = [\".a.example\"]", "+2:10: error: `hosts`", "\"*.a.example\""),
    ("[[tenant.allow]]\nhosts = [\"a*.example\"]", "+2:10: error: `hosts`", "before a whole name"),
    (
        "[[tenant.allow]]\nhosts = [\"bü cher.example\"]",
        "+2:10: error: `hosts`: \"bü cher.example\" is not a hostname: the name has a character",
        "letters (of any script)",
    ),
    (
        "[[tenant.allow]]\nhosts = [\"*.xn--zzzzzz99999.example\"]",
        "+2:10: warning: `hosts`: *.xn--zzzzzz99999.example has an xn-- label that stands for nothing",
        "copy it whole",
    ),
    // encrypted hellos
    ("[policy]\nech = \"inner\"", "+2:7: error: `ech`: \"inner\" is not a valid value", "\"outer\""),
    (
        "[[tenant.allow]]\nhosts = [\"*.com.example\", \"cloudflare-ech.com\"]",
        "+2:9: warning: `hosts`: cloudflare-ech.com is what the SNI says",
        "`ech = \"deny\"`",
    ),
    ("[[tenant.allow]]\nhosts = [\"*\"]", "+2:10: error: `hosts`", "`cidrs`"),
    (
        "[[tenant.allow]]\nhosts_file = \"none.txt\"",
        "+2:14: error: `hosts_file`",
        "none.txt cannot be read: No such file",
    ),
];
