//! The tables of packet rules: as the plan has them, and as they are in the kernel.

use super::Remedy;
use super::fault::remedy_of_others;
use crate::addr::PortRange;
use crate::interface::Interface;
use crate::steering::ahead::{self, RulePosition};
use crate::steering::own_rules::{CHAIN_PREFIX, NFT_TABLE};
use crate::sys::packet_rules::{
    self, Ahead, Backend, ListedChain, PacketChain, PacketEffect, PacketRule, TableFamily,
};
use std::collections::BTreeSet;
use std::io;

/// A table of the plan.
#[derive(Debug)]
pub(super) struct PlannedTable {
    pub(super) family: TableFamily,
    pub(super) name: String,
    pub(super) chains: Vec<OwnChain>,
    /// Built-in chains, and which of ours they jump to before anything else.
    pub(super) hooks: Vec<(String, String)>,
}

/// Facts that tables are compared with besides the plan.
#[derive(Debug, Clone, Copy)]
pub(super) struct TableFacts<'a> {
    pub(super) steered: &'a [Interface],
    /// The intercepted ports; `None` for every port.
    pub(super) ports: Option<&'a [PortRange]>,
    /// The port that the gateway listens on.
    pub(super) listen_port: u16,
    /// Interfaces that older rules are for.
    pub(super) former: &'a BTreeSet<String>,
    /// The names of the machine's interfaces.
    pub(super) names: &'a [String],
}

/// A chain of the plan.
#[derive(Debug)]
pub(super) struct OwnChain {
    pub(super) name: String,
    /// Packets enter it, not only by jumps.
    pub(super) hooked: bool,
    /// Without exemptions.
    pub(super) rules: usize,
    /// The interfaces that packets come in by for which it has rules, as far as each rule names one.
    pub(super) interfaces: BTreeSet<String>,
}

impl OwnChain {
    fn named(name: &str) -> Self {
        Self { name: name.to_owned(), hooked: false, rules: 0, interfaces: BTreeSet::new() }
    }
}

/// A table of the kernel's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TableKey {
    pub(super) family: TableFamily,
    pub(super) table: String,
}

