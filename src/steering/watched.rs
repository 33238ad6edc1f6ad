//! State of the steering in the kernel, read without running a command: the gateway watches it.
//!
//! It looks for the tables, chains, hooks and rules of the plan by name and number. `egret steering status` compares
//! them word by word, which takes root and the tools of the packet filter.

mod entrances;
mod fault;
mod ipv6;
mod port_rules;
mod tables;

pub(super) use entrances::TAKE_OVER;
pub use entrances::{drops_marked, is_strict};
pub(super) use fault::remedy_before_mark_rule;
pub use fault::{Lost, Part, Remedy};
pub use ipv6::{Ipv6Routing, ipv6_routing};

use super::missing::interfaces_of;
use super::own_rules::NFT_TABLE;
use super::{Routing, SteeringParams, nftables, overtaking, stamp};
use crate::addr::PortRange;
use crate::family::Family;
use crate::interface::Interface;
use crate::sys::links;
use crate::sys::packet_rules::{self, Backend, TableFamily};
use crate::sys::routing::{self, LOCAL_TABLE, RoutingRule};
use fault::remedy_of_others;
use ipnet::IpNet;
use ipv6::has_ipv6;
use port_rules::Newcomers;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Instant;
use tables::{
    OwnChain, PlannedTable, TableFacts, TableKey, TableState, table_of_nftables, tables_of_iptables,
};

/// Rules may change while they are listed; then they are listed again, this often.
const ATTEMPTS: usize = 3;

/// The expected steering, and the rules of the last look.
#[derive(Debug)]
pub struct SteeringMonitor {
    iptables: Vec<PlannedTable>,
    nftables: Vec<PlannedTable>,
    routing: [Routing; 2],
    interfaces: Vec<Interface>,
    /// The networks of tenants.
    sources: Vec<IpNet>,
    /// The intercepted ports; `None` for every port.
    ports: Option<Vec<PortRange>>,
    /// The port that the gateway listens on.
    listen_port: u16,
    newcomers: [Newcomers; 2],
    seen: BTreeMap<TableKey, BTreeSet<u64>>,
    /// Interfaces that rules were for when these parameters came: such rules are older than the files that these are from.
    former: BTreeSet<String>,
    /// The stamp that was in place when these parameters came.
    former_stamp: Option<String>,
}

/// Result of one look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SteeringLook {
    /// The parts that are not in place; empty if steering is intact.
    pub lost: Vec<Lost>,
    /// Faults that matter only once packet rules are lost.
    pub latent: Vec<Lost>,
}

impl SteeringMonitor {
    /// Watches for what these parameters ask for.
    pub fn new(params: &SteeringParams) -> Self {
        let texts = super::iptables_texts(params);
        let mut iptables = tables_of_iptables(TableFamily::Ip, &texts[0]);
        iptables.extend(tables_of_iptables(TableFamily::Ip6, &texts[1]));
        Self {
            iptables,
            nftables: vec![table_of_nftables(&nftables::render(params))],
            interfaces: params.interfaces.clone(),
            sources: params.sources.clone(),
            ports: params.ports.ranges(),
            listen_port: params.listen_port,
            newcomers: Default::default(),
            routing: super::routing(params, &texts),
            seen: BTreeMap::new(),
            former: BTreeSet::new(),
            former_stamp: None,
        }
    }

    /// The same for parameters of files that were read just now.
    pub fn of_files(params: &SteeringParams) -> Self {
        let rules = routing::rules(Family::V4).unwrap_or_default();
        let former = interfaces_of(&rules).map(|interface| interface.to_string()).collect();
        let former_stamp = stamp::found(&rules).map(str::to_owned);
        Self { former, former_stamp, ..Self::new(params) }
    }

