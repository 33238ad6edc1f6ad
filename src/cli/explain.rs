//! `egret explain`: what would happen to a flow, rule by rule, from the configuration alone. Opens no socket and
//! resolves no name.
//!
//! Exit codes, stable: 0 the flow would be allowed, 1 it would be denied, 2 the question makes no sense.

use crate::addr::{ClientAddr, DialAddr, OriginalDestination, SourceAddr};
use crate::egress::PoolSpec;
use crate::hostname::{AskedName, Hostname, NotAHostname};
use crate::outcome::Outcome;
use crate::policy::{self, Decision, Explanation, Finding, Policy, PrivateDestinations, TenantSpec};
use serde::Serialize;
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::str::FromStr;

/// The port of a target that states none.
const DEFAULT_PORT: u16 = 443;
/// Stands for whatever public address a name has: of a documentation range, so that it is nobody's.
const SOME_PUBLIC_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// What is asked.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The client's address
    #[arg(long, value_name = "ADDRESS")]
    pub from: IpAddr,
    /// What the client wants: a name or an address, with a port unless it is 443
    #[arg(long, value_name = "NAME[:PORT]|ADDRESS[:PORT]")]
    pub to: Target,
    /// The address that the client dials for the name
    #[arg(long, value_name = "ADDRESS")]
    pub address: Option<IpAddr>,
    /// The client offers an encrypted ClientHello, or GREASE that looks like one
    #[arg(long)]
    pub ech: bool,
    /// Print JSON for programs
    #[arg(long)]
    pub json: bool,
}

/// What a client wants: a name on a port, or an address without a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// It sends the name.
    Name(Hostname, u16),
    /// It sends none.
    Address(SocketAddr),
}

/// Why a string is no target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotATarget {
    /// It is not a name.
    #[error("neither NAME[:PORT] nor ADDRESS[:PORT]: {0}")]
    Name(#[from] NotAHostname),
    /// It has a colon, and no port behind it.
    #[error("the port is not a number from 1 to 65535")]
    Port,
}

impl FromStr for Target {
    type Err = NotATarget;
    fn from_str(s: &str) -> Result<Self, NotATarget> {
        let bare = s.strip_prefix('[').and_then(|s| s.strip_suffix(']')).unwrap_or(s);
        if let Ok(address) = bare.parse() {
            return Ok(Self::Address(SocketAddr::new(address, DEFAULT_PORT)));
        }
        if let Ok(socket) = s.parse::<SocketAddr>() {
            return if socket.port() == 0 { Err(NotATarget::Port) } else { Ok(Self::Address(socket)) };
        }
        let Some((name, port)) = s.rsplit_once(':') else {
            return Ok(Self::Name(s.parse()?, DEFAULT_PORT));
        };
        match port.parse() {
            Ok(port) if port != 0 => Ok(Self::Name(name.parse()?, port)),
            _ => Err(NotATarget::Port),
        }
    }
}

/// The source address that the gateway would choose first, if that can be told beforehand.
pub type ChooseSource<'a> = &'a dyn Fn(&PoolSpec, ClientAddr, DialAddr) -> Option<SourceAddr>;