impl TableKey {
    pub(super) fn called(&self) -> String {
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

/// State of one table in the kernel.
pub(super) struct TableState {
    pub(super) key: TableKey,
    /// The first thing that is not as it should be, and its remedy.
    pub(super) wrong: Option<(String, Remedy)>,
    /// Those of Egret's rules that are there, and what others have added to them but exemptions.
    pub(super) rules: BTreeSet<u64>,
    /// Description of a chain with more rules than the plan's.
    pub(super) surplus: Option<String>,
    /// Rules have numbers of their own, so that one that was replaced can be told.
    pub(super) replaced_whole: bool,
}

impl PlannedTable {
    pub(super) fn key(&self) -> TableKey {
        TableKey { family: self.family, table: self.name.clone() }
    }

    /// Describes that the table is switched off in nf_tables, if it is.
    pub(super) fn dormancy(&self) -> io::Result<Option<&'static str>> {
        let is_dormant = packet_rules::is_dormant(self.family, &self.name)?;
        Ok(is_dormant.then_some("it is dormant, so that no packet meets its rules"))
    }

    /// Reads its state, and whether any chain of Egret's is there.
    pub(super) fn look(&self, backend: Backend, facts: TableFacts<'_>) -> io::Result<(TableState, bool)> {
        let TableFacts { steered, ports, listen_port, .. } = facts;
        let key = self.key();
        let read = |chain: &str| packet_rules::chain(backend, self.family, &self.name, chain);
        let (mut wrong, mut rules, mut surplus, mut present) = (None, BTreeSet::new(), None, false);
        let mut tell = |what: String, remedy| {
            wrong.get_or_insert_with(|| (format!("{}: {what}", key.called()), remedy));
        };
        if backend == Backend::NfTables
            && let Some(dormancy) = self.dormancy()?
        {
            tell(dormancy.to_owned(), Remedy::Renew);
        }
        for OwnChain { name, hooked, rules: wanted, interfaces } in &self.chains {
            let Some(chain) = read(name)? else {
                tell(format!("chain {name} is gone"), Remedy::Renew);
                continue;
            };
            present = true;
            let own = without_exemptions(&chain.rules);
            rules.extend(own.iter().map(|rule| rule.id));
            if let Some(what) = wrong_listener(name, &chain, listen_port) {
                tell(what, Remedy::RestartBoth);
            }
            if let Some((what, remedy)) = wrong_interfaces(name, &chain, interfaces, facts) {
                tell(what, remedy);
            }
            if own.len() < *wanted {
                tell(format!("chain {name} has {} rules instead of {wanted}", own.len()), Remedy::Renew);
            }
            if own.len() > *wanted {
                let called = key.called();
                surplus.get_or_insert_with(|| {
                    format!("{called}: chain {name} has {} rules instead of {wanted}", own.len())
                });
            }
            if *hooked && chain.hook.is_none() {
                tell(format!("no packet enters chain {name}"), Remedy::Renew);
            }
        }
        for (builtin, ours) in &self.hooks {
            let chain = read(builtin)?.unwrap_or_default();
            let Some(at) = chain.rules.iter().position(|rule| rule.target.as_ref() == Some(ours)) else {
                tell(format!("{builtin} does not begin with a jump to {ours}"), Remedy::Renew);
                continue;
            };
            rules.insert(chain.rules[at].id);
            if let Some(number) = overtaker(
                RulePosition { table: &self.name, builtin, steered, ports },
                &chain.rules[..at],
                read,
            )? {
                let what = format!(
                    "{builtin} does not begin with a jump to {ours}: rule {number} there takes packets first"
                );
                tell(what, Remedy::Renew);
            }
        }
        if self.family == TableFamily::Inet {
            let all = packet_rules::chains(self.family, &self.name)?;
            if let Some(what) = self.wrong_chain(&all) {
                tell(what, Remedy::Renew);
            }
        }
        let replaced_whole = backend == Backend::NfTables;
        Ok((TableState { key, wrong, rules, surplus, replaced_whole }, present))
    }
}

impl PlannedTable {
    /// Describes a chain of others in a table that is Egret's alone, or one of Egret's with another policy: all of these accept.
    fn wrong_chain(&self, all: &[ListedChain]) -> Option<String> {
        let foreign = |chain: &&ListedChain| self.chains.iter().all(|own| own.name != chain.name);
        if let Some(ListedChain { name, .. }) = all.iter().find(foreign) {
            return Some(format!("chain {name} was added"));
        }
        let dropping = all.iter().find(|chain| chain.drops)?;
        Some(format!("the policy of chain {} is drop instead of accept", dropping.name))
    }
}

/// The rules of a chain without those of others at its start that let certain addresses pass (docs/steering.md).
fn without_exemptions(rules: &[PacketRule]) -> &[PacketRule] {
    let is_exemption = |rule: &&PacketRule| {
        rule.by_address && matches!(rule.ahead.effect, PacketEffect::Take | PacketEffect::Return)
    };
    &rules[rules.iter().take_while(is_exemption).count()..]
}

/// Describes a rule that hands packets to another port than the gateway's, as after a change of `[gateway] listen` that only
/// steering has followed. Such packets are dropped.
fn wrong_listener(name: &str, chain: &PacketChain, listen_port: u16) -> Option<String> {
    let other = chain.rules.iter().find_map(|rule| rule.listener.filter(|port| *port != listen_port))?;
    Some(format!(
        "chain {name} hands connections to port {other}, and the gateway listens on port {listen_port}"
    ))
}

/// Describes an interface that a chain has no rule for, and names those that it has some for instead.
fn wrong_interfaces(
    name: &str,
    chain: &PacketChain,
    wanted: &BTreeSet<String>,
    facts: TableFacts<'_>,
) -> Option<(String, Remedy)> {
    let there = chain.rules.iter().filter_map(|rule| rule.ahead.comes_by.as_deref());
    let there: BTreeSet<_> = there.map(as_pattern).collect();
    let missing = wanted.difference(&there).next()?;
    // A chain without rules is told as such.
    if chain.rules.is_empty() {
        return None;
    }
    let others: BTreeSet<_> = there.difference(wanted).cloned().collect();
    let remedy = remedy_of_others(&others, facts.former, facts.names);
    let others: Vec<_> = others.into_iter().collect();
    let what = match &others[..] {
        [] => format!("chain {name} has no rule for interface {missing}"),
        _ => format!("chain {name} has rules for interface {}, and none for {missing}", others.join(", ")),
    };
    Some((what, remedy))
}

/// A pattern of iptables' as the configuration has it.
fn as_pattern(name: &str) -> String {
    name.strip_suffix('+').map_or_else(|| name.to_owned(), |stem| format!("{stem}*"))
}

/// The number of the first rule before ours that may take packets of ours.
fn overtaker(
    place: RulePosition<'_>,
    before: &[PacketRule],
    read: impl Fn(&str) -> io::Result<Option<PacketChain>>,
) -> io::Result<Option<usize>> {
    let mut chain = |name: &str| -> io::Result<Vec<Ahead>> {
        Ok(read(name)?.unwrap_or_default().rules.into_iter().map(|rule| rule.ahead).collect())
    };
    for (rule, number) in before.iter().zip(1..) {
        let ours = rule.target.as_ref().is_some_and(|target| target.starts_with(CHAIN_PREFIX));
        if !ours && ahead::takes(&rule.ahead, place, &mut chain)? {
            return Ok(Some(number));
        }
    }
    Ok(None)
}

/// From what `iptables-restore` takes.
pub(super) fn tables_of_iptables(family: TableFamily, text: &str) -> Vec<PlannedTable> {
    let mut tables: Vec<PlannedTable> = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            let (chains, hooks) = (Vec::new(), Vec::new());
            tables.push(PlannedTable { family, name: name.to_owned(), chains, hooks });
        }
        let Some(table) = tables.last_mut() else { continue };
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["-A", chain, ..] => {
                let comes_by = words.iter().position(|word| *word == "-i").and_then(|at| words.get(at + 1));
                for own in table.chains.iter_mut().filter(|own| own.name == chain) {
                    own.rules += 1;
                    own.interfaces.extend(comes_by.map(|name| as_pattern(name)));
                }
            }
            ["-I", builtin, .., ours] => table.hooks.push((builtin.to_owned(), ours.to_owned())),
            [declared, ..] => {
                if let Some(name) = declared.strip_prefix(':') {
                    table.chains.push(OwnChain::named(name));
                }
            }
            [] => {}
        }
    }
    tables
}

