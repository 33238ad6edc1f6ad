//! The gateway's configuration in tests, with the parts that tests can change.

use std::path::Path;

/// Lines of TOML, by table.
#[derive(Clone)]
pub struct Config {
    /// `[gateway] workers`.
    pub workers: u8,
    /// `[gateway] drain`.
    pub drain: String,
    /// Additional keys of `[gateway]`.
    pub gateway: String,
    /// Keys of `[policy]`.
    pub policy: String,
    /// Additional keys of `[inspect]`.
    pub inspect: String,
    /// `[steering] interfaces`, a TOML array.
    pub interfaces: String,
    /// Additional keys of `[steering]`.
    pub steering: String,
    /// `[steering] ports`.
    pub steering_ports: String,
    /// `ports` and `select` of alpha's pool.
    pub alpha_pool: String,
    /// Replaces the addresses of alpha's pool, a TOML array.
    pub alpha_addresses: String,
    /// Additional keys of alpha.
    pub alpha_tenant: String,
    /// Additional rules of alpha.
    pub alpha_rules: String,
    /// Additional text at the end.
    pub more: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            workers: 2,
            drain: "\"1s\"".into(),
            gateway: String::new(),
            policy: String::new(),
            // A minute for each wait that a test could mistake for an answer: no test waits that long.
            inspect: "deadline = \"60s\"".into(),
            interfaces: "[\"c0\"]".into(),
            steering: String::new(),
            steering_ports: "\"all\"".into(),
            alpha_pool: "ports = \"1024-65535\"\nselect = \"paired\"".into(),
            alpha_addresses: "[\"203.0.113.16/30\", \"2001:db8:100::/120\"]".into(),
            alpha_tenant: String::new(),
            alpha_rules: String::new(),
            more: String::new(),
        }
    }
}

/// The `[gateway]` key for a gateway without a control socket. The default one cannot be opened here, which readiness notes.
pub const NO_SOCKET: &str = "admin = \"off\"";

/// Alpha may reach the names and hosts described in `lab::Host`; beta a name of its own and the raw hosts.
const BETA: &str = r#"
[[pool]]
name = "beta"
addresses = ["203.0.113.32/30", "2001:db8:200::/120"]
ports = "1024-65535"
select = "least-used"

[[tenant]]
name = "beta"
sources = ["10.0.2.0/24", "fd00:2::/64"]
pool = "beta"
  [[tenant.allow]]
  name = "beta-names"
  hosts = ["beta.example.org"]
  [[tenant.allow]]
  name = "beta-raw"
  cidrs = ["198.51.100.20/32", "198.51.100.40/31", "2001:db8:51::14/128", "2001:db8:51::28/127"]
  inspect = "none"

"#;

const ALPHA: &str = r#"
[[tenant]]
name = "alpha"
sources = ["10.0.1.0/24", "fd00:1::/64"]
pool = "alpha"
"#;

const ALPHA_RULES: &str = r#"
  [[tenant.deny]]
  name = "secrets"
  hosts = ["secret.wild.example.org"]
  [[tenant.allow]]
  name = "alpha-names"
  hosts = ["allowed.example.org", "*.wild.example.org"]
  ports = [80, 443]
  [[tenant.allow]]
  name = "alpha-raw"
  cidrs = ["198.51.100.20/32", "198.51.100.40/31", "2001:db8:51::14/128", "2001:db8:51::28/127"]
  inspect = "none"
  [[tenant.allow]]
  name = "alpha-inspected"
  cidrs = ["198.51.100.21/32", "2001:db8:51::15/128"]
"#;

impl Config {
    /// Returns the whole file; the flow log goes to `flow_log`, the audit log beside it.
    pub fn render(&self, flow_log: &Path) -> String {
        let Self {
            workers,
            drain,
            gateway,
            policy,
            inspect,
            interfaces,
            steering,
            steering_ports,
            alpha_pool,
            alpha_addresses,
            alpha_tenant,
            alpha_rules,
            more,
        } = self;
        let audit = flow_log.with_file_name("audit.jsonl");
        let (flow_log, audit) = (flow_log.display(), audit.display());
        format!(
            "[gateway]\nlisten = \"[::]:15001\"\nworkers = {workers}\nmetrics = \"127.0.0.1:9915\"\ndrain = {drain}\n{gateway}\n\
             [steering]\ninterfaces = {interfaces}\nports = {steering_ports}\n{steering}\n\
             [inspect]\n{inspect}\n\
             [policy]\n{policy}\n\
             [flow_log]\npath = \"{flow_log}\"\n\
             [audit]\npath = \"{audit}\"\n\
             [[pool]]\nname = \"alpha\"\naddresses = {alpha_addresses}\n{alpha_pool}\n\
             {BETA}{ALPHA}{alpha_tenant}\n{ALPHA_RULES}{alpha_rules}\n{more}\n"
        )
    }
}
