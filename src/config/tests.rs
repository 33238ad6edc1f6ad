//! Whole configurations, right and wrong.

use super::catalogue::{self, AnyKey, Section};
use super::{ADMIN_SOCKET, Admin, Loaded, Report, Severity, load};
use crate::policy::Ech;
use proptest::prelude::*;
use std::time::Duration;

/// A configuration to which a case adds what it is about.
const GOOD: &str = r#"# what every case has in common
steering = { interfaces = ["ens6"], ports = [80, 443, 5432] }
[[pool]]
name = "p"
addresses = ["203.0.113.16/30"]
[[tenant]]
name = "t"
sources = ["10.0.0.0/24"]
pool = "p"
[[tenant.allow]]
hosts = ["example.com"]
"#;

/// The lines of `GOOD`; what a case adds stands below them.
const GOOD_LINES: usize = 11;

fn load_files(files: &[(&str, &str)]) -> (tempfile::TempDir, Result<Loaded, Report>) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let loaded = load(&folder.path().join("egret.toml"));
    (folder, loaded)
}

/// What is found, a line each, with paths from the folder of the main file.
fn findings(files: &[(&str, &str)]) -> Vec<String> {
    let (folder, loaded) = load_files(files);
    let found = loaded.map_or_else(|report| report.diagnostics, |loaded| loaded.warnings);
    let prefix = format!("{}/", folder.path().display());
    found.iter().map(|diagnostic| diagnostic.to_string().replace(&prefix, "")).collect()
}

fn loaded(files: &[(&str, &str)]) -> Loaded {
    load_files(files).1.unwrap_or_else(|report| panic!("{report}"))
}

/// The findings in `GOOD` with the text below it, with line numbers counted from the text's first line.
fn findings_below(text: &str) -> Vec<String> {
    let mut found = findings(&[("egret.toml", &format!("{GOOD}{text}"))]);
    for line in &mut found {
        let mut parts: Vec<_> = line.splitn(3, ':').map(str::to_owned).collect();
        if let Ok(number) = parts[1].parse::<usize>()
            && number > GOOD_LINES
        {
            parts[1] = format!("+{}", number - GOOD_LINES);
        }
        *line = parts.join(":");
    }
    found
}

