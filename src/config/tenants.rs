//! Reads `[[pool]]` and `[[tenant]]`, with the positions that later findings refer to.

use super::catalogue::{allow, deny, limits, pool, tenant};
use super::diagnostic::{Diagnostics, SourcePosition};
use super::host_type::HostType;
use super::hosts_file::HostsFiles;
use super::modes;
use super::network_types::{NameType, NetworkType, PortType};
use super::path_types::FileNameType;
use super::schema::ConfigKey;
use super::sections::values;
use super::settings::TenantLimits;
use super::table::TomlTable;
use super::value_types::ListType;
use super::value_types::Placed;
use crate::addr::SourceAddr;
use crate::clock;
use crate::egress::PoolSpec;
use crate::egress::is_derived;
use crate::policy::{
    CertificateRule, DestinationRule, EchPolicy, NetworkMap, RuleEffect, RuleSpec, TenantSpec, is_specific,
};
use ipnet::IpNet;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

/// A pool, and the positions of its keys.
pub(super) struct PoolDraft {
    pub(super) spec: PoolSpec,
    pub(super) name_at: SourcePosition,
    pub(super) ports_at: SourcePosition,
    /// One per entry of `spec.addresses`.
    pub(super) addresses_at: Vec<SourcePosition>,
    pub(super) drain_at: SourcePosition,
}

/// A tenant, and the positions of its keys.
pub(super) struct TenantDraft {
    pub(super) spec: TenantSpec,
    pub(super) limits: TenantLimits,
    /// `None`: the default of `[policy]`.
    pub(super) ech: Option<EchPolicy>,
    pub(super) name_at: SourcePosition,
    pub(super) pool_at: SourcePosition,
    pub(super) floor_at: SourcePosition,
    /// One per entry of `spec.sources`.
    pub(super) sources_at: Vec<SourcePosition>,
    /// One per entry of `spec.rules`.
    pub(super) rules_at: Vec<RulePlaces>,
}

/// Positions of a rule's keys.
#[derive(Clone, Copy)]
pub(super) struct RulePlaces {
    pub(super) rule: SourcePosition,
    pub(super) name: SourcePosition,
    pub(super) hosts: SourcePosition,
    pub(super) cidrs: SourcePosition,
    pub(super) ports: SourcePosition,
    /// True if it sets how other protocols are treated.
    pub(super) says_protocols: bool,
}

/// Addresses never used by packets between machines: RFC 6890, RFC 4291.
const NEVER_SOURCES: [&str; 9] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "255.255.255.255/32",
    "::/127", // unspecified and loopback
    "::ffff:0:0/96",
    "fe80::/10",
    "ff00::/8",
];

/// True if no address of the network is one of them.
fn may_be_sources(network: &IpNet) -> bool {
    let never = NEVER_SOURCES.iter().filter_map(|never| never.parse::<IpNet>().ok());
    never.filter(|never| never.contains(network) || network.contains(never)).count() == 0
}

impl PoolDraft {
    /// Reads a pool. Wrong values are reported and left empty in the draft. Both mandatory keys have defaults.
    pub(super) fn read(table: &TomlTable<'_>, out: &mut Diagnostics) -> Option<Self> {
        let addresses = table.read(&pool::ADDRESSES, out).unwrap_or_default();
        for network in &addresses {
            if !may_be_sources(&network.value) {
                let message =
                    format!("`addresses`: {} holds addresses that cannot be a source", network.value);
                out.error(network.at, message, "write addresses that are routed to this host");
            }
        }
        let networks: Vec<_> = addresses.iter().map(|network| network.value).collect();
        let mut own = NetworkMap::default();
        for network in &networks {
            own.insert(*network, *network);
        }
        let spec = PoolSpec {
            name: table.read(&pool::NAME, out).unwrap_or_default(),
            ports: table.read(&pool::PORTS, out)?,
            select: table.read(&pool::SELECT, out)?,
            rest: table.read(&pool::REST, out)?,
            drain: read_drain(table, &own, out),
            public: read_public(table, &own, out),
            // filled in once all tenants are known
            shares: Vec::new(),
            addresses: networks,
        };
        if !spec.drain.is_empty() && !spec.addresses.iter().any(|network| spec.drain_leaves(network)) {
            let help = "flows of its tenants end as `no_source_address`";
            out.warning(table.place_of(&pool::DRAIN), "`drain`: no address of the pool is left", help);
        }
        Some(Self {
            spec,
            name_at: table.place_of(&pool::NAME),
            ports_at: table.place_of(&pool::PORTS),
            addresses_at: addresses.iter().map(|network| network.at).collect(),
            drain_at: table.place_of(&pool::DRAIN),
        })
    }
}

