//! What of the steering is in the kernel right now, asked without running a command: what the gateway watches.
//!
//! It looks for the tables, chains, hooks and rules of the plan by name and number. `egret steering status` compares
//! them word by word, which takes root and the tools of the packet filter.

use super::{PacketRules, Params, Routing};
use crate::sys::packet_rules::{self, Backend, TableFamily};
use crate::sys::routing::{self, IpFamily, Rule, Way};
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// How chains of ours begin in the tables of iptables, which others use too.
const PREFIX: &str = "EGRET_";
/// Where a rule that comes before ours could let a packet pass by. In the others it does no more than they were put in for.
const MUST_BE_FIRST: [&str; 2] = ["PREROUTING", "FORWARD"];
/// Our own table of nftables, of the family `inet`.
const NFT_TABLE: &str = "egret";
/// The kernel's `local` table.
const LOCAL_TABLE: u32 = 255;
/// The protocol number that Egret's own rules have (prelude.sh).
const PROTOCOL: u8 = 230;
/// Rules may change while they are listed; then they are listed again, this often.
const ATTEMPTS: usize = 3;

/// A part of the steering.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The rules that intercept and refuse.
    PacketRules,
    /// The rule that looks marked packets up in the steering table.
    MarkRule,
    /// The rules by which intercepted ports are not routed on.
    PortRules,
    /// The steering table's one route.
    SteeringTable,
    /// The routes that make the pools' addresses local.
    LocalRoutes,
    /// The interfaces of `[steering]`.
    Interfaces,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::PacketRules,
        Self::MarkRule,
        Self::PortRules,
        Self::SteeringTable,
        Self::LocalRoutes,
        Self::Interfaces,
    ];

    /// As the metric's label has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PacketRules => "packet_rules",
            Self::MarkRule => "mark_rule",
            Self::PortRules => "port_rules",
            Self::SteeringTable => "steering_table",
            Self::LocalRoutes => "local_routes",
            Self::Interfaces => "interfaces",
        }
    }

    /// Whether putting steering in place anew brings it back.
    pub fn can_be_repaired(self) -> bool {
        match self {
            Self::PacketRules
            | Self::MarkRule
            | Self::PortRules
            | Self::SteeringTable
            | Self::LocalRoutes => true,
            Self::Interfaces => false,
        }
    }
}

/// Something that is not in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// Of what.
    pub part: Part,
    /// What exactly.
    pub what: String,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// A table of the plan.
#[derive(Debug)]
struct Table {
    family: TableFamily,
    name: String,
    chains: Vec<OwnChain>,
    /// Built-in chains, and which of ours they jump to before anything else.
    hooks: Vec<(String, String)>,
}

/// A chain of the plan.
#[derive(Debug)]
struct OwnChain {
    name: String,
    /// Packets enter it, not only by jumps.
    hooked: bool,
    /// There are more where somebody has added exemptions.
    rules: usize,
}

/// What there should be, and which rules were there at the last look.
#[derive(Debug)]
pub struct Watched {
    iptables: Vec<Table>,
    nftables: Vec<Table>,
    routing: [Routing; 2],
    interfaces: Vec<String>,
    seen: BTreeMap<Key, BTreeSet<u64>>,
}

/// What one look found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// What is not in place; nothing if steering is intact.
    pub lost: Vec<Lost>,
    /// A digest of what Egret's rules are: it changes whenever they are put in place anew.
    pub rules: BTreeSet<u64>,
}

impl Watched {
    /// Watches for what these parameters ask for.
    pub fn new(params: &Params) -> Self {
        let plan = super::iptables(params);
        let tables_of = |rules: &PacketRules| match rules {
            PacketRules::Iptables { v4, v6 } => {
                let mut tables = tables_of_iptables(TableFamily::Ip, v4);
                tables.extend(tables_of_iptables(TableFamily::Ip6, v6));
                tables
            }
            PacketRules::Nftables(text) => vec![table_of_nftables(text)],
        };
        Self {
            iptables: tables_of(&plan.packet_rules),
            nftables: tables_of(&super::nftables(params).packet_rules),
            interfaces: params.interfaces.iter().map(ToString::to_string).collect(),
            routing: plan.routing,
            seen: BTreeMap::new(),
        }
    }

