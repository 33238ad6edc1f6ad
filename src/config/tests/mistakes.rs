//! Each mistake is reported at its position, with a remedy.

mod pools;
mod tenants;

use super::findings_below;

/// Text added to `GOOD`, and the expected finding: its start, and a part of the rest.
type Mistake = (&'static str, &'static str, &'static str);

/// Mistakes outside pools and tenants.
const OTHERS: &[Mistake] = &[
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
        "+2:16: error: `idle_timeout`: \"never\" is not a valid value",
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
        "+2:24: error: `private_destinations`: \"by-cdir\" is not a valid value",
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
        "+1:15: error: `destination`: \"verfy\" is not a valid value",
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
        "[certificates]\nroots = [\"/etc/passwd\"]",
        "+2:10: error: `roots`: \"/etc/passwd\" is no PEM file",
        "BEGIN CERTIFICATE",
    ),
    (
        "[resolver]\ndnssec = \"require\"\ntrust_anchors = [\"/etc/passwd\"]",
        "+3:18: error: `trust_anchors`: \"/etc/passwd\" is no file of DNSKEY records",
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
    (
        "[resolver]\nservers = [\"fe80::1\"]",
        "+2:12: error: `servers`: \"fe80::1\" is a link-local address without its interface",
        "\"[fe80::1%3]:53\"",
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
];

#[test]
fn mistakes_show_position_and_remedy() {
    for (text, start, part) in OTHERS.iter().chain(pools::ALL).chain(tenants::ALL) {
        let found = findings_below(text);
        let fits = |line: &String| {
            line.strip_prefix("egret.toml:").is_some_and(|rest| rest.starts_with(start))
                && line.contains(part)
                || *start == ":" && line.contains(part)
        };
        assert!(found.iter().any(fits), "{text}\nwanted {start} … {part}\nfound {found:#?}");
    }
}