    /// Watches for what other files ask for, which were read just now. What was seen is remembered.
    pub fn expect(&mut self, params: &SteeringParams) {
        let (seen, newcomers) = (std::mem::take(&mut self.seen), std::mem::take(&mut self.newcomers));
        let before = std::mem::take(&mut self.interfaces);
        let mut monitor = Self { newcomers, seen, ..Self::of_files(params) };
        monitor.former.extend(before.iter().map(ToString::to_string));
        *self = monitor;
    }

    /// Describes each of iptables' tables that is switched off in nf_tables while it has chains of Egret's. What cannot be read is
    /// left out.
    pub fn dormant_tables(&self) -> Vec<String> {
        let described = |table: &PlannedTable| {
            let dormancy = table.dormancy().ok().flatten()?;
            let has = |chain: &OwnChain| {
                let found = packet_rules::chain(Backend::NfTables, table.family, &table.name, &chain.name);
                found.is_ok_and(|chain| chain.is_some())
            };
            table.chains.iter().any(has).then(|| format!("{}: {dormancy}", table.key().called()))
        };
        self.iptables.iter().filter_map(described).collect()
    }

    /// Looks at the kernel. An error if it does not answer, or the capability is missing: then nothing is known.
    pub fn look(&mut self, now: Instant) -> io::Result<SteeringLook> {
        let names = routing::interfaces()?;
        let mut look = self.packet_rules(&names)?;
        for (index, family) in Family::ALL.into_iter().enumerate() {
            let possible = match family {
                Family::V4 => Ipv6Routing::Possible,
                Family::V6 => ipv6_routing(&self.interfaces, &names),
            };
            if possible == Ipv6Routing::Absent {
                continue;
            }
            let rules = routing::rules(family)?;
            match possible {
                Ipv6Routing::Possible => self.routing(index, family, &rules, &mut look)?,
                Ipv6Routing::OffOnLoopback => look.latent.push(Lost {
                    part: Part::SteeringTable,
                    what: "IPv6 is off on the loopback interface, so intercepted IPv6 is dropped".to_owned(),
                    remedy: Remedy::Loopback,
                }),
                Ipv6Routing::Unneeded | Ipv6Routing::Absent => {}
            }
            self.port_rules(index, &rules, &names, &mut look, now);
            self.stamp(index, &rules, &mut look);
        }
        look.lost.extend(entrances::faults(&self.interfaces, &names, &links::ports()?, drops_marked));
        Ok(look)
    }

    /// The rule for the mark, its table, and the local routes of the pools.
    fn routing(
        &self,
        index: usize,
        family: Family,
        rules: &[RoutingRule],
        look: &mut SteeringLook,
    ) -> io::Result<()> {
        let routing = &self.routing[index];
        let (mark, table, called) = (routing.mark, routing.table, family.as_str());
        let delivers = routing::local_routes(family, table)?.iter().any(|route| route.prefix_len() == 0);
        if !delivers {
            let what = format!("{called}: routing table {table} does not deliver packets locally");
            look.lost.push(renewable(Part::SteeringTable, what));
        }
        let foreign = routing::leading_away(family, table)?;
        if let Some(first) = foreign.first() {
            let what = format!("{called}: {}", foreign_route(table, first));
            look.lost.push(Lost { part: Part::SteeringTable, what, remedy: Remedy::DeleteRoute });
        }
        let is_ours = |rule: &RoutingRule| rule.mark == Some((mark, mark)) && rule.table == table;
        if let Some(ours) = rules.iter().position(is_ours) {
            let first = rules.iter().take(ours).find(|rule| overtaking::may_take_marked(rule, mark));
            look.lost.extend(first.map(|rule| {
                let what = format!(
                    "{called}: another program's `ip rule` at priority {} comes before the one for mark {mark:#x}",
                    rule.priority
                );
                let remedy = remedy_before_mark_rule(rule, mark, table);
                Lost { part: Part::MarkRule, what, remedy }
            }));
        } else {
            let what = format!("{called}: there is no rule `fwmark {mark:#x}/{mark:#x} lookup {table}`");
            look.lost.push(renewable(Part::MarkRule, what));
        }
        let in_the_way = rules.iter().find(|rule| overtaking::is_in_the_way(rule, mark, table));
        // One that comes before the rule for the mark is told already.
        if let Some(rule) =
            in_the_way.filter(|_| look.lost.iter().all(|lost| lost.remedy != Remedy::DeleteRule))
        {
            let what = format!(
                "{called}: another program's `ip rule` at priority {} looks up table {table}, or has a bit in common with \
                 mark {mark:#x}",
                rule.priority
            );
            look.latent.push(Lost { part: Part::MarkRule, what, remedy: Remedy::DeleteRule });
        }
        let local: BTreeSet<IpNet> = routing::local_routes(family, LOCAL_TABLE)?.into_iter().collect();
        let mut missing = routing.pools.iter().filter(|pool| !local.contains(pool));
        if let Some(first) = missing.next() {
            let more = match missing.count() {
                0 => String::new(),
                more => format!(" (and {more} more)"),
            };
            let what = format!("{first}{more} of the pools has no local route, so answers to it are lost");
            look.lost.push(Lost { part: Part::LocalRoutes, what, remedy: Remedy::Renew });
        }
        Ok(())
    }