/// Reads the addresses that take no new flows.
fn read_drain(table: &TomlTable<'_>, networks: &NetworkMap<IpNet>, out: &mut Diagnostics) -> Vec<SourceAddr> {
    let drain = table.read(&pool::DRAIN, out).unwrap_or_default();
    for Placed { value: address, at } in &drain {
        match networks.longest(address.ip()) {
            None => not_of_the_pool(pool::DRAIN.name, address.ip(), *at, out),
            Some(network) if is_derived(network) => {
                let message =
                    format!("`drain`: {address} cannot be drained alone, for {network} is too wide");
                let help = "addresses of wide networks are chosen per client; list those in use, or take out the network";
                out.error(*at, message, help);
            }
            Some(_) => {}
        }
    }
    let mut drain = values(drain);
    drain.sort_unstable();
    drain.dedup();
    drain
}

/// Reads the source addresses with the public ones that they are mapped to.
fn read_public(
    table: &TomlTable<'_>,
    networks: &NetworkMap<IpNet>,
    out: &mut Diagnostics,
) -> BTreeMap<SourceAddr, IpAddr> {
    let mut sources = HashMap::new();
    let mut read = BTreeMap::new();
    for Placed { value: (source, public), at } in table.read(&pool::PUBLIC, out).unwrap_or_default() {
        if networks.longest(source.ip()).is_none() {
            not_of_the_pool(pool::PUBLIC.name, source.ip(), at, out);
        }
        if source.ip().is_ipv4() != public.is_ipv4() {
            let message = format!("`public`: {source} and {public} are of two families");
            out.error(at, message, "a mapping keeps the family");
        }
        if public.is_unspecified() || public.is_multicast() || public.is_loopback() {
            out.error(at, format!("`public`: {public} is nobody's public address"), "");
        }
        if read.contains_key(&source) {
            let message = format!("`public`: {source} is listed twice");
            out.error(at, message, "write each source address once");
            continue;
        }
        if let Some(other) = sources.insert(public, source) {
            let message = format!("`public`: {public} stands for {other} and for {source}");
            out.error(at, message, "the mapping is one to one");
        }
        read.insert(source, public);
    }
    read
}

fn not_of_the_pool(key: &str, address: IpAddr, at: SourcePosition, out: &mut Diagnostics) {
    let message = format!("`{key}`: {address} is no address of the pool");
    out.error(at, message, "write one that lies in its `addresses`");
}

impl TenantDraft {
    /// Reads a tenant. Wrong values are reported and left empty in the draft.
    pub(super) fn read(table: &TomlTable<'_>, files: &mut HostsFiles, out: &mut Diagnostics) -> Self {
        let sources = table.read(&tenant::SOURCES, out).unwrap_or_default();
        let mode = modes::read(table, clock::timestamp(), out);
        let limits = table.section(&tenant::LIMITS, out);
        let (rules, rules_at) = read_rules(table, files, out);
        let spec = TenantSpec {
            name: table.read(&tenant::NAME, out).unwrap_or_default(),
            pool: table.read(&tenant::POOL, out).unwrap_or_default(),
            mode,
            // filled in once [policy] is known
            ech: EchPolicy::default(),
            sources: sources.iter().map(|network| network.value).collect(),
            rules,
        };
        Self {
            spec,
            limits: TenantLimits {
                flows: limits.read(&limits::FLOWS, out),
                ports_floor: table.read(&tenant::PORTS_FLOOR, out),
                ports_ceiling: table.read(&tenant::PORTS_CEILING, out),
            },
            ech: table.read(&tenant::ECH, out),
            name_at: table.place_of(&tenant::NAME),
            pool_at: table.place_of(&tenant::POOL),
            floor_at: table.place_of(&tenant::PORTS_FLOOR),
            sources_at: sources.iter().map(|network| network.at).collect(),
            rules_at,
        }
    }
}

