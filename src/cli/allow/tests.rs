use super::*;
use crate::cli::flow_log::LogFiles;
use std::fs;

const CONFIG: &str = r#"
[steering]
interfaces = ["ens6"]
ports = [80, 443, 5432]
[flow_log]
path = "LOG"
[[pool]]
name = "p"
addresses = ["203.0.113.16/30"]

[[tenant]] # the first
name = "acme"
sources = ["10.0.1.0/24"]
pool = "p"

  [[tenant.deny]]
  hosts = ["evil.example.org"]

# the second
[[tenant]]
name = "beta"
sources = ["10.0.2.0/24"]
pool = "p"
"#;

/// A configuration, and a flow log with one denied flow.
struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    fn new(client: &str, hostname: &str, destination: &str, outcome: &str) -> Self {
        let site = Self { folder: tempfile::tempdir().unwrap() };
        let log = site.path("flows.jsonl");
        fs::write(site.main(), CONFIG.replace("LOG", log.to_str().unwrap())).unwrap();
        let line = format!(
            r#"{{"time":"2026-01-01T00:00:00.000000Z","flow":"00c0ffee-1f","tenant":"acme","client":"{client}:40000",
            "destination":"{destination}","hostname":{hostname},"denied_hostname":null,"protocol":"tls","rule":null,"verdict":"deny",
            "outcome":"{outcome}","detail":null,"source":null,"bytes_up":0,"bytes_down":0,"duration_ms":1.5}}"#
        );
        fs::write(log, format!("torn\n{}\n", line.replace('\n', ""))).unwrap();
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn main(&self) -> PathBuf {
        self.path("egret.toml")
    }

    fn flow(&self) -> DeniedFlow {
        let config = config::load(&self.main()).unwrap().config;
        let options = FlowOptions { flow: "00c0ffee-1f".parse().unwrap(), log: LogFiles::default() };
        DeniedFlow::find(&config, &options).unwrap()
    }

    /// The same flow, which monitor mode let pass.
    fn waived(self, denied: &str) -> Self {
        let log = fs::read_to_string(self.path("flows.jsonl")).unwrap();
        let (made, waived) = (format!("\"{denied}\""), format!("\"closed\",\"would_deny\":\"{denied}\""));
        fs::write(self.path("flows.jsonl"), log.replace(&made, &waived)).unwrap();
        self
    }

    fn addition(&self) -> Result<Addition, String> {
        let DeniedFlow { record, now } = self.flow();
        addition(&config::load(&self.main()).unwrap().config, &record, &now)
    }

    /// The main file after `--write`.
    fn written(&self) -> String {
        let flow = self.flow();
        let file = write(&self.main(), &flow, &self.addition().unwrap(), &self.path(TESTS)).unwrap();
        assert_eq!(file, self.main());
        fs::read_to_string(file).unwrap()
    }
}