    /// The stamp, if it is one of other parameters. Told of one family.
    fn stamp(&self, index: usize, rules: &[RoutingRule], look: &mut SteeringLook) {
        let wanted = self.routing[index].port_rules.iter().find(|rule| stamp::is_stamp(&rule.rest));
        let Some(there) = stamp::found(rules).filter(|there| wanted.is_some_and(|rule| rule.rest != *there))
        else {
            return;
        };
        let (faults, what, remedy) = if self.former_stamp.as_deref() == Some(there) {
            let what = "the rules in place were made from other files than those in force";
            (&mut look.lost, what, Remedy::Renew)
        } else {
            let what = "the rules in place were made from files that are not in force yet";
            (&mut look.latent, what, Remedy::Reload)
        };
        let fault = Lost { part: Part::PacketRules, what: what.to_owned(), remedy };
        if !faults.contains(&fault) {
            faults.push(fault);
        }
    }

    /// The rules that keep intercepted ports from being routed on.
    fn port_rules(
        &mut self,
        index: usize,
        rules: &[RoutingRule],
        names: &[String],
        look: &mut SteeringLook,
        now: Instant,
    ) {
        let called = Family::ALL[index].as_str();
        let missing = self.newcomers[index].look(&self.routing[index], rules, names, now);
        if missing.fixed > 0 {
            let are = if missing.fixed == 1 { "is" } else { "are" };
            let remedy = remedy_of_others(&missing.others, &self.former, names);
            let others: Vec<_> = missing.others.into_iter().collect();
            let there = match &others[..] {
                [] => String::new(),
                _ => format!(", and there are some for interface {}", others.join(", ")),
            };
            let what = format!(
                "{called}: {} of the `ip rule` entries that block forwarding of intercepted ports {are} missing{there}",
                missing.fixed
            );
            look.lost.push(Lost { part: Part::PortRules, what, remedy });
        }
        for name in missing.lost {
            let what = format!("{called}: no `ip rule` blocks forwarding of intercepted ports from {name}");
            look.lost.push(renewable(Part::PortRules, what));
        }
        let latent = |what, remedy| Lost { part: Part::PortRules, what, remedy };
        look.latent.extend(missing.new.into_iter().map(|name| {
            let what = format!(
                "{called}: {name} is new, and forwarding of intercepted ports is not blocked there yet"
            );
            latent(what, Remedy::Renew)
        }));
        look.latent.extend(overtaking::before_port_rules(rules, &self.interfaces, &self.sources).map(|at| {
            let what = format!(
                "{called}: another program's `ip rule` at priority {} comes before those that block forwarding of \
                 intercepted ports",
                rules[at].priority
            );
            latent(what, Remedy::MoveRule)
        }));
        look.latent.extend(overtaking::among_port_rules(rules).map(|at| {
            let what = format!(
                "{called}: another program's `ip rule` at priority {} lies among those that block forwarding of \
                 intercepted ports, where packets skip it",
                rules[at].priority
            );
            latent(what, Remedy::ClearPlace)
        }));
    }