/// Reads the allow and deny rules of one tenant, in the order of the file.
fn read_rules(
    table: &TomlTable<'_>,
    files: &mut HostsFiles,
    out: &mut Diagnostics,
) -> (Vec<RuleSpec>, Vec<RulePlaces>) {
    let allows = table.sections(&tenant::ALLOW, out).into_iter().map(|rule| (RuleEffect::Allow, rule));
    let denies = table.sections(&tenant::DENY, out).into_iter().map(|rule| (RuleEffect::Deny, rule));
    let mut tables: Vec<_> = allows.chain(denies).collect();
    tables.sort_by_key(|(_, rule)| rule.offset());
    let read = |(effect, rule): (RuleEffect, TomlTable<'_>)| match effect {
        RuleEffect::Allow => read_allow(&rule, files, out),
        RuleEffect::Deny => read_deny(&rule, files, out),
    };
    tables.into_iter().map(read).unzip()
}

fn read_allow(
    table: &TomlTable<'_>,
    files: &mut HostsFiles,
    out: &mut Diagnostics,
) -> (RuleSpec, RulePlaces) {
    let (mut rule, mut places) = read_rule(RuleEffect::Allow, &ALLOW, table, files, out);
    let inspected = table.read(&allow::INSPECT, out).unwrap_or(true);
    rule.destination = table.read(&allow::DESTINATION, out).unwrap_or_default();
    let by_name = ALLOW.names_hosts(table);
    if !by_name && !table.has(ALLOW.cidrs) && !ALLOW.mistyped(table) {
        let help = "add `hosts`, `hosts_file` or `cidrs`; `cidrs = [\"0.0.0.0/0\", \"::/0\"]` is everywhere";
        out.error(table.place(), "the rule does not say what it allows", help);
    }
    if !inspected && by_name {
        let help = "remove the names and go by `cidrs` and `ports`, or remove `inspect`";
        let message = "`inspect = \"none\"` cannot go with names: flows are let through before one is known";
        out.error(table.place_of(&allow::INSPECT), message, help);
    }
    rule.certificate = table.read(&allow::CERTIFICATE, out).unwrap_or_default();
    if rule.certificate != CertificateRule::Unasked && !by_name {
        let message = "`certificate` goes with names: without one there is nothing to prove";
        out.error(table.place_of(&allow::CERTIFICATE), message, "add `hosts` or `hosts_file`, or remove it");
    }
    let asks_dns = matches!(rule.destination, DestinationRule::Verify | DestinationRule::Resolve);
    let leads_anywhere = !table.has(ALLOW.cidrs) || !rule.cidrs.iter().all(is_specific);
    if rule.certificate == CertificateRule::Require && by_name && !asks_dns && leads_anywhere {
        let message = "`certificate = \"require\"` by itself does not tell a name's server from one that relays Egret's \
                       probe to it";
        let help = "add `destination = \"verify\"` or \"resolve\", or `cidrs` of the servers' networks, so that clients cannot choose the address";
        out.warning(table.place_of(&allow::CERTIFICATE), message, help);
    }
    if rule.destination != DestinationRule::Original && !by_name {
        let message =
            "`destination` goes with names: without one there is nothing to compare an address with";
        out.error(table.place_of(&allow::DESTINATION), message, "add `hosts` or `hosts_file`, or remove it");
    }
    if !inspected && table.has(&allow::HTTP) {
        let message = "`http` cannot go with `inspect = \"none\"`: no request is read";
        out.error(table.place_of(&allow::HTTP), message, "remove one of the two");
    }
    places.says_protocols = table.has(&allow::OTHER_PROTOCOLS);
    if places.says_protocols && (by_name || !inspected) {
        let (message, help) = if by_name {
            ("`other_protocols` cannot go with names: other protocols have none", "remove one of the two")
        } else {
            (
                "`other_protocols` cannot go with `inspect = \"none\"`: every protocol passes",
                "remove one of the two",
            )
        };
        out.error(table.place_of(&allow::OTHER_PROTOCOLS), message, help);
    }
    rule.uninspected = !inspected;
    rule.other_protocols = table.read(&allow::OTHER_PROTOCOLS, out).unwrap_or_default();
    rule.first_request_only = table.read(&allow::HTTP, out).unwrap_or_default();
    (rule, places)
}