#[test]
fn rule_is_inserted_after_the_tenant() {
    let site = Site::new("10.0.1.5", r#""api.example.org""#, "198.51.100.7:443", "not_allowed");
    let text = site.written();
    let rule = "[[tenant.allow]]\nhosts = [\"api.example.org\"]\nports = [443]\n\n# the second\n[[tenant]]";
    assert!(text.contains(rule), "{text}");
    let tests = fs::read_to_string(site.path(TESTS)).unwrap();
    assert!(tests.contains("to = \"api.example.org:443\"\naddress = \"198.51.100.7\""), "{tests}");
    assert!(site.flow().now.allowed);
}

#[test]
fn unreadable_tests_are_not_replaced() {
    let site = Site::new("10.0.1.5", r#""api.example.org""#, "198.51.100.7:443", "not_allowed");
    let (before, tests) = (fs::read(site.main()).unwrap(), site.path(TESTS));
    let latin = b"[[test]] # \xe4\n";
    fs::write(&tests, latin).unwrap();
    let why = write(&site.main(), &site.flow(), &site.addition().unwrap(), &tests).unwrap_err();
    assert!(why.contains(TESTS) && why.contains("UTF-8"), "{why}");
    assert_eq!((fs::read(site.main()).unwrap(), fs::read(&tests).unwrap()), (before, latin.to_vec()));
}

#[test]
fn current_log_is_read_first() {
    let site = Site::new("10.0.1.5", r#""api.example.org""#, "198.51.100.7:443", "not_allowed");
    let log = fs::read_to_string(site.path("flows.jsonl")).unwrap();
    let rotated = site.path("flows.jsonl.1");
    fs::write(&rotated, log.replace("10.0.1.5", "10.0.1.6")).unwrap();
    let rotated = fs::File::options().write(true).open(rotated).unwrap();
    rotated.set_modified(crate::clock::wall() - std::time::Duration::from_secs(3600)).unwrap();
    assert_eq!(site.flow().record.client.ip().to_string(), "10.0.1.5");
}

#[test]
fn last_tenants_rule_is_appended() {
    let site = Site::new("10.0.2.5", "null", "198.51.100.7:5432", "no_hostname");
    let text = site.written();
    assert!(text.ends_with("[[tenant.allow]]\ncidrs = [\"198.51.100.7/32\"]\nports = [5432]\n"), "{text}");
}

#[test]
fn private_destinations_are_allowed_by_name_and_address() {
    let site = Site::new("10.0.1.5", r#""db.example.org""#, "10.9.9.9:443", "destination_private");
    let text = site.written();
    assert!(
        text.contains("hosts = [\"db.example.org\"]\ncidrs = [\"10.9.9.9/32\"]\nports = [443]"),
        "{text}"
    );
}

/// Acme denies a name everywhere, so it takes the key; beta denies none.
#[test]
fn protocol_key_is_added_beside_denied_names() {
    for (client, destination, denied) in [
        ("10.0.1.5", "198.51.100.7:5432", "no_hostname"),
        ("10.0.1.5", "198.51.100.8:5432", "unknown_protocol"),
        ("10.0.2.5", "198.51.100.7:5432", "not_allowed"),
    ] {
        let site = Site::new(client, "null", destination, denied);
        let log = fs::read_to_string(site.path("flows.jsonl")).unwrap();
        fs::write(site.path("flows.jsonl"), log.replace(r#""tls""#, r#""other""#)).unwrap();
        let key = "other_protocols = \"allow\"\n";
        let text = site.written();
        assert_eq!(text.contains(key), client == "10.0.1.5", "{text}");
        assert!(site.flow().now.allowed, "{text}");
        let tests = fs::read_to_string(site.path(TESTS)).unwrap();
        assert!(tests.contains("other_protocol = true\n"), "{tests}");
    }
}

#[test]
fn silent_clients_get_a_rule_without_inspection() {
    let text = Site::new("10.0.2.5", "null", "198.51.100.7:5432", "inspect_timeout").written();
    assert!(text.ends_with("inspect = \"none\"\n"), "{text}");
}

/// Monitor mode changes nothing about the rule.
#[test]
fn waived_denials_get_the_same_rule() {
    for (client, hostname, destination, denied) in [
        ("10.0.2.5", "null", "198.51.100.7:5432", "inspect_timeout"),
        ("10.0.2.5", "null", "198.51.100.7:80", "invalid_hostname"),
        ("10.0.2.5", "null", "198.51.100.7:443", "no_hostname"),
        ("10.0.1.5", r#""api.example.org""#, "198.51.100.7:443", "not_allowed"),
        ("10.0.1.5", r#""api.example.org""#, "198.51.100.7:443", "destination_private"),
        ("10.0.1.5", r#""evil.example.org""#, "198.51.100.7:443", "denied_by_rule"),
        ("10.0.1.5", "null", "198.51.100.7:80", "malformed_http"),
    ] {
        let site = || Site::new(client, hostname, destination, denied);
        let told = |site: Site| site.addition().map(|Addition { rule, test, .. }| rule + &test);
        assert_eq!(told(site()), told(site().waived(denied)), "{denied}");
    }
}

/// The files allow whoever speaks to that address.
#[test]
fn inspected_rule_lets_no_silent_client_out() {
    let site = Site::new("10.0.2.5", "null", "198.51.100.7:5432", "inspect_timeout");
    let config = fs::read_to_string(site.main()).unwrap();
    fs::write(site.main(), config + "[[tenant.allow]]\ncidrs = [\"198.51.100.0/24\"]\n").unwrap();
    let site = site.waived("inspect_timeout");
    assert!(!site.flow().now.is_let_out() && site.flow().now.help.is_none());
    assert!(site.written().ends_with("inspect = \"none\"\n"));
    assert!(site.flow().now.is_let_out() && beyond_rules(&site.flow().record).is_none());
}

/// By the files alone the address is public, so that a rule by name would do.
#[test]
fn address_of_a_link_takes_networks() {
    let site = Site::new("10.0.2.5", r#""api.example.org""#, "198.51.100.7:443", "destination_private");
    let config = fs::read_to_string(site.main()).unwrap();
    fs::write(site.main(), config + "[[tenant.allow]]\nhosts = [\"api.example.org\"]\n").unwrap();
    let DeniedFlow { now, .. } = site.flow();
    assert!(now.private.is_some_and(|why| why.contains("own links")));
    let text = site.written();
    assert!(
        text.ends_with("hosts = [\"api.example.org\"]\ncidrs = [\"198.51.100.7/32\"]\nports = [443]\n"),
        "{text}"
    );
    assert!(site.flow().now.is_let_out());
}

/// Files do not tell the addresses to which a name was resolved.
#[test]
fn reload_is_no_remedy_for_resolved_addresses() {
    let site = Site::new("10.0.1.5", r#""api.example.org""#, "198.51.100.7:443", "destination_private");
    let log = fs::read_to_string(site.path("flows.jsonl")).unwrap();
    let resolved = log.replace("\"protocol\"", "\"address_check\":\"resolved\",\"protocol\"");
    fs::write(site.path("flows.jsonl"), resolved).unwrap();
    site.written();
    let why = beyond_rules(&site.flow().record).unwrap_or_default();
    assert!(site.flow().now.is_let_out() && why.contains("where its name led"), "{why}");
}

#[test]
fn broken_files_are_not_blamed_on_rules() {
    let site = Site::new("10.0.1.5", r#""api.example.org""#, "198.51.100.7:443", "not_allowed");
    let (flow, addition) = (site.flow(), site.addition().unwrap());
    let broken = fs::read_to_string(site.main()).unwrap() + "colour = \"red\"\n";
    fs::write(site.main(), &broken).unwrap();
    let why = write(&site.main(), &flow, &addition, &site.path(TESTS)).unwrap_err();
    assert!(why.contains("have errors already") && why.contains("colour"), "{why}");
    assert_eq!(fs::read_to_string(site.main()).unwrap(), broken);
}

/// Acme has a deny rule by name, which might be meant.
#[test]
fn invalid_hostname_is_allowed_by_address() {
    let site = Site::new("10.0.2.5", "null", "198.51.100.7:80", "invalid_hostname");
    let text = site.written();
    assert!(
        text.contains(
            "invalid_hostname without this rule.\n[[tenant.allow]]\ncidrs = [\"198.51.100.7/32\"]\n"
        ),
        "{text}"
    );
    let tests = fs::read_to_string(site.path(TESTS)).unwrap();
    assert!(tests.contains("to = \"http://198.51.100.7:80\"\n"), "{tests}");
    assert!(site.flow().now.is_let_out());
    let refused = Site::new("10.0.1.5", "null", "198.51.100.7:80", "invalid_hostname").addition().err();
    assert!(refused.as_ref().is_some_and(|why| why.contains("might be meant")), "{refused:?}");
}

#[test]
fn denials_beyond_rules_are_told() {
    let site = Site::new("10.0.1.5", r#""api.example.org""#, "198.51.100.7:443", "not_allowed");
    site.written();
    let log = fs::read_to_string(site.path("flows.jsonl")).unwrap();
    for (outcome, canary, wanted) in [
        ("not_allowed", "false", None),
        ("denied_by_rule", "false", None),
        ("resolver_unavailable", "false", Some("no rule helps against resolver_unavailable: ")),
        ("ports_exhausted", "false", Some("no rule helps against ports_exhausted: ")),
        ("not_allowed", "true", Some("a candidate denied it")),
    ] {
        let line = log
            .replace("\"not_allowed\"", &format!("\"{outcome}\""))
            .replace("\"rule\":null", &format!("\"rule\":null,\"canary\":{canary}"));
        fs::write(site.path("flows.jsonl"), line).unwrap();
        let flow = site.flow();
        assert!(flow.now.is_let_out());
        let told = beyond_rules(&flow.record);
        assert_eq!(told.is_some(), wanted.is_some(), "{outcome}: {told:?}");
        assert!(told.unwrap_or_default().contains(wanted.unwrap_or_default()), "{outcome}");
    }
}

#[test]
fn useless_rules_are_not_offered() {
    for (client, hostname, destination, why) in [
        ("10.0.1.5", r#""evil.example.org""#, "198.51.100.7:443", "denied_by_rule"),
        ("10.0.9.5", r#""api.example.org""#, "198.51.100.7:443", "no tenant"),
        ("10.0.1.5", r#""api.example.org""#, "198.51.100.7:22", "not steered"),
        ("10.0.1.5", r#""api.example.org""#, "203.0.113.17:443", "own or a pool's"),
        ("10.0.1.5", r#""egret-doctor.invalid""#, "198.51.100.7:443", "probe of `egret doctor`"),
    ] {
        let site = Site::new(client, hostname, destination, "not_allowed");
        let refused = site.addition().err();
        assert!(refused.as_ref().is_some_and(|refused| refused.contains(why)), "{refused:?}");
        let (config, DeniedFlow { record, now }) = (config::load(&site.main()).unwrap().config, site.flow());
        assert!(!has_rule_for(&config, &record, &now), "`egret why` would offer one");
    }
}

/// A policy file in some order, and the text that is right above the rule there.
const ORDERS: [(&str, &str); 7] = [
    ("[[tenant]]\nname = \"acme\"\npool = \"p\"\n\n# pools\n[[pool]]\nname = \"p\"\n", "pool = \"p\"\n\n"),
    (
        "[[pool]]\nname = \"p\"\n[[tenant]]\nname = \"acme\"\n[tenant.limits]\nflows = 5\n[pool.public]\n\"203.0.113.16\" = \"52.1.2.16\"\n",
        "flows = 5\n\n",
    ),
    (
        "[[tenant]]\nname = \"acme\"\n[[tenant.allow]]\nhosts = [\"a\"]\n[[pool]]\nname = \"p\"\n[[tenant.deny]]\nhosts = [\"b\"]\n[policy]\n",
        "hosts = [\"b\"]\n\n",
    ),
    (
        "[[tenant]]\nname = \"beta\"\n[[tenant]]\nname = \"acme\"\nlimits.flows = 5\n\n[[tenant]]\nname = \"c\"\n",
        "flows = 5\n\n",
    ),
    (
        "[[tenant]]\nname = \"acme\"\nhelp = \"\"\"\n[[tenant]]\n[[pool]]\n\"\"\"\n[steering]\nwatch = true\n",
        "\"\"\"\n\n",
    ),
    ("[[tenant]]\nname = 'acme'\r\n\r\n[ 'pol\\icy' . x ]\r\n", "'acme'\n\n"),
    ("[[tenant]]\nname = \"acme\"", "\"acme\"\n\n"),
];

#[test]
fn rule_follows_its_tenants_own_tables() {
    const RULE: &str = "# why\n[[tenant.allow]]\nhosts = [\"x.example.org\"]\n";
    for (before, above) in ORDERS {
        let after = edit::below_tenant(before, "acme", RULE).unwrap_or_else(|| panic!("{before}"));
        assert!(after.contains(&format!("{above}{RULE}")), "{after}");
        assert_eq!(
            after.replacen(RULE, "", 1).split_whitespace().collect::<String>(),
            before.split_whitespace().collect::<String>()
        );
    }
    for inline in [
        "tenant = [{ name = \"acme\" }]\n",
        "[[tenant]]\nname = \"acme\"\nallow = [{ hosts = [\"a\"] }]\n",
        "[[tenant]]\nname = \"acme\"\n[tenant.allow]\n",
        "[[tenant]]\nname = \"other\"\n",
        "[[tenant]]\nname = \"acme\"\n[broken\n",
    ] {
        assert_eq!(edit::below_tenant(inline, "acme", RULE), None, "{inline}");
    }
}

#[test]
fn tests_that_cannot_be_appended_are_refused() {
    const TEST: &str = "[[test]]\nfrom = \"10.0.1.5\"\n";
    for known in ["", "# none\n", "[[test]]\nfrom = \"10.0.1.6\"\n"] {
        assert!(edit::with_test(known, TEST).is_some_and(|after| after.ends_with(TEST)), "{known}");
    }
    for known in ["test = []\n", "[test]\n", "[[test]\n"] {
        assert_eq!(edit::with_test(known, TEST), None, "{known}");
    }
}

#[test]
fn no_rule_helps_against_bad_bytes() {
    for denied in ["malformed_http", "malformed_tls", "hello_too_large", "hello_changed"] {
        let refused = Site::new("10.0.1.5", "null", "169.254.169.254:80", denied).addition().err();
        let told = format!("does not help against {denied}: ");
        assert!(refused.as_ref().is_some_and(|refused| refused.contains(&told)), "{refused:?}");
    }
}