    /// Watches for what other parameters ask for. What was seen is remembered.
    pub fn expect(&mut self, params: &Params) {
        let seen = std::mem::take(&mut self.seen);
        *self = Self { seen, ..Self::new(params) };
    }

    /// Looks at the kernel. An error if it does not answer, or the capability is missing: then nothing is known.
    pub fn look(&mut self) -> io::Result<Look> {
        let mut look = self.packet_rules()?;
        let present = routing::interfaces()?;
        for (index, family) in IpFamily::ALL.into_iter().enumerate() {
            if routes_can_be(family) {
                self.routing(index, family, &present, &mut look.lost)?;
            }
        }
        for name in self.interfaces.iter().filter(|name| !is_present(name, &present)) {
            let what = format!("there is no interface {name}, so nothing comes in there");
            look.lost.push(Lost { part: Part::Interfaces, what });
        }
        Ok(look)
    }

    fn routing(
        &self,
        index: usize,
        family: IpFamily,
        present: &[String],
        lost: &mut Vec<Lost>,
    ) -> io::Result<()> {
        let routing = &self.routing[index];
        let (mark, table, called) = (routing.mark, routing.table, family.as_str());
        let mut tell = |part, what| lost.push(Lost { part, what });
        let delivers = routing::local_routes(family, table)?.iter().any(|route| route.prefix_len() == 0);
        if !delivers {
            let what = format!("{called}: routing table {table} does not deliver packets locally");
            tell(Part::SteeringTable, what);
        }
        let rules = routing::rules(family)?;
        if !rules.iter().any(|rule| rule.mark == Some((mark, mark)) && rule.table == table) {
            tell(
                Part::MarkRule,
                format!("{called}: there is no rule `fwmark {mark:#x}/{mark:#x} lookup {table}`"),
            );
        } else if delivers && routing::way(elsewhere(family), None, Some(mark))? != Way::Local {
            let what = format!("{called}: another rule comes before the one for mark {mark:#x} (`ip rule`)");
            tell(Part::MarkRule, what);
        }
        for (interface, wanted) in refused_by_interface(routing) {
            for name in present.iter().filter(|name| covers(interface, name)) {
                let ours = |rule: &&Rule| rule.protocol == PROTOCOL && rule.interface.as_ref() == Some(name);
                let there = rules.iter().filter(ours).count();
                if there < wanted {
                    let what = format!(
                        "{called}: {there} of {wanted} rules keep intercepted ports of {name} from being routed on"
                    );
                    tell(Part::PortRules, what);
                }
            }
        }
        let local: BTreeSet<IpNet> = routing::local_routes(family, LOCAL_TABLE)?.into_iter().collect();
        let mut missing = routing.pools.iter().filter(|pool| !local.contains(pool));
        if let Some(first) = missing.next() {
            let more = match missing.count() {
                0 => String::new(),
                more => format!(" (and {more} more)"),
            };
            let what = format!("{first}{more} of the pools has no local route, so answers to it are lost");
            tell(Part::LocalRoutes, what);
        }
        Ok(())
    }

    fn packet_rules(&mut self) -> io::Result<Look> {
        let mut found = Vec::new();
        for _ in 0..ATTEMPTS {
            let before = packet_rules::generation().ok();
            found = self.tables(before.is_some())?;
            if packet_rules::generation().ok() == before {
                break;
            }
        }
        let mut look = Look::default();
        for Found { key, wrong, rules, replaced_whole } in found {
            // Whoever puts steering in place replaces all rules of a table at once. Where some of them stayed and others
            // are gone, somebody else had a hand in it.
            let seen = self.seen.entry(key.clone()).or_default();
            let fell_apart = replaced_whole && !seen.is_disjoint(&rules) && !seen.is_subset(&rules);
            look.rules.extend(&rules);
            if let Some(wrong) = wrong {
                look.lost.push(Lost { part: Part::PacketRules, what: wrong });
            } else if fell_apart {
                let what = format!("{}: some of Egret's rules were removed or replaced", key.called());
                look.lost.push(Lost { part: Part::PacketRules, what });
            }
            if !fell_apart {
                *seen = rules;
            }
        }
        Ok(look)
    }