/// What is added to `GOOD`, and what is told of it: the start, and a part of the rest.
const MISTAKES: &[(&str, &str, &str)] = &[
    // syntax and keys
    ("x = ", "+1:5: error: not valid TOML", ""),
    ("[gateway]\ndrain = \"1s\"\ndrain = \"2s\"", "+3:1: error: not valid TOML: duplicate key", ""),
    (
        "destnation = \"original\"",
        "+1:1: error: unknown key \"destnation\" in [[tenant.allow]]",
        "did you mean \"destination\"?",
    ),
    ("[gatway]", "+1:2: error: unknown key \"gatway\" in the main file", "did you mean \"gateway\"?"),
    (
        "[gateway]\ncolour = 1",
        "+2:1: error: unknown key \"colour\" in [gateway]",
        "its keys are listen, workers,",
    ),
    ("candidate = true", "+1:1: error: unknown key \"candidate\"", "its keys are"),
    ("[[gateway]]", "+1:1: error: `gateway`: a list is not a table", "write it as [gateway]"),
    ("[gateway]\nkeepalive = 3", "+2:13: error: `keepalive`: 3 is not a table", "[gateway.keepalive]"),
    // not supported yet
    ("[flow_log]\npath = \"journald\"", "+2:8: error: `path = \"journald\"` is not supported yet", "stdout"),
    ("[tenant.limits]\nnew_flows = \"500/s\"", "+2:13: error: `new_flows` is not supported yet", ""),
    ("[tenant.limits]\nbandwidth = \"1Gbit/s\"", "+2:13: error: `bandwidth` is not supported yet", ""),
    ("[tenant.limits]\nbytes = \"5TB/month\"", "+2:9: error: `bytes` is not supported yet", ""),
    // quantities
    ("[gateway]\ndrain = 30", "+2:9: error: `drain`: 30 is not a duration", "write a whole number and ms, s"),
    ("[gateway]\ndrain = \"2h\"", "+2:9: error: `drain`: \"2h\" is out of range", "\"0s\" to \"1h\""),
    (
        "[gateway]\nidle_timeout = \"never\"",
        "+2:16: error: `idle_timeout`: \"never\" is not a word",
        "\"off\" or duration",
    ),
    ("[gateway]\nidle_timeout = \"0s\"", "+2:16: error: `idle_timeout`: \"0s\" is out of range", "\"1s\" to"),
    (
        "[gateway]\nkeepalive = { idle = \"1500ms\" }",
        "+2:22: error: `idle`: \"1500ms\" is not a whole number of seconds",
        "",
    ),
    ("[gateway]\nworkers = \"4\"", "+2:11: error: `workers`: \"4\" is not a number", "without quotes"),
    ("[gateway]\nworkers = 0", "+2:11: error: `workers`: 0 is out of range", "1 to 1024"),
    ("[gateway]\nmax_flows = -1", "+2:13: error: `max_flows`: -1 is out of range", "1 to"),
    (
        "[inspect]\nmax_hello = \"1MB\"",
        "+2:13: error: `max_hello`: \"1MB\" is out of range",
        "\"1KiB\" to \"256KiB\"",
    ),
    ("[inspect]\nmax_hello = \"64kb\"", "+2:13: error: `max_hello`: \"64kb\" is not a size", "64KiB"),
    (
        "[policy]\nprivate_destinations = \"by-cdir\"",
        "+2:24: error: `private_destinations`: \"by-cdir\" is not one of its words",
        "did you mean \"by-cidr\"?",
    ),
    (
        "[flow_log]\npath = \"flows.jsonl\"",
        "+2:8: error: `path`: \"flows.jsonl\" is not a place",
        "absolute path",
    ),
    // names and addresses
    (
        "destination = \"verfy\"",
        "+1:15: error: `destination`: \"verfy\" is not one",
        "did you mean \"verify\"?",
    ),
    (
        "  [[tenant.allow]]\n  cidrs = [\"192.0.2.0/24\"]\n  destination = \"verify\"",
        "+3:17: error: `destination` goes with names",
        "add `hosts`",
    ),
    (
        "  [[tenant.allow]]\n  cidrs = [\"192.0.2.0/24\"]\n  certificate = \"require\"",
        "+3:17: error: `certificate` goes with names",
        "add `hosts`",
    ),
    (
        "[certificates]\nroots = [\"ca.pem\"]",
        "+2:10: error: `roots`: \"ca.pem\" is neither \"system\" nor an absolute path",
        "absolute path of a PEM file",
    ),
    (
        "[certificates]\nroots = [\"/nonexistent.pem\"]",
        "+2:10: error: `roots`: \"/nonexistent.pem\" is a file that cannot be read",
        "",
    ),
    (
        "[certificates]\nroots = [\"/dev/null\"]",
        "+2:10: error: `roots`: \"/dev/null\" is no PEM file",
        "BEGIN CERTIFICATE",
    ),
    (
        "[resolver]\ndnssec = \"require\"\ntrust_anchors = [\"/dev/null\"]",
        "+3:18: error: `trust_anchors`: \"/dev/null\" is no file of DNSKEY records",
        "dig",
    ),
    (
        "[resolver]\ntrust_anchors = [\"root\"]",
        "+2:17: warning: `trust_anchors` does nothing without `dnssec = \"require\"`",
        "",
    ),
    (
        "[resolver]\nservers = [\"dns.example.com\"]",
        "+2:12: error: `servers`: \"dns.example.com\" is not a DNS server",
        "[2001:db8::53]:5353",
    ),
    ("[resolver]\nservers = [\"0.0.0.0\"]", "+2:12: error: `servers`: \"0.0.0.0\" is not a DNS server", ""),
    (
        "[resolver]\nservers = [\"10.0.0.1\", \"10.0.0.2\", \"10.0.0.3\", \"10.0.0.4\", \"10.0.0.5\", \
         \"10.0.0.6\", \"10.0.0.7\", \"10.0.0.8\", \"10.0.0.9\"]",
        "+2:108: error: `servers`: more than 8",
        "",
    ),
    // listeners
    (
        "[gateway]\nadmin = \"/run/egret/admin.sock\"",
        "+2:9: error: `admin`: \"/run/egret/admin.sock\" is not a unix socket",
        "unix:/run/egret/admin.sock",
    ),
    ("[gateway]\nadmin = \"unix:admin.sock\"", "+2:9: error: `admin`", "at most 107 bytes"),
    (
        "[gateway]\nlisten = \"127.0.0.1:15001\"",
        "+2:10: error: `listen`: 127.0.0.1 is one address",
        "\"[::]:15001\"",
    ),
    ("[gateway]\nlisten = \"[::]:0\"", "+2:10: error: `listen`: \"[::]:0\" is without a port", ""),
    (
        "[gateway]\nmetrics = \"localhost:1\"",
        "+2:11: error: `metrics`: \"localhost:1\" is not an address and port",
        "127.0.0.1",
    ),
    (
        "[gateway]\nmetrics = \"127.0.0.1:15001\"",
        "+2:11: error: `metrics`: port 15001 is that of `listen`",
        "",
    ),
    ("[gateway]\nuser_timeout = \"30s\"", "+2:16: warning: `user_timeout` is shorter", "give it 2m at least"),
    // pools
    ("[[pool]]\nname = \"q\"\naddresses = []", "+3:13: error: `addresses`: a list is empty", ""),
    ("[[pool]]\nname = \"q\"", "+1:1: error: missing key `addresses` in [[pool]]", "add `addresses = "),
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
        "+5:8: error: `mode`: \"watch\" is not one of its words",
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
    ("http = \"first\"", "+1:8: error: `http`: \"first\" is not one of its words", "first-request"),
    ("inspect = \"off\"", "+1:11: error: `inspect`: \"off\" is not one of its words", "\"auto\" or \"none\""),
    (
        "name = \"a\"\n[[tenant.allow]]\nname = \"a\"\nhosts = [\"a.example\"]",
        "+3:8: error: rule \"a\" is there already, at egret.toml:12",
        "",
    ),
    ("ports = [443, 70000]", "+1:15: error: `ports`: 70000 is not a port", ""),
    ("ports = []", "+1:9: error: `ports`: a list is empty", ""),
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
    ("[policy]\nech = \"inner\"", "+2:7: error: `ech`: \"inner\" is not one of its words", "\"outer\""),
    (
        "[[tenant.allow]]\nhosts = [\"*.com.example\", \"cloudflare-ech.com\"]",
        "+2:9: warning: `hosts`: cloudflare-ech.com is what the SNI says",
        "`ech = \"deny\"`",
    ),
    ("[[tenant.allow]]\nhosts_file = \"none.txt\"", ":", "none.txt: error: cannot be read: No such file"),
];
#[test]
fn each_mistake_is_told_with_its_place_and_its_remedy() {
    for (text, start, part) in MISTAKES {
        let found = findings_below(text);
        let fits = |line: &String| {
            line.strip_prefix("egret.toml:").is_some_and(|rest| rest.starts_with(start))
                && line.contains(part)
                || *start == ":" && line.contains(part)
        };
        assert!(found.iter().any(fits), "{text}\nwanted {start} … {part}\nfound {found:#?}");
    }
}