/// From what `nft -f` takes.
pub(super) fn table_of_nftables(text: &str) -> PlannedTable {
    let (chains, hooks) = (Vec::new(), Vec::new());
    let mut table = PlannedTable { family: TableFamily::Inet, name: NFT_TABLE.to_owned(), chains, hooks };
    let mut in_chain = false;
    for line in text.lines().map(str::trim) {
        if let Some(opened) = line.strip_suffix(" {") {
            in_chain = opened.starts_with("chain ");
            if let Some(name) = opened.strip_prefix("chain ") {
                table.chains.push(OwnChain::named(name));
            }
        } else if line == "}" {
            in_chain = false;
        } else if let Some(chain) = table.chains.last_mut().filter(|_| in_chain && !line.is_empty()) {
            if line.starts_with("type ") {
                chain.hooked = true;
            } else {
                chain.rules += 1;
                let comes_by = line.strip_prefix("iifname \"").and_then(|rest| rest.split('"').next());
                chain.interfaces.extend(comes_by.map(str::to_owned));
            }
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::super::SteeringMonitor;
    use super::*;
    use crate::steering::tests::params;

    #[test]
    fn rule_with_another_listener_is_found() {
        let ahead = Ahead::taking();
        let rule =
            |listener| PacketRule { id: 1, target: None, ahead: ahead.clone(), by_address: false, listener };
        let chain = |rules: &[Option<u16>]| PacketChain {
            hook: None,
            rules: rules.iter().copied().map(rule).collect(),
        };
        assert_eq!(wrong_listener("steer", &chain(&[None, Some(15001), None]), 15001), None);
        let wrong = wrong_listener("steer", &chain(&[None, Some(15001), Some(15002)]), 15001).unwrap();
        assert!(wrong.contains("port 15002") && wrong.contains("15001"), "{wrong}");
    }

    #[test]
    fn added_chains_and_changed_policies_are_told() {
        let watched = SteeringMonitor::new(&params());
        let table = &watched.nftables[0];
        let listed = |name: &str, drops| ListedChain { name: name.to_owned(), drops };
        let own = || table.chains.iter().map(|chain| listed(&chain.name, false));
        let wrong = |chain| table.wrong_chain(&own().chain([chain]).collect::<Vec<_>>());
        assert_eq!(table.wrong_chain(&own().collect::<Vec<_>>()), None);
        assert_eq!(wrong(listed("other", false)).unwrap(), "chain other was added");
        assert!(wrong(listed("steer", true)).unwrap().starts_with("the policy of chain steer is drop"));
    }

    #[test]
    fn plan_is_parsed_by_chain() {
        let watched = SteeringMonitor::new(&params());
        let names =
            |tables: &[PlannedTable]| tables.iter().map(|table| table.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&watched.iptables), ["filter", "raw", "mangle", "filter", "raw", "mangle"]);
        assert_eq!(format!("inet {NFT_TABLE}"), crate::steering::nftables::TABLE);
        assert_eq!(names(&watched.nftables), [NFT_TABLE]);
        let [v4, .., v6] = &watched.iptables[..] else { panic!("{watched:?}") };
        assert_eq!((v4.family, v6.family), (TableFamily::Ip, TableFamily::Ip6));
        for table in &watched.iptables {
            assert!(!table.hooks.is_empty(), "{table:?}");
            for chain in &table.chains {
                assert!(chain.name.starts_with(CHAIN_PREFIX) && chain.rules > 0, "{chain:?}");
            }
            for (_, ours) in &table.hooks {
                assert!(table.chains.iter().any(|chain| chain.name == *ours), "{table:?}");
            }
        }
        let steer = watched.nftables[0].chains.iter().find(|chain| chain.name == "steer").unwrap();
        assert!(steer.hooked && steer.rules > 5, "{steer:?}");
    }
}