/// Prints what would happen to the flow, and yields the exit code.
pub fn run(
    tenants: &[TenantSpec],
    private: PrivateDestinations,
    pools: &[PoolSpec],
    source: ChooseSource<'_>,
    options: &Options,
) -> ExitCode {
    let report = match Report::new(tenants, private, pools, source, options) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("egret explain: {error}");
            return ExitCode::from(2);
        }
    };
    let text = if options.json {
        serde_json::to_string_pretty(&report).unwrap_or_else(|error| error.to_string()) + "\n"
    } else {
        report.to_string()
    };
    // a reader that has seen enough (`| head`) is no error, and the exit code still answers
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::from(u8::from(!report.allowed))
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Unanswerable {
    #[error("--to is an address already; --address goes with a name")]
    TwoAddresses,
    #[error(transparent)]
    Policy(#[from] policy::CompileError),
}

/// The answer. Field names are the JSON's keys.
#[derive(Debug, Serialize)]
struct Report {
    from: IpAddr,
    tenant: Option<String>,
    hostname: Option<Hostname>,
    address: IpAddr,
    /// Nobody gave the address.
    address_assumed: bool,
    port: u16,
    /// Whether the client is listened to before the decision.
    inspected: bool,
    rules: Vec<RuleLine>,
    allowed: bool,
    /// The rule that decides.
    rule: Option<String>,
    outcome: Option<OutcomeLine>,
    pool: Option<PoolLine>,
    max_flows: Option<u32>,
}

#[derive(Debug, Serialize)]
struct RuleLine {
    rule: String,
    effect: &'static str,
    finding: Finding,
    text: &'static str,
}

#[derive(Debug, Serialize)]
struct OutcomeLine {
    name: Outcome,
    meaning: &'static str,
    remedy: &'static str,
}

#[derive(Debug, Serialize)]
struct PoolLine {
    name: String,
    /// What it may leave from: those of the address's family, if the address is known.
    addresses: Vec<String>,
    ports: String,
    /// The one that is tried first, where that can be told.
    source: Option<SourceAddr>,
    /// The public address that `source` is mapped to, as the pool notes it.
    public: Option<IpAddr>,
    /// Addresses that give out no new ports.
    drain: Vec<SourceAddr>,
    /// Ports towards each destination that the pool's other tenants leave to this one.
    ports_floor: Option<u32>,
    /// Ports towards each destination that the tenant has at most.
    ports_ceiling: Option<u32>,
}

impl Report {
    fn new(
        tenants: &[TenantSpec],
        private: PrivateDestinations,
        pools: &[PoolSpec],
        source: ChooseSource<'_>,
        options: &Options,
    ) -> Result<Self, Unanswerable> {
        let (asked, socket) = match (&options.to, options.address) {
            (Target::Address(_), Some(_)) => return Err(Unanswerable::TwoAddresses),
            (Target::Address(socket), None) => (AskedName::Absent, *socket),
            (Target::Name(name, port), address) => (
                AskedName::Valid(name.clone()),
                SocketAddr::new(address.unwrap_or(SOME_PUBLIC_ADDRESS), *port),
            ),
        };
        let client = ClientAddr::new(SocketAddr::new(options.from, 0));
        let to = OriginalDestination::new(socket);
        let mut report = Self {
            from: client.ip(),
            tenant: None,
            hostname: if let AskedName::Valid(name) = &asked { Some(name.clone()) } else { None },
            address: to.ip(),
            address_assumed: matches!(options.to, Target::Name(..)) && options.address.is_none(),
            port: to.port(),
            inspected: false,
            rules: Vec::new(),
            allowed: false,
            rule: None,
            outcome: Some(OutcomeLine::new(Outcome::UnknownTenant)),
            pool: None,
            max_flows: None,
        };
        let policy = Policy::compile(tenants, private)?;
        let Some(tenant) = policy.tenant_of(client) else { return Ok(report) };
        report.tenant = Some(tenant.name.to_string());
        report.max_flows = tenant.max_flows;
        let Explanation { inspected, rules, denied, rule } =
            policy::explain(&tenants[tenant.index], private, &asked, options.ech, to);
        report.inspected = inspected;
        report.rules = rules.into_iter().map(RuleLine::new).collect();
        // the verdict is the gateway's own, not the explanation's
        match tenant
            .decide_unseen(to)
            .map_or_else(|| tenant.decide(&asked, options.ech, to), Decision::Permit)
        {
            Decision::Permit(permit) => {
                debug_assert_eq!((None, permit.rule()), (denied, rule.as_ref()));
                report.rule = permit.rule().map(ToString::to_string);
                let spec = &tenants[tenant.index];
                report.leave(spec, pools.iter().find(|pool| pool.name == tenant.pool), |pool| {
                    source(pool, client, permit.dial())
                });
            }
            Decision::Denial(denial) => {
                debug_assert_eq!((Some(denial.outcome), &denial.rule), (denied, &rule));
                report.rule = denial.rule.map(|rule| rule.to_string());
                report.outcome = Some(OutcomeLine::new(denial.outcome));
            }
        }
        Ok(report)
    }

    /// Policy lets it out: is there an address that it can leave from?
    fn leave(
        &mut self,
        tenant: &TenantSpec,
        pool: Option<&PoolSpec>,
        source: impl Fn(&PoolSpec) -> Option<SourceAddr>,
    ) {
        let of_family = |address: IpAddr| self.address_assumed || address.is_ipv4() == self.address.is_ipv4();
        let fits = |network: &&ipnet::IpNet| of_family(network.addr());
        let tried_first = pool.filter(|_| !self.address_assumed).and_then(source);
        self.pool = pool.map(|pool| PoolLine {
            name: pool.name.to_string(),
            addresses: pool.addresses.iter().filter(fits).map(ToString::to_string).collect(),
            ports: pool.ports.to_string(),
            source: tried_first,
            public: tried_first.and_then(|source| pool.public.get(&source).copied()),
            drain: pool.drain.iter().copied().filter(|address| of_family(address.ip())).collect(),
            ports_floor: tenant.ports_floor,
            ports_ceiling: tenant.ports_ceiling,
        });
        self.allowed = pool
            .is_some_and(|pool| pool.addresses.iter().filter(fits).any(|network| pool.drain_leaves(network)));
        self.outcome = (!self.allowed).then(|| OutcomeLine::new(Outcome::NoSourceAddress));
    }
}

impl RuleLine {
    fn new(rule: policy::RuleFinding) -> Self {
        let policy::RuleFinding { rule, effect, finding } = rule;
        Self { rule: rule.to_string(), effect: effect.as_str(), finding, text: finding.text() }
    }
}

impl OutcomeLine {
    fn new(outcome: Outcome) -> Self {
        Self { name: outcome, meaning: outcome.meaning(), remedy: outcome.remedy() }
    }
}

/// For people: one thing a line, rules in a table.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "from     {}, tenant {}", self.from, self.tenant.as_deref().unwrap_or("unknown"))?;
        match &self.hostname {
            Some(name) => writeln!(f, "to       {name}, port {}", self.port)?,
            None => writeln!(f, "to       {}, without a name", SocketAddr::new(self.address, self.port))?,
        }
        if self.address_assumed {
            let address = self.address;
            writeln!(
                f,
                "address  assuming a public address ({address}); pass --address to judge a particular one"
            )?;
        } else if self.hostname.is_some() {
            writeln!(f, "address  {}", self.address)?;
        }
        let width = self.rules.iter().map(|rule| rule.rule.len()).max().unwrap_or(0);
        for (at, RuleLine { rule, effect, text, .. }) in self.rules.iter().enumerate() {
            let heading = if at == 0 { "rules" } else { "" };
            writeln!(f, "{heading:<8} {effect:<5}  {rule:<width$}  {text}")?;
        }
        if self.tenant.is_some() && self.rules.is_empty() {
            writeln!(f, "rules    none: the tenant may reach nothing")?;
        }
        f.write_str(if self.allowed { "verdict  allowed" } else { "verdict  denied" })?;
        if let Some(rule) = &self.rule {
            write!(f, " ({rule})")?;
        }
        if self.allowed && !self.inspected {
            f.write_str(", before the client says anything")?;
        }
        f.write_char('\n')?;
        if let Some(OutcomeLine { name, meaning, remedy }) = &self.outcome {
            writeln!(f, "outcome  {name}: {meaning}\n         {remedy}")?;
        }
        if let Some(pool @ PoolLine { name, addresses, ports, source, public, drain, .. }) = &self.pool {
            let addresses = if addresses.is_empty() { "nothing".into() } else { addresses.join(", ") };
            writeln!(f, "leaves   from {addresses}, ports {ports} (pool {name})")?;
            if let Some(source) = source {
                let public = public.map(|public| format!(", outside {public}")).unwrap_or_default();
                writeln!(f, "         {source} first{public}")?;
            }
            if !drain.is_empty() {
                let drain: Vec<_> = drain.iter().map(ToString::to_string).collect();
                writeln!(f, "         not from {}: draining", drain.join(", "))?;
            }
            if let Some(ceiling) = pool.ports_ceiling {
                writeln!(f, "limit    {ceiling} ports of the tenant towards a destination")?;
            }
            if let Some(floor) = pool.ports_floor {
                writeln!(f, "assured  {floor} ports of the tenant towards a destination")?;
            }
        }
        if let Some(flows) = self.max_flows {
            writeln!(f, "limit    {flows} flows of the tenant at once")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PortRange;
    use crate::egress::Select;
    use crate::policy::{Effect, RuleSpec};
    use std::collections::BTreeMap;

    fn rule(effect: Effect, label: &str, hosts: &[&str], cidrs: &[&str], ports: &[u16]) -> RuleSpec {
        RuleSpec {
            label: label.into(),
            effect,
            hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
            cidrs: cidrs.iter().map(|cidr| cidr.parse().unwrap()).collect(),
            ports: ports.iter().map(|&port| PortRange::new(port, port).unwrap()).collect(),
            uninspected: false,
        }
    }

    fn tenant() -> TenantSpec {
        TenantSpec {
            name: "acme".into(),
            sources: vec!["10.0.1.0/24".parse().unwrap()],
            pool: "edge".into(),
            mode: policy::Mode::Enforce,
            ech: policy::Ech::Outer,
            max_flows: Some(20_000),
            ports_floor: Some(2000),
            ports_ceiling: Some(9000),
            rules: vec![
                rule(Effect::Allow, "stripe", &["api.stripe.com"], &[], &[443]),
                rule(Effect::Deny, "acme.toml:9", &["*.evil.example"], &[], &[]),
                RuleSpec {
                    uninspected: true,
                    ..rule(Effect::Allow, "db", &[], &["10.9.0.0/16", "2001:db8:9::/48"], &[5432])
                },
            ],
        }
    }

    fn report(from: &str, to: &str, address: Option<&str>) -> Report {
        let pool = PoolSpec {
            name: "edge".into(),
            addresses: vec!["203.0.113.16/30".parse().unwrap()],
            ports: PortRange::new(1024, 65535).unwrap(),
            select: Select::Paired,
            drain: vec![SourceAddr::new("203.0.113.17".parse().unwrap())],
            public: BTreeMap::from([(
                SourceAddr::new("203.0.113.18".parse().unwrap()),
                "52.1.2.3".parse().unwrap(),
            )]),
            rest: std::time::Duration::ZERO,
            shares: Vec::new(),
        };
        let options = Options {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            address: address.map(|address| address.parse().unwrap()),
            ech: false,
            json: false,
        };
        let source: ChooseSource<'_> = &|_, _, _| Some(SourceAddr::new("203.0.113.18".parse().unwrap()));
        Report::new(&[tenant()], PrivateDestinations::ByCidr, &[pool], source, &options).unwrap()
    }

    #[test]
    fn a_target_is_a_name_or_an_address_with_a_port_or_without() {
        let name = |name: &str, port| Ok(Target::Name(name.parse().unwrap(), port));
        let address = |socket: &str| Ok(Target::Address(socket.parse().unwrap()));
        let cases = [
            ("api.stripe.com", name("api.stripe.com", 443)),
            ("API.stripe.com.:8443", name("api.stripe.com", 8443)),
            ("192.0.2.1", address("192.0.2.1:443")),
            ("192.0.2.1:80", address("192.0.2.1:80")),
            ("2001:db8::1", address("[2001:db8::1]:443")),
            ("[2001:db8::1]", address("[2001:db8::1]:443")),
            ("[2001:db8::1]:80", address("[2001:db8::1]:80")),
            ("192.0.2.1:0", Err(NotATarget::Port)),
            ("a.example:0", Err(NotATarget::Port)),
            ("a.example:https", Err(NotATarget::Port)),
            ("a.example:", Err(NotATarget::Port)),
            ("0x7f.1", Err(NotATarget::Name(NotAHostname::IpLiteral))),
            ("a..example:443", Err(NotATarget::Name(NotAHostname::EmptyLabel))),
            ("", Err(NotATarget::Name(NotAHostname::Empty))),
        ];
        for (text, target) in cases {
            assert_eq!(text.parse::<Target>(), target, "{text}");
        }
    }

    #[test]
    fn an_allowed_name_says_by_which_rule_and_from_where() {
        let told = report("10.0.1.5", "api.stripe.com", None);
        assert!(told.allowed);
        assert_eq!(
            told.to_string(),
            "from     10.0.1.5, tenant acme\n\
             to       api.stripe.com, port 443\n\
             address  assuming a public address (192.0.2.1); pass --address to judge a particular one\n\
             rules    allow  stripe       covers the flow and decides\n         \
                      deny   acme.toml:9  no: another hostname\n         \
                      allow  db           no: another address\n\
             verdict  allowed (stripe)\n\
             leaves   from 203.0.113.16/30, ports 1024-65535 (pool edge)\n         \
                      not from 203.0.113.17: draining\n\
             limit    9000 ports of the tenant towards a destination\n\
             assured  2000 ports of the tenant towards a destination\n\
             limit    20000 flows of the tenant at once\n"
        );
    }

    #[test]
    fn the_verdict_is_told_with_its_outcome() {
        let cases = [
            ("10.0.1.5", "api.stripe.com", Some("198.51.100.1"), None, Some("stripe")),
            ("10.0.1.5", "api.stripe.com", Some("10.0.0.1"), Some("destination_private"), Some("stripe")),
            ("10.0.1.5", "api.stripe.com", Some("2001:db8::1"), Some("no_source_address"), Some("stripe")),
            ("10.0.1.5", "api.stripe.com:80", None, Some("not_allowed"), None),
            ("10.0.1.5", "x.evil.example", None, Some("denied_by_rule"), Some("acme.toml:9")),
            ("10.0.1.5", "198.51.100.1", None, Some("no_hostname"), None),
            ("10.0.1.5", "10.9.0.1:5432", None, None, Some("db")),
            ("10.0.2.5", "api.stripe.com", None, Some("unknown_tenant"), None),
        ];
        for (from, to, address, outcome, rule) in cases {
            let told = report(from, to, address);
            assert_eq!(told.outcome.as_ref().map(|o| o.name.as_str()), outcome, "{from} {to} {address:?}");
            assert_eq!(told.rule.as_deref(), rule, "{from} {to} {address:?}");
            assert_eq!(told.allowed, outcome.is_none());
            let text = told.to_string();
            assert!(outcome.is_none_or(|outcome| text.contains(&format!("outcome  {outcome}: "))), "{text}");
        }
        let unseen = report("10.0.1.5", "10.9.0.1:5432", None);
        assert!(!unseen.inspected);
        let text = unseen.to_string();
        assert!(text.contains("to       10.9.0.1:5432, without a name\n"), "{text}");
        assert!(text.contains("allowed (db), before the client says anything\n"), "{text}");
        assert!(text.contains("203.0.113.18 first, outside 52.1.2.3\n"), "{text}");
    }

    #[test]
    fn a_pool_whose_addresses_all_drain_lets_nothing_out() {
        let pool = PoolSpec {
            name: "edge".into(),
            addresses: vec!["203.0.113.17/32".parse().unwrap()],
            ports: PortRange::new(1024, 65535).unwrap(),
            select: Select::Paired,
            drain: vec![SourceAddr::new("203.0.113.17".parse().unwrap())],
            public: BTreeMap::new(),
            rest: std::time::Duration::ZERO,
            shares: Vec::new(),
        };
        let options = Options {
            from: "10.0.1.5".parse().unwrap(),
            to: "api.stripe.com".parse().unwrap(),
            address: None,
            ech: false,
            json: false,
        };
        let none: ChooseSource<'_> = &|_, _, _| None;
        let told = Report::new(&[tenant()], PrivateDestinations::ByCidr, &[pool], none, &options).unwrap();
        assert!(!told.allowed);
        assert_eq!(told.outcome.map(|outcome| outcome.name), Some(Outcome::NoSourceAddress));
    }

    #[test]
    fn json_holds_the_same() {
        let json = serde_json::to_value(report("10.0.1.5", "a.example", Some("10.0.0.1"))).unwrap();
        assert_eq!(json["outcome"]["name"], "not_allowed");
        assert_eq!(json["rules"][0]["finding"], "other_hostname");
        assert_eq!(json["rules"][2]["effect"], "allow");
        assert_eq!((&json["allowed"], &json["address"]), (&false.into(), &"10.0.0.1".into()));
    }

    #[test]
    fn an_address_twice_is_refused() {
        let to = "192.0.2.1".parse().unwrap();
        let from = "10.0.1.5".parse().unwrap();
        let options = Options { from, to, address: Some(from), ech: false, json: false };
        let none: ChooseSource<'_> = &|_, _, _| None;
        assert!(Report::new(&[tenant()], PrivateDestinations::ByCidr, &[], none, &options).is_err());
    }
}