/// The configuration as it is designed; what is not there yet is refused by name, and nothing else is found.
const DESIGNED: &str = r#"
[gateway]
listen  = "[::]:15001"
workers = "auto"
admin   = "unix:/run/egret/admin.sock"
metrics = "127.0.0.1:9915"
drain   = "30s"
[steering]
interfaces = ["ens6"]
ports      = [80, 443, 5432]
udp        = "reject"
[inspect]
deadline  = "5s"
max_hello = "64KiB"
[policy]
private_destinations = "by-cidr"
[flow_log]
path = "/var/log/egret/flows.jsonl"
[[pool]]
name      = "acme"
addresses = ["203.0.113.16/30", "2001:db8:100::/64"]
ports     = "1024-65535"
select    = "paired"
[[tenant]]
name    = "acme"
sources = ["10.0.1.0/24", "10.0.2.7"]
pool    = "acme"
mode    = "enforce"
limits  = { flows = 20000, new_flows = "500/s", bandwidth = "1Gbit/s", bytes = "5TB/month" }
  [[tenant.allow]]
  hosts = ["api.example.com", "*.s3.amazonaws.com"]
  ports = [443]
  destination = "original"
  [[tenant.allow]]
  hosts_file = "allow/acme.txt"
  [[tenant.allow]]
  cidrs = ["198.51.100.0/24"]
  ports = [5432]
  inspect = "none"