    fn packet_rules(&mut self, names: &[String]) -> io::Result<SteeringLook> {
        let mut found = Vec::new();
        for _ in 0..ATTEMPTS {
            let before = packet_rules::generation()?;
            found = self.tables(before.is_some(), names)?;
            if packet_rules::generation()? == before {
                break;
            }
        }
        let mut look = SteeringLook::default();
        for TableState { key, wrong, rules, surplus, replaced_whole } in found {
            // Whoever puts steering in place replaces all rules of a table at once. Where some of them stayed and others
            // are gone, somebody else had a hand in it.
            let seen = self.seen.entry(key.clone()).or_default();
            let fell_apart = replaced_whole && !seen.is_disjoint(&rules) && !seen.is_subset(&rules);
            let joined = !seen.is_empty() && *seen != rules && seen.is_subset(&rules);
            // More rules than expected that came as a whole are those of other files, which intercept. In legacy iptables
            // that cannot be told.
            let is_new = if replaced_whole { joined || seen.is_empty() } else { *seen != rules };
            let added = surplus.as_ref().filter(|_| is_new);
            if let Some((what, remedy)) = wrong {
                look.lost.push(Lost { part: Part::PacketRules, what, remedy });
            } else if fell_apart {
                let what = format!("{}: some of Egret's rules were removed or replaced", key.called());
                look.lost.push(Lost { part: Part::PacketRules, what, remedy: Remedy::Renew });
            } else if let Some(surplus) = added {
                let what = format!("{surplus}: others were added that are no exemptions");
                look.lost.push(Lost { part: Part::PacketRules, what, remedy: Remedy::Renew });
            } else if let Some(surplus) = &surplus {
                let what =
                    format!("{surplus}, which were put in place together: from files that are not in force");
                look.latent.push(Lost { part: Part::PacketRules, what, remedy: Remedy::Reload });
            }
            // Rules that joined may go as they came.
            let is_whole = !fell_apart && added.is_none();
            if is_whole && !(replaced_whole && joined) {
                *seen = rules;
            }
        }
        Ok(look)
    }

    /// The tables of the format in use.
    fn tables(&self, has_nf_tables: bool, names: &[String]) -> io::Result<Vec<TableState>> {
        let facts = TableFacts {
            steered: &self.interfaces,
            ports: self.ports.as_deref(),
            listen_port: self.listen_port,
            former: &self.former,
            names,
        };
        if has_nf_tables && packet_rules::has_table(TableFamily::Inet, NFT_TABLE)? {
            let look = |table: &PlannedTable| table.look(Backend::NfTables, facts);
            return self.nftables.iter().map(|table| Ok(look(table)?.0)).collect();
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
                let look = |table: &PlannedTable| table.look(backend, facts);
                let found: Vec<_> = tables.map(look).collect::<io::Result<_>>()?;
                if found.iter().any(|(_, present)| *present) {
                    present = true;
                    all.extend(found.into_iter().map(|(found, _)| found));
                    break;
                }
            }
            if !present {
                let key = TableKey { family, table: String::new() };
                let what = format!("{}: none of Egret's packet rules is in place", key.called());
                let wrong = Some((what, Remedy::Renew));
                all.push(TableState {
                    key,
                    wrong,
                    rules: BTreeSet::new(),
                    surplus: None,
                    replaced_whole: false,
                });
            }
        }
        Ok(all)
    }
}

/// Describes a route of others in our table.
pub(super) fn foreign_route(table: u32, route: &str) -> String {
    format!(
        "routing table {table} has another program's route `{route}`, which takes intercepted packets away"
    )
}

/// A fault that steering put in place anew ends.
fn renewable(part: Part, what: String) -> Lost {
    Lost { part, what, remedy: Remedy::Renew }
}
