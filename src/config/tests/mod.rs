//! Complete configurations, valid and invalid.

mod catalogue;
mod dead_rules;
mod files;
mod mistakes;
mod other_protocols;
mod plain_http;
mod repeats;
mod soup;

use super::{ADMIN_SOCKET, ConfigReport, LoadedConfig, Severity, load};
use crate::policy::EchPolicy;
use std::time::Duration;

/// A valid configuration to which each case adds text.
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

/// Number of lines of `GOOD`; a case's text follows them.
const GOOD_LINES: usize = 11;

fn load_files(files: &[(&str, &str)]) -> (tempfile::TempDir, Result<LoadedConfig, ConfigReport>) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let loaded = load(&folder.path().join("egret.toml"));
    (folder, loaded)
}

/// Returns the findings, a line each, with paths relative to the main file's folder.
fn findings(files: &[(&str, &str)]) -> Vec<String> {
    let (folder, loaded) = load_files(files);
    let found = loaded.map_or_else(|report| report.diagnostics, |loaded| loaded.warnings);
    let prefix = format!("{}/", folder.path().display());
    found.iter().map(|diagnostic| diagnostic.to_string().replace(&prefix, "")).collect()
}

fn loaded(files: &[(&str, &str)]) -> LoadedConfig {
    load_files(files).1.unwrap_or_else(|report| panic!("{report}"))
}

/// Returns the findings in `GOOD` followed by the text, with line numbers counted from the text's first line.
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

/// The full designed configuration; keys not implemented yet are refused by name, and nothing else is found.
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
fn drained_strangers_do_not_count() {
    let found = findings_below(
        "[[pool]]\nname = \"q\"\naddresses = [\"192.0.2.1\"]\ndrain = [\"192.0.2.2\", \"192.0.2.3\"]\n\
         [[tenant]]\nname = \"t\"\nsources = [\"10.9.0.0/24\"]\npool = \"q\"\nports_floor = 7\n\
         [[tenant.allow]]\nhosts = [\"a.example\"]\n",
    );
    let strangers = found.iter().filter(|line| line.contains("is no address of the pool")).count();
    assert_eq!(strangers, 2, "{found:#?}");
}

#[test]
fn only_shared_pools_have_shares() {
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
fn design_example_loads() {
    let names = ("allow/acme.txt", "a.example\n");
    let found = findings(&[("egret.toml", DESIGNED), names]);
    let errors: Vec<_> = found.iter().filter(|line| line.contains(" error: ")).collect();
    let refused: Vec<_> = errors.iter().filter_map(|line| line.split('`').nth(1)).collect();
    assert_eq!(refused, ["new_flows", "bandwidth", "bytes"], "{found:#?}");
    assert!(errors.iter().all(|line| line.contains("is not supported yet")), "{found:#?}");
    let left =
        DESIGNED.replace(", new_flows = \"500/s\", bandwidth = \"1Gbit/s\", bytes = \"5TB/month\"", "");
    let LoadedConfig { config, warnings, .. } = loaded(&[("egret.toml", &left), names]);
    assert_eq!(config.limits["acme"].flows, Some(20_000));
    assert_eq!(warnings.len(), 1, "of the wildcard over everybody's buckets: {warnings:?}");
}

#[test]
fn control_socket_default_can_be_disabled() {
    let admin = |text: &str| loaded(&[("egret.toml", &format!("{GOOD}{text}"))]).config.gateway.admin;
    assert_eq!(admin(""), Some(ADMIN_SOCKET.into()));
    assert_eq!(admin("[gateway]\nadmin = \"unix:/run/other.sock\""), Some("/run/other.sock".into()));
    assert_eq!(admin("[gateway]\nadmin = \"off\""), None);
}

#[test]
fn columns_count_characters() {
    let found = findings(&[("egret.toml", "x = [\"é\", ü]")]);
    assert!(found[0].starts_with("egret.toml:1:11: error: not valid TOML"), "{found:?}");
}

#[test]
fn absent_keys_have_documented_defaults() {
    let config = loaded(&[("egret.toml", GOOD)]).config;
    assert_eq!(config.gateway.listen.to_string(), "[::]:15001");
    assert_eq!(config.gateway.workers, None);
    assert_eq!(config.gateway.idle_timeout, None);
    assert_eq!(config.gateway.keepalive.idle, Duration::from_secs(60));
    assert_eq!(config.inspect.max_hello, 65536);
    assert_eq!((config.steering.mark, config.steering.table), (1, 100));
    assert_eq!(config.pools[0].ports.to_string(), "1024-65535");
    assert_eq!(&*config.tenants[0].rules[0].label, "egret.toml:10");
}

#[test]
fn rules_keep_file_order_and_names() {
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
fn tenant_ech_overrides_the_global() {
    for (all, own, meant) in [
        ("", "", EchPolicy::Outer),
        ("ech = \"deny\"", "", EchPolicy::Deny),
        ("ech = \"deny\"", "ech = \"outer\"", EchPolicy::Outer),
        ("", "ech = \"deny\"", EchPolicy::Deny),
    ] {
        let text = GOOD.replace("pool = \"p\"", &format!("pool = \"p\"\n{own}"));
        let text = format!("{text}[[tenant.allow]]\nhosts = [\"*.defo.ie\"]\n[policy]\n{all}\n");
        let loaded = loaded(&[("egret.toml", &text)]);
        assert_eq!(loaded.config.tenants[0].ech, meant, "{all} {own}");
        assert_eq!(
            loaded.warnings.len(),
            usize::from(meant == EchPolicy::Outer),
            "cover.defo.ie hides others"
        );
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

/// Equal configurations have equal versions on every gateway, and on every release that reads them alike: a change here is a
/// change of what a default means, or of the canonical form.
#[test]
fn version_is_of_canonical_bytes() {
    let version = |text: &str| loaded(&[("egret.toml", text)]).config.version();
    let first = version(GOOD);
    assert_eq!(first, "30d0e1f18515b9ba");
    assert_eq!(version(&format!("{GOOD}\n# a comment\n")), first);
    assert_ne!(version(&GOOD.replace("example.com", "example.org")), first);
}