"#;

#[test]
fn every_tenant_of_a_shared_pool_has_a_share_and_no_other() {
    let text = GOOD.replace(
        "name = \"p\"\naddresses = [\"203.0.113.16/30\"]\n",
        "name = \"p\"\naddresses = [\"203.0.113.16/30\", \"2001:db8:1::/64\"]\ndrain = [\"203.0.113.17\"]\n\
         public = { \"203.0.113.18\" = \"52.1.2.3\", \"2001:db8:1::2\" = \"2001:db8::1\" }\n",
    );
    let more = "[[tenant]]\nname = \"u\"\nsources = [\"10.1.0.0/24\"]\npool = \"p\"\nports_floor = 5\n\
                [[tenant]]\nname = \"v\"\nsources = [\"10.2.0.0/24\"]\npool = \"p\"\nports_ceiling = 7\n\
                [[pool]]\nname = \"q\"\naddresses = [\"192.0.2.1\"]\n\
                [[tenant]]\nname = \"w\"\nsources = [\"10.3.0.0/24\"]\npool = \"q\"\n";
    let config = loaded(&[("egret.toml", &format!("{text}{more}"))]).config;
    let [p, q] = &config.pools[..] else { panic!("two pools") };
    let shares: Vec<_> = p.shares.iter().map(|share| (&*share.tenant, share.floor, share.ceiling)).collect();
    assert_eq!(shares, [("t", 0, None), ("u", 5, None), ("v", 0, Some(7))]);
    assert!(q.shares.is_empty() && q.drain.is_empty() && q.public.is_empty());
    assert_eq!(p.drain.iter().map(ToString::to_string).collect::<Vec<_>>(), ["203.0.113.17"]);
    let public: Vec<_> = p.public.iter().map(|(source, public)| format!("{source} {public}")).collect();
    assert_eq!(public, ["203.0.113.18 52.1.2.3", "2001:db8:1::2 2001:db8::1"]);
}

#[test]
fn the_design_loads_but_for_what_is_not_supported_yet() {
    let names = ("allow/acme.txt", "a.example\n");
    let found = findings(&[("egret.toml", DESIGNED), names]);
    let errors: Vec<_> = found.iter().filter(|line| line.contains(" error: ")).collect();
    let refused: Vec<_> = errors.iter().filter_map(|line| line.split('`').nth(1)).collect();
    assert_eq!(refused, ["new_flows", "bandwidth", "bytes"], "{found:#?}");
    assert!(errors.iter().all(|line| line.contains("is not supported yet")), "{found:#?}");
    let left =
        DESIGNED.replace(", new_flows = \"500/s\", bandwidth = \"1Gbit/s\", bytes = \"5TB/month\"", "");
    let Loaded { config, warnings, .. } = loaded(&[("egret.toml", &left), names]);
    assert_eq!(config.tenants[0].max_flows, Some(20_000));
    assert_eq!(warnings.len(), 1, "of the wildcard over everybody's buckets: {warnings:?}");
}

#[test]
fn the_control_socket_has_a_default_and_can_be_off() {
    let admin = |text: &str| loaded(&[("egret.toml", &format!("{GOOD}{text}"))]).config.gateway.admin;
    assert_eq!(admin(""), Some(Admin { path: ADMIN_SOCKET.into(), wanted: false }));
    let stated = format!("[gateway]\nadmin = \"unix:{ADMIN_SOCKET}\"");
    assert_eq!(admin(&stated), Some(Admin { path: ADMIN_SOCKET.into(), wanted: true }));
    assert_eq!(admin("[gateway]\nadmin = \"off\""), None);
}