    /// The tables of the format in use.
    fn tables(&self, has_nf_tables: bool) -> io::Result<Vec<Found>> {
        if has_nf_tables && packet_rules::has_table(TableFamily::Inet, NFT_TABLE)? {
            return self.nftables.iter().map(|table| Ok(table.look(Backend::NfTables)?.0)).collect();
        }
        let mut all = Vec::new();
        for family in [TableFamily::Ip, TableFamily::Ip6] {
            if family == TableFamily::Ip6 && !has_ipv6() {
                continue;
            }
            let backends = [
                (Backend::NfTables, has_nf_tables),
                (Backend::Legacy, packet_rules::legacy_is_loaded(family)),
            ];
            let mut present = false;
            for (backend, _) in backends.into_iter().filter(|(_, is_there)| *is_there) {
                let tables = self.iptables.iter().filter(|table| table.family == family);
                let found: Vec<_> = tables.map(|table| table.look(backend)).collect::<io::Result<_>>()?;
                if found.iter().any(|(_, present)| *present) {
                    present = true;
                    all.extend(found.into_iter().map(|(found, _)| found));
                    break;
                }
            }
            if !present {
                let key = Key { family, table: String::new() };
                let wrong = Some(format!("{}: none of Egret's packet rules is in place", key.called()));
                all.push(Found { key, wrong, rules: BTreeSet::new(), replaced_whole: false });
            }
        }
        Ok(all)
    }
}

/// A table of the kernel's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    family: TableFamily,
    table: String,
}

impl Key {
    fn called(&self) -> String {
        let family = match self.family {
            TableFamily::Inet => "",
            TableFamily::Ip => "IPv4",
            TableFamily::Ip6 => "IPv6",
        };
        match (family, &*self.table) {
            ("", table) => format!("table inet {table}"),
            (family, "") => family.to_owned(),
            (family, table) => format!("{family} table {table}"),
        }
    }
}

/// What is in the kernel of one table.
struct Found {
    key: Key,
    /// The first thing that is not as it should be.
    wrong: Option<String>,
    /// Those of Egret's rules that are there.
    rules: BTreeSet<u64>,
    /// Rules have numbers of their own, so that one that was replaced can be told.
    replaced_whole: bool,
}

impl Table {
    /// And whether any chain of ours is there.
    fn look(&self, backend: Backend) -> io::Result<(Found, bool)> {
        let key = Key { family: self.family, table: self.name.clone() };
        let read = |chain: &str| packet_rules::chain(backend, self.family, &self.name, chain);
        let (mut wrong, mut rules, mut present) = (None, BTreeSet::new(), false);
        for OwnChain { name, hooked, rules: wanted } in &self.chains {
            let Some(chain) = read(name)? else {
                wrong.get_or_insert_with(|| format!("chain {name} is gone"));
                continue;
            };
            present = true;
            rules.extend(chain.rules.iter().map(|rule| rule.id));
            if chain.rules.len() < *wanted {
                wrong.get_or_insert_with(|| {
                    format!("chain {name} has {} rules instead of {wanted}", chain.rules.len())
                });
            }
            if *hooked && chain.hook.is_none() {
                wrong.get_or_insert_with(|| format!("no packet enters chain {name}"));
            }
        }
        for (builtin, ours) in &self.hooks {
            let chain = read(builtin)?.unwrap_or_default();
            let is_ours = |rule: &packet_rules::Rule| {
                rule.target.as_ref().is_some_and(|target| target.starts_with(PREFIX))
            };
            let hook = chain.rules.iter().position(|rule| rule.target.as_ref() == Some(ours));
            let overtaken =
                |at| MUST_BE_FIRST.contains(&&**builtin) && !chain.rules.iter().take(at).all(is_ours);
            match hook {
                Some(at) if !overtaken(at) => _ = rules.insert(chain.rules[at].id),
                Some(_) | None => {
                    wrong.get_or_insert_with(|| format!("{builtin} does not begin with a jump to {ours}"));
                }
            }
        }
        let wrong = wrong.map(|wrong| format!("{}: {wrong}", key.called()));
        Ok((Found { key, wrong, rules, replaced_whole: backend == Backend::NfTables }, present))
    }
}

/// From what `iptables-restore` takes.
fn tables_of_iptables(family: TableFamily, text: &str) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            let (chains, hooks) = (Vec::new(), Vec::new());
            tables.push(Table { family, name: name.to_owned(), chains, hooks });
        }
        let Some(table) = tables.last_mut() else { continue };
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["-A", chain, ..] => {
                table.chains.iter_mut().filter(|own| own.name == chain).for_each(|own| own.rules += 1);
            }
            ["-I", builtin, .., ours] => table.hooks.push((builtin.to_owned(), ours.to_owned())),
            [declared, ..] => {
                if let Some(name) = declared.strip_prefix(':') {
                    table.chains.push(OwnChain { name: name.to_owned(), hooked: false, rules: 0 });
                }
            }
            [] => {}
        }
    }
    tables
}