fn read_deny(table: &TomlTable<'_>, files: &mut HostsFiles, out: &mut Diagnostics) -> (RuleSpec, RulePlaces) {
    let says = DENY.names_hosts(table) || table.has(DENY.cidrs) || table.has(DENY.ports);
    if !says && !DENY.mistyped(table) {
        let help = "add `hosts`, `hosts_file`, `cidrs` or `ports`; what no rule allows is denied anyhow";
        out.error(table.place(), "the rule does not say what it denies", help);
    }
    read_rule(RuleEffect::Deny, &DENY, table, files, out)
}

/// Keys common to allow and deny rules.
struct RuleKeys {
    name: &'static ConfigKey<NameType>,
    hosts: &'static ConfigKey<ListType<HostType>>,
    hosts_file: &'static ConfigKey<FileNameType>,
    cidrs: &'static ConfigKey<ListType<NetworkType>>,
    ports: &'static ConfigKey<ListType<PortType>>,
}

static ALLOW: RuleKeys = RuleKeys {
    name: &allow::NAME,
    hosts: &allow::HOSTS,
    hosts_file: &allow::HOSTS_FILE,
    cidrs: &allow::CIDRS,
    ports: &allow::PORTS,
};

static DENY: RuleKeys = RuleKeys {
    name: &deny::NAME,
    hosts: &deny::HOSTS,
    hosts_file: &deny::HOSTS_FILE,
    cidrs: &deny::CIDRS,
    ports: &deny::PORTS,
};

impl RuleKeys {
    fn names_hosts(&self, table: &TomlTable<'_>) -> bool {
        table.has(self.hosts) || table.has(self.hosts_file)
    }

    /// True if the rule has an unknown key that was probably meant to say what it covers.
    fn mistyped(&self, table: &TomlTable<'_>) -> bool {
        table.mistypes(self.hosts)
            || table.mistypes(self.hosts_file)
            || table.mistypes(self.cidrs)
            || table.mistypes(self.ports)
    }
}

fn read_rule(
    effect: RuleEffect,
    keys: &RuleKeys,
    table: &TomlTable<'_>,
    files: &mut HostsFiles,
    out: &mut Diagnostics,
) -> (RuleSpec, RulePlaces) {
    let mut hosts = values(table.read(keys.hosts, out).unwrap_or_default());
    if let Some(path) = table.read(keys.hosts_file, out) {
        hosts.extend(files.names(&path, table.place_of(keys.hosts_file), out));
    }
    let label = table.read(keys.name, out).unwrap_or_else(|| table.label().into());
    let rule = RuleSpec {
        hosts,
        cidrs: values(table.read(keys.cidrs, out).unwrap_or_default()),
        ports: values(table.read(keys.ports, out).unwrap_or_default()),
        ..RuleSpec::new(label, effect)
    };
    let names_at =
        if table.has(keys.hosts) { table.place_of(keys.hosts) } else { table.place_of(keys.hosts_file) };
    let places = RulePlaces {
        rule: table.place(),
        name: table.place_of(keys.name),
        hosts: names_at,
        cidrs: table.place_of(keys.cidrs),
        ports: table.place_of(keys.ports),
        says_protocols: false,
    };
    (rule, places)
}