#[test]
fn columns_count_characters() {
    let found = findings(&[("egret.toml", "x = [\"é\", ü]")]);
    assert!(found[0].starts_with("egret.toml:1:11: error: not valid TOML"), "{found:?}");
}

#[test]
fn all_errors_of_all_files_are_told_at_once_in_their_order() {
    let found = findings(&[
        (
            "egret.toml",
            "[gateway]\ndrain = 1\nlisten = 2\n[steering]\nudp = \"nat\"\n[inspect]\ndeadlin = 3\n",
        ),
        ("policy.d/b.toml", "[[tenant]]\nname = \"B\"\n[gateway]\n"),
        (
            "policy.d/a.toml",
            "[[pool]]\nname = \"a\"\naddresses = [\"x\"]\n[[tenant]]\nname = \"a\"\nsources = [\"10.0.0.0/8\"]\npool = \"b\"\n[[tenant.allow]]\nhosts_file = \"a.txt\"\n",
        ),
        ("policy.d/.hidden.toml", "="),
        ("policy.d/notes.txt", "="),
        ("a.txt", "good.example\n\n  bad_.-example # no\n*.com\n\u{fffd}\n"),
    ]);
    let places: Vec<_> =
        found.iter().map(|line| line.split(": ").take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        places,
        [
            "egret.toml:2:9 error",
            "egret.toml:3:10 error",
            "egret.toml:4:1 error", // no interfaces
            "egret.toml:5:7 error",
            "egret.toml:7:1 error",
            "policy.d/a.toml:3:14 error",
            "policy.d/a.toml:7:8 error", // no such pool
            "a.txt:3:3 error",
            "a.txt:4:1 error",
            "a.txt:5:1 error",
            "policy.d/b.toml:1:1 error", // no sources
            "policy.d/b.toml:1:1 error", // no pool
            "policy.d/b.toml:2:8 error",
            "policy.d/b.toml:3:2 error",
        ],
        "{found:#?}"
    );
    assert!(found.iter().any(|line| line.contains("it belongs in the main file")), "{found:#?}");
}

#[test]
fn a_broken_file_does_not_make_others_seem_wrong() {
    let found = findings(&[
        ("egret.toml", GOOD),
        ("policy.d/q.toml", "[[pool]\n"),
        ("policy.d/t.toml", "[[tenant]]\nname = \"u\"\nsources = [\"10.1.0.0/16\"]\npool = \"q\"\n"),
    ]);
    assert!(found.iter().all(|line| line.starts_with("policy.d/q.toml:1:")), "{found:#?}");
}

#[test]
fn files_that_cannot_be_read_are_named() {
    assert_eq!(findings(&[]), ["egret.toml: error: cannot be read: No such file or directory (os error 2)"]);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("egret.toml"), b"# ok\nx = \"\xff\"").unwrap();
    let report = load(&folder.path().join("egret.toml")).unwrap_err();
    assert!(report.to_string().contains("egret.toml:2:6: error: the file is not UTF-8"), "{report}");
}

#[test]
fn what_is_absent_has_the_default_of_the_reference() {
    let config = loaded(&[("egret.toml", GOOD)]).config;
    assert_eq!(config.gateway.listen.to_string(), "[::]:15001");
    assert_eq!(config.gateway.workers, None);
    assert_eq!(config.gateway.idle_timeout, None);
    assert_eq!(config.gateway.keepalive.idle, Duration::from_mins(1));
    assert_eq!(config.inspect.max_hello, 65536);
    assert_eq!((config.steering.mark, config.steering.table), (1, 100));
    assert_eq!(config.pools[0].ports.to_string(), "1024-65535");
    assert_eq!(&*config.tenants[0].rules[0].label, "egret.toml:10");
}

#[test]
fn rules_keep_the_order_of_the_file_and_take_names_from_files() {
    let text = format!(
        "{GOOD}[[tenant.deny]]\nports = [25]\n[[tenant.allow]]\nhosts = [\"b.example\"]\nhosts_file = \"lists/c.txt\"\n"
    );
    let loaded = loaded(&[
        ("egret.toml", &text),
        ("lists/c.txt", "\u{feff}C.example.\r\n# none\r\n*.d.example # four\r\n"),
    ]);
    let rules = &loaded.config.tenants[0].rules;
    let labels: Vec<_> = rules.iter().map(|rule| &*rule.label).collect();
    assert_eq!(labels, ["egret.toml:10", "egret.toml:12", "egret.toml:14"]);
    let hosts: Vec<_> = rules[2].hosts.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["b.example", "c.example", "*.d.example"]);
}

