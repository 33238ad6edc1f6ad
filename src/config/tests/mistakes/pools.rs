//! Mistakes in pools.

use super::Mistake;

pub(super) const ALL: &[Mistake] = &[
    ("[[pool]]\nname = \"q\"\naddresses = []", "+3:13: error: `addresses`: the list is empty", ""),
    (
        "[[pool]]\nname = \"q\"",
        "+1:1: error: missing key `addresses` in [[pool]]",
        "add it, for example `addresses = ",
    ),
    (
        "[[pool]]\nname = \"Q!\"\naddresses = [\"192.0.2.1\"]",
        "+2:8: error: `name`: \"Q!\" is not a name",
        "a-z",
    ),
    (
        "[[pool]]\nname = \"unknown\"\naddresses = [\"192.0.2.1\"]",
        "+2:8: error: `name`: \"unknown\" is taken",
        "",
    ),
    (
        "[[pool]]\nname = \"p\"\naddresses = [\"192.0.2.1\"]",
        "+2:8: error: pool \"p\" is there already, at egret.toml:4",
        "",
    ),
    (
        "[[pool]]\nname = \"q\"\naddresses = [\"192.0.2.1\", \"203.0.113.0/24\"]",
        "5:14: error: `addresses`: 203.0.113.16/30 of pool \"p\" overlaps 203.0.113.0/24 of pool \"q\" at egret.toml:14",
        "",
    ),
    (
        "[[pool]]\nname = \"q\"\naddresses = [\"192.0.2.1\"]\nports = \"9-8\"",
        "+4:9: error: `ports`: \"9-8\" is an empty range",
        "did you mean \"8-9\"?",
    ),
    (
        "[[pool]]\nname = \"q\"\naddresses = [\"192.0.2.1\"]\nports = 0",
        "+4:9: error: `ports`: 0 is not a port",
        "1 to 65535",
    ),
    (
        "[[pool]]\nname = \"q\"\naddresses = [\"192.0.2.1\"]\nports = 15001",
        "+4:9: error: `ports`: 15001 are the gateway's own ports",
        "",
    ),
    (
        "[[pool]]\nname = \"q\"\naddresses = [\"224.0.0.1\"]",
        "+3:14: error: `addresses`: 224.0.0.1/32 holds addresses that cannot be a source",
        "",
    ),
    (
        "[[pool]]\nname = \"q\"\naddresses = [\"192.0.2.1\", \"127.0.0.1\"]",
        "+3:27: error: `addresses`: 127.0.0.1/32 holds addresses that cannot be a source",
        "",
    ),
    (
        "[[pool]]\nname = \"q\"\naddresses = [\"fe80::1\"]",
        "+3:14: error: `addresses`: fe80::1/128 holds addresses that cannot be a source",
        "",
    ),
    (
        "[[pool]]\nname = \"q\"\naddresses = [\"169.254.169.254\"]",
        "+3:14: error: `addresses`: 169.254.169.254/32 holds addresses that cannot be a source",
        "",
    ),
    (
        "[[pool]]\nname = \"q\"\naddresses = [\"192.0.2.1\"]\nports = \"1000-2000\"",
        "+4:9: warning: `ports`: 1000-2000 begins below 1024, with privileged ports",
        "let it begin at 1024",
    ),
    // drained and mapped addresses
    (
        "[[pool]]\nname = \"q\"\naddresses = [\"192.0.2.1\"]\ndrain = [\"192.0.2.2\"]",
        "+4:10: error: `drain`: 192.0.2.2 is no address of the pool",
        "",
    ),
    (
        "[[pool]]\nname = \"q\"\naddresses = [\"192.0.2.0/31\"]\ndrain = [\"192.0.2.0/31\"]",
        "+4:10: error: `drain`: \"192.0.2.0/31\" is not an address",
        "without a prefix",
    ),
    (
        "[[pool]]\nname = \"q\"\naddresses = [\"2001:db8:7::/64\"]\ndrain = [\"2001:db8:7::1\"]",
        "+4:10: error: `drain`: 2001:db8:7::1 cannot be drained alone, for 2001:db8:7::/64 is too wide",
        "chosen per client",
    ),
    (
        "[[pool]]\nname = \"q\"\naddresses = [\"192.0.2.0/31\"]\ndrain = [\"192.0.2.0\", \"192.0.2.1\"]",
        "+4:9: warning: `drain`: no address of the pool is left",
        "no_source_address",
    ),
    (
        "[[pool]]\nname = \"q\"\naddresses = [\"192.0.2.1\"]\n[pool.public]\n\"192.0.2.2\" = \"52.1.2.3\"",
        "+5:15: error: `public`: 192.0.2.2 is no address of the pool",
        "",
    ),
    (
        "[[pool]]\nname = \"q\"\naddresses = [\"192.0.2.1\"]\npublic = { \"192.0.2.1\" = \"2001:db8::1\" }",
        "+4:26: error: `public`: 192.0.2.1 and 2001:db8::1 are of two families",
        "",
    ),
    (
        "[[pool]]\nname = \"q\"\naddresses = [\"192.0.2.1\"]\npublic = { \"192.0.2.1\" = \"a.example\" }",
        "+4:26: error: `public`: \"a.example\" is not an address",
        "",
    ),
    (
        "[[pool]]\nname = \"q\"\naddresses = [\"192.0.2.1\"]\npublic = { a = \"52.1.2.3\" }",
        "+4:16: error: `public`: \"a\" is not an address",
        "before the `=`",
    ),
    (
        "[[pool]]\nname = \"q\"\naddresses = [\"192.0.2.0/31\"]\npublic = { \"192.0.2.0\" = \"52.1.2.3\", \"192.0.2.1\" = \"52.1.2.3\" }",
        "+4:52: error: `public`: 52.1.2.3 stands for 192.0.2.0 and for 192.0.2.1",
        "one to one",
    ),
    (
        "[[pool]]\nname = \"q\"\naddresses = [\"192.0.2.1\"]\npublic = { \"192.0.2.1\" = \"0.0.0.0\" }",
        "+4:26: error: `public`: 0.0.0.0 is nobody's public address",
        "",
    ),
    (
        "[[pool]]\nname = \"q\"\naddresses = [\"192.0.2.1\"]\npublic = \"52.1.2.3\"",
        "+4:10: error: `public`: \"52.1.2.3\" is not a table",
        "52.1.2.3",
    ),
    // shares
    (
        "[[pool]]\nname = \"q\"\naddresses = [\"192.0.2.1\"]\nports = \"2000-2015\"\n[[tenant]]\nname = \"u\"\nsources = [\"10.1.0.0/24\"]\npool = \"q\"\nports_floor = 9\n[[tenant]]\nname = \"v\"\nsources = [\"10.2.0.0/24\"]\npool = \"q\"\nports_floor = 8",
        "+14:15: error: `ports_floor`: the floors of pool \"q\" come to 17 ports, and its IPv4 addresses have 16",
        "",
    ),
    (
        "[[pool]]\nname = \"q\"\naddresses = [\"192.0.2.0/31\"]\ndrain = [\"192.0.2.1\"]\nports = \"2000-2015\"\n[[tenant]]\nname = \"u\"\nsources = [\"10.1.0.0/24\"]\npool = \"q\"\nports_floor = 17",
        "+4:9: warning: `drain`: the floors of pool \"q\" come to 17 ports, and 16 are left of its IPv4 addresses",
        "",
    ),
    (
        "[[pool]]\nname = \"q\"\naddresses = [\"10.128.0.0/16\"]\n[[tenant]]\nname = \"u\"\nsources = [\"10.1.0.0/24\"]\npool = \"q\"\nports_floor = 17",
        "+3:14: error: `addresses`: 10.128.0.0/16 cannot keep the `ports_floor` of tenant \"u\"",
        "/64",
    ),
    (
        "[[tenant]]\nname = \"u\"\nsources = [\"10.1.0.0/24\"]\npool = \"p\"\nports_floor = 5\nports_ceiling = 4",
        "+5:15: error: `ports_floor`: 5 is more than `ports_ceiling`, 4",
        "",
    ),
    (
        "[[tenant]]\nname = \"u\"\nsources = [\"10.1.0.0/24\"]\npool = \"p\"\nports_ceiling = 0",
        "+5:17: error: `ports_ceiling`: 0 is out of range",
        "",
    ),
    ("[[pool]]\nname = \"q\"\naddresses = [\"192.0.2.1\"]", "+2:8: warning: no tenant uses pool \"q\"", ""),
];