/// From what `nft -f` takes.
fn table_of_nftables(text: &str) -> Table {
    let (chains, hooks) = (Vec::new(), Vec::new());
    let mut table = Table { family: TableFamily::Inet, name: NFT_TABLE.to_owned(), chains, hooks };
    let mut in_chain = false;
    for line in text.lines().map(str::trim) {
        if let Some(opened) = line.strip_suffix(" {") {
            in_chain = opened.starts_with("chain ");
            if let Some(name) = opened.strip_prefix("chain ") {
                table.chains.push(OwnChain { name: name.to_owned(), hooked: false, rules: 0 });
            }
        } else if line == "}" {
            in_chain = false;
        } else if let Some(chain) = table.chains.last_mut().filter(|_| in_chain && !line.is_empty()) {
            if line.starts_with("type ") {
                chain.hooked = true;
            } else {
                chain.rules += 1;
            }
        }
    }
    table
}

/// A documentation address, which is nobody's own.
fn elsewhere(family: IpFamily) -> IpAddr {
    match family {
        IpFamily::V4 => Ipv4Addr::new(192, 0, 2, 1).into(),
        IpFamily::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1).into(),
    }
}

/// How many rules refuse to route what comes in by each interface, or pattern of them.
fn refused_by_interface(routing: &Routing) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for rule in &routing.refused {
        if let Some(interface) = rule.strip_prefix("iif ").and_then(|rest| rest.split(' ').next()) {
            *counts.entry(interface).or_default() += 1;
        }
    }
    counts
}

fn covers(interface: &str, name: &str) -> bool {
    match interface.strip_suffix(['*', '+']) {
        Some(stem) => name.starts_with(stem),
        None => name == interface,
    }
}

/// A pattern is for interfaces that may come later.
fn is_present(name: &str, present: &[String]) -> bool {
    name.ends_with(['+', '*']) || present.iter().any(|other| other == name)
}

/// Whether the kernel has IPv6: as the script asks it.
pub fn has_ipv6() -> bool {
    Path::new("/proc/net/if_inet6").exists()
}

/// As the script decides: an interface that is closed to IPv6 takes no routes.
fn routes_can_be(family: IpFamily) -> bool {
    let closed = || std::fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6");
    family == IpFamily::V4 || has_ipv6() && closed().is_ok_and(|value| value.trim() == "0")
}

#[cfg(test)]
mod tests {
    use super::super::tests::params;
    use super::*;

    #[test]
    fn the_plan_is_read_chain_by_chain() {
        let watched = Watched::new(&params());
        let names = |tables: &[Table]| tables.iter().map(|table| table.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&watched.iptables), ["filter", "raw", "mangle", "filter", "raw", "mangle"]);
        assert_eq!(format!("inet {NFT_TABLE}"), super::super::nftables::TABLE);
        assert_eq!(names(&watched.nftables), [NFT_TABLE]);
        let [v4, .., v6] = &watched.iptables[..] else { panic!("{watched:?}") };
        assert_eq!((v4.family, v6.family), (TableFamily::Ip, TableFamily::Ip6));
        for table in &watched.iptables {
            assert!(!table.hooks.is_empty(), "{table:?}");
            for chain in &table.chains {
                assert!(chain.name.starts_with(PREFIX) && chain.rules > 0, "{chain:?}");
            }
            for (_, ours) in &table.hooks {
                assert!(table.chains.iter().any(|chain| chain.name == *ours), "{table:?}");
            }
        }
        let steer = watched.nftables[0].chains.iter().find(|chain| chain.name == "steer").unwrap();
        assert!(steer.hooked && steer.rules > 5, "{steer:?}");
    }

    #[test]
    fn an_interface_is_there_by_its_whole_name() {
        let present = ["lo".to_owned(), "ens6".to_owned()];
        for (name, there) in [("ens6", true), ("ens", false), ("ens6@if2", false), ("br-+", true)] {
            assert_eq!(is_present(name, &present), there, "{name}");
        }
    }
}