#[test]
fn names_in_any_script_become_what_clients_send() {
    let text = format!("{GOOD}[[tenant.allow]]\nhosts = [\"Bücher.example\"]\nhosts_file = \"names.txt\"\n");
    let files = [("egret.toml", &*text), ("names.txt", "*.пример.испытание # a wildcard\n")];
    let hosts: Vec<_> =
        loaded(&files).config.tenants[0].rules[1].hosts.iter().map(ToString::to_string).collect();
    assert_eq!(hosts, ["xn--bcher-kva.example", "*.xn--e1afmkfd.xn--80akhbyknj4f"]);
    let files = [("egret.toml", &*text), ("names.txt", "b\u{200d}a.example\n")];
    let found = findings(&files);
    let said = "names.txt:1:1: error: \"b\\u{200d}a.example\" is not a hostname: the name is not a valid";
    assert!(found[0].starts_with(said), "{found:#?}");
}

#[test]
fn a_tenant_has_its_own_ech_or_that_of_all() {
    for (all, own, meant) in [
        ("", "", Ech::Outer),
        ("ech = \"deny\"", "", Ech::Deny),
        ("ech = \"deny\"", "ech = \"outer\"", Ech::Outer),
        ("", "ech = \"deny\"", Ech::Deny),
    ] {
        let text = GOOD.replace("pool = \"p\"", &format!("pool = \"p\"\n{own}"));
        let text = format!("{text}[[tenant.allow]]\nhosts = [\"*.defo.ie\"]\n[policy]\n{all}\n");
        let loaded = loaded(&[("egret.toml", &text)]);
        assert_eq!(loaded.config.tenants[0].ech, meant, "{all} {own}");
        assert_eq!(loaded.warnings.len(), usize::from(meant == Ech::Outer), "cover.defo.ie hides others");
    }
}

#[test]
fn a_hosts_file_without_names_is_refused_since_no_names_means_any() {
    let text = format!("{GOOD}hosts_file = \"none.txt\"\n");
    let found = findings(&[("egret.toml", &text), ("none.txt", "# later\n\n")]);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("none.txt: error: there is no name in it"), "{found:?}");
}

#[test]
fn a_file_of_another_kind_does_not_fill_the_screen() {
    let text = format!("{GOOD}hosts_file = \"big.txt\"\n");
    let found = findings(&[("egret.toml", &text), ("big.txt", &"<html>\n".repeat(500))]);
    assert_eq!(found.len(), 21, "{found:?}");
    assert_eq!(found[20], "big.txt:21:1: error: 480 more such errors in this file");
}

#[test]
fn one_hosts_file_of_many_rules_is_read_and_told_once() {
    let text =
        format!("{GOOD}[[tenant.allow]]\nhosts_file = \"x.txt\"\n[[tenant.allow]]\nhosts_file = \"x.txt\"\n");
    let found = findings(&[("egret.toml", &text), ("x.txt", "a b\n")]);
    assert_eq!(found.len(), 1, "{found:?}");
}

#[test]
fn rules_that_never_match_are_told() {
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
        // by name nobody reaches private addresses, so the second still does something
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
            Some("+2:9: warning: 1 of its names stand there twice, such as b.example"),
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

/// A configuration whose only unusual line is `key = value` in the section.
fn with_key(section: &Section, key: &dyn AnyKey, value: &str) -> String {
    let line = format!("{} = {value}\n", key.name());
    let steering = "[steering]\ninterfaces = [\"ens6\"]\n";
    let pool = "[[pool]]\nname = \"acme\"\naddresses = [\"203.0.113.0/27\", \"2001:db8::/64\"]\n";
    let tenant = "[[tenant]]\nname = \"acme\"\nsources = [\"10.0.0.0/24\"]\npool = \"acme\"\n";
    let mut text = match section.header {
        "[steering]" => format!("{pool}{tenant}{steering}"),
        "[[pool]]" => format!("{steering}{tenant}{pool}"),
        "[[tenant]]" => format!("{steering}{pool}{tenant}"),
        "[[tenant.allow]]" if key.name() == "inspect" => {
            format!("{steering}{pool}{tenant}{}\ncidrs = [\"192.0.2.1\"]\n", section.header)
        }
        "[[tenant.allow]]" | "[[tenant.deny]]" => {
            format!("{steering}{pool}{tenant}{}\nhosts = [\"a.example\"]\n", section.header)
        }
        header => format!("{steering}{pool}{tenant}{header}\n"),
    };
    // The key may be one of those that are there already: the last table is the one in question.
    let table = text.rfind("\n[").map_or(0, |at| at + 1);
    let kept: String = text[table..]
        .split_inclusive('\n')
        .filter(|l| !l.starts_with(&format!("{} = ", key.name())))
        .collect();
    text.truncate(table);
    text + &kept + &line
}

#[test]
fn every_key_of_the_catalogue_takes_its_example() {
    for section in catalogue::ALL {
        for key in section.keys.iter().filter(|key| key.unsupported().is_none()) {
            let text = with_key(section, *key, key.example());
            let names = "a.example\n";
            let (_folder, result) =
                load_files(&[("egret.toml", &text), ("allow/acme.txt", names), ("deny/acme.txt", names)]);
            assert!(result.is_ok(), "{text}\n{result:?}");
        }
    }
}

/// So every key is really read: one that were only listed would swallow this.
#[test]
fn every_key_of_the_catalogue_refuses_what_no_key_takes() {
    for section in catalogue::ALL {
        for key in section.keys {
            let text = with_key(section, *key, "07:32:00");
            let report = load_files(&[("egret.toml", &text)]).1.expect_err(&text);
            let about_it = format!("`{}`", key.name());
            assert!(report.to_string().contains(&about_it), "{text}\n{report}");
            assert_eq!(report.errors(), 1, "{text}\n{report}");
        }
    }
}

#[test]
fn diagnostics_serialise_flat() {
    let report = load_files(&[("egret.toml", "x = 1")]).1.unwrap_err();
    let unknown =
        report.diagnostics.iter().find(|found| found.severity == Severity::Error && found.line != 0);
    let json = serde_json::to_value(unknown).unwrap();
    assert_eq!((json["severity"].as_str(), json["file"].is_string()), (Some("error"), true));
    assert_eq!(json["message"], "unknown key \"x\" in the main file");
    assert_eq!((json["line"].as_u64(), json["column"].as_u64()), (Some(1), Some(1)));
}

/// Pieces that get further than random characters do.
fn toml_soup() -> impl Strategy<Value = String> {
    let pieces = [
        "[gateway]",
        "[steering]",
        "[[pool]]",
        "[[tenant]]",
        "[[tenant.allow]]",
        "[tenant.limits]",
        "[inspect]",
        "\n",
        "\n",
        "\n",
        "name",
        "hosts",
        "hosts_file",
        "cidrs",
        "ports",
        "addresses",
        "sources",
        "listen",
        "drain",
        "keepalive",
        " = ",
        " = ",
        "\"",
        "\"x\"",
        "[",
        "]",
        "{",
        "}",
        ",",
        "443",
        "-1",
        "\"*.\"",
        "\"9-8\"",
        "\"10.0.0.0/8\"",
        "\"::/0\"",
        "é",
        "0x1f",
        "1e9",
        "true",
        "1979-05-27",
        "\"5s\"",
        "\"99999999999999999999d\"",
        "\0",
        "\r",
    ];
    proptest::collection::vec(proptest::sample::select(pieces.to_vec()), 0..40)
        .prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_text_makes_loading_panic(text in prop_oneof![toml_soup(), ".{0,200}"], names in ".{0,60}") {
        let with_names = format!("{GOOD}hosts_file = \"n.txt\"\n");
        let _ = load_files(&[("egret.toml", &text)]);
        let _ = load_files(&[("egret.toml", &with_names), ("n.txt", &names), ("policy.d/x.toml", &text)]);
    }
}
