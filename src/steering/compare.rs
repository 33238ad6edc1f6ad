//! Compares the rules and routes in the kernel with the plan.

mod part;
mod routing;

pub use part::PlanPart;
pub use routing::before_mark_rule;

use super::ahead::{self, RulePosition};
use super::{PacketRules, Remedy, SteeringPlan, nftables};
use crate::addr::PortRange;
use crate::family::Family;
use std::collections::BTreeSet;
use std::convert::Infallible;

/// Output of the read-only commands; `None` where a command failed or had nothing to list.
#[derive(Debug, Clone, Default)]
pub struct SteeringOutput {
    /// A command was refused for lack of privilege, so that what is `None` is not known.
    pub is_denied: bool,
    /// `iptables-save`, with or without `-c`.
    pub iptables: Option<String>,
    /// `ip6tables-save`, with or without `-c`.
    pub ip6tables: Option<String>,
    /// Names and output of the same tools of the other backend.
    pub other_backend: Vec<(&'static str, String)>,
    /// `nft list table inet egret`.
    pub nftables: Option<String>,
    /// `ip -N -4 rule show` and `ip -N -6 rule show`.
    pub rules: [Option<String>; 2],
    /// `ip -N -4 route show table all type local`, and `-6`.
    pub routes: [Option<String>; 2],
    /// `ip -4 route show table TABLE` for the steering table, and `-6`; `None` also if there is no such table.
    pub steering_tables: [Option<String>; 2],
    /// The names of the interfaces.
    pub interfaces: Vec<String>,
    /// `/proc/sys/net/ipv4/ip_local_reserved_ports`.
    pub reserved_ports: Option<String>,
}

/// The result for one part of the plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartDifference {
    /// The part.
    pub part: PlanPart,
    /// The difference; `None` if there is none.
    pub wrong: Option<String>,
    /// A remark on something that is not wrong.
    pub note: Option<String>,
    /// The way to end the difference.
    pub remedy: Remedy,
}

impl PartDifference {
    fn new(part: PlanPart, wrong: Option<String>) -> Self {
        Self { part, wrong, note: None, remedy: Remedy::Renew }
    }
}

/// One entry for each part of the plan.
pub fn compare(plan: &SteeringPlan, observed: &SteeringOutput) -> Vec<PartDifference> {
    let mut found = Vec::new();
    let mut exempt = Vec::new();
    match &plan.packet_rules {
        PacketRules::Iptables { v4, v6 } => {
            let wrong = iptables(v4, observed.iptables.as_deref(), plan, &mut exempt);
            found.push(PartDifference::new(PlanPart::PacketRulesOf(Family::V4), wrong));
            let wrong = iptables(v6, observed.ip6tables.as_deref(), plan, &mut exempt);
            found.push(PartDifference::new(PlanPart::PacketRulesOf(Family::V6), wrong));
        }
        PacketRules::Nftables(table) => {
            let wrong = nft(table, observed.nftables.as_deref(), &mut exempt);
            found.push(PartDifference::new(PlanPart::PacketRules, wrong));
        }
    }
    if !exempt.is_empty() {
        let note = format!(
            "{} rules before Egret's let packets pass uninspected: {}",
            exempt.len(),
            exempt.join("; ")
        );
        found.push(PartDifference { note: Some(note), ..PartDifference::new(PlanPart::Exemptions, None) });
    }
    if let Some(left) = left_over(plan, observed) {
        found.push(PartDifference::new(PlanPart::LeftOver, Some(left)));
    }
    for (index, family) in Family::ALL.into_iter().enumerate() {
        found.extend(of_routing(plan, observed, index, family));
    }
    let wrong = not_reserved(&plan.reserved_ports, observed.reserved_ports.as_deref());
    found.push(PartDifference::new(PlanPart::ReservedPorts, wrong));
    if hands_to_other_port(&plan.packet_rules, observed) {
        // Steering alone would hand connections to a port that the running gateway does not listen on.
        let renewed = found.iter_mut().filter(|part| part.wrong.is_some() && part.remedy == Remedy::Renew);
        renewed.for_each(|part| part.remedy = Remedy::RestartBoth);
    }
    found
}

/// The parts of one family that no packet filter holds.
fn of_routing(
    plan: &SteeringPlan,
    observed: &SteeringOutput,
    index: usize,
    family: Family,
) -> [PartDifference; 3] {
    let planned = &plan.routing[index];
    let (rules, routes) = (observed.rules[index].as_deref(), observed.routes[index].as_deref());
    let (wrong, remedy) = routing::mark_rule(planned, rules);
    let mark_rule = PartDifference { remedy, ..PartDifference::new(PlanPart::MarkRule(family), wrong) };
    let missing = routing::local_routes(planned, routes);
    let local_routes = match routing::foreign_route(planned, observed.steering_tables[index].as_deref()) {
        None => PartDifference::new(PlanPart::LocalRoutes(family), missing),
        foreign => PartDifference {
            remedy: Remedy::DeleteRoute,
            ..PartDifference::new(PlanPart::LocalRoutes(family), foreign)
        },
    };
    let (wrong, remedy) = routing::port_rules(plan, planned, rules, &observed.interfaces);
    let port_rules = PartDifference { remedy, ..PartDifference::new(PlanPart::PortRules(family), wrong) };
    [mark_rule, local_routes, port_rules]
}

/// True if the rules in the kernel hand connections to a listener's port, and not to the plan's.
fn hands_to_other_port(wanted: &PacketRules, observed: &SteeringOutput) -> bool {
    let ports = |text: &str, before: &str| -> BTreeSet<u16> {
        let digits = |rest: &str| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
        text.split(before).skip(1).filter_map(digits).collect()
    };
    let differ = |wanted: &str, listed: Option<&str>, before: &str| {
        let listed = ports(listed.unwrap_or_default(), before);
        !listed.is_empty() && listed.is_disjoint(&ports(wanted, before))
    };
    match wanted {
        PacketRules::Iptables { v4, .. } => {
            differ(v4, of_egret(observed.iptables.as_deref()).as_deref(), "--on-port ")
        }
        PacketRules::Nftables(table) => ["tproxy ip to :", "tproxy ip6 to :"]
            .iter()
            .any(|before| differ(table, observed.nftables.as_deref(), before)),
    }
}

/// The lines of Egret's chains.
fn of_egret(saved: Option<&str>) -> Option<String> {
    let lines = saved?.lines().filter(|line| line.contains("-A EGRET_"));
    Some(lines.flat_map(|line| [line, "\n"]).collect())
}

/// Finds rules of Egret left over from the other format, or from another backend of iptables.
fn left_over(plan: &SteeringPlan, observed: &SteeringOutput) -> Option<String> {
    let ours = |saved: &str| saved.lines().any(|line| line.starts_with(":EGRET_"));
    if let Some((tool, _)) = observed.other_backend.iter().find(|(_, saved)| ours(saved)) {
        return Some(format!("`{tool}` lists Egret's rules too: the backend of iptables was changed"));
    }
    match &plan.packet_rules {
        PacketRules::Iptables { .. } => {
            observed.nftables.as_ref().map(|_| format!("nftables has a table {} too", nftables::TABLE))
        }
        PacketRules::Nftables(_) => {
            let saved = [&observed.iptables, &observed.ip6tables];
            saved
                .into_iter()
                .flatten()
                .any(|saved| ours(saved))
                .then(|| "iptables has chains EGRET_* too".to_owned())
        }
    }
}

/// Compares Egret's chains table by table: their rules in order, and the rules that jump to them. Adds exemptions to the list.
fn iptables(
    wanted: &str,
    saved: Option<&str>,
    plan: &SteeringPlan,
    exempt: &mut Vec<String>,
) -> Option<String> {
    let Some(saved) = saved else { return Some("cannot be listed (are you root?)".to_owned()) };
    if !saved.contains("EGRET_") {
        return Some("not in place".to_owned());
    }
    let saved: Vec<_> = saved.lines().map(without_count).collect();
    let saved = saved.join("\n");
    for (table, body) in tables(wanted) {
        let actual = tables(&saved).find(|(name, _)| *name == table).map_or("", |(_, body)| body);
        for line in body.lines() {
            if let Some(hook) = line.strip_prefix("-I ") {
                let builtin = hook.split(' ').next().unwrap_or_default();
                let rule = format!("-A {hook}");
                let rules = rules_of(actual, builtin);
                let Some(at) = rules.iter().position(|line| **line == rule) else {
                    return Some(format!("`{hook}` is missing in table {table}"));
                };
                let place =
                    RulePosition { table, builtin, steered: &plan.interfaces, ports: plan.ports.as_deref() };
                let overtaker = |rule: &&&str| takes(rule, place, actual);
                if let Some(overtaker) = rules[..at].iter().find(overtaker) {
                    return Some(format!(
                        "`{hook}` is not the first rule of {builtin} in table {table}: `{overtaker}` may take its packets"
                    ));
                }
            } else if let Some(chain) = line.strip_prefix(':').and_then(|rest| rest.split(' ').next())
                && let Some(difference) = sequence(&rules_of(body, chain), &rules_of(actual, chain), exempt)
            {
                return Some(format!("table {table}: {difference}"));
            }
        }
    }
    None
}

/// True if a rule of the built-in chain may take packets from the rules behind it; `body`: the whole table.
fn takes(rule: &str, place: RulePosition<'_>, body: &str) -> bool {
    let is_chain = |name: &str| body.lines().any(|line| line.starts_with(&format!(":{name} -")));
    let parsed = |line: &&str| ahead::parse(line, is_chain);
    let mut chain =
        |name: &str| Ok::<_, Infallible>(rules_of(body, name).iter().map(parsed).collect::<Vec<_>>());
    let Ok(takes) = ahead::takes(&parsed(&rule), place, &mut chain);
    takes && !rule.contains(" -j EGRET_")
}

/// A line of `iptables-save -c` as `iptables-save` prints it.
fn without_count(line: &str) -> &str {
    line.strip_prefix('[').and_then(|rest| rest.split_once("] ")).map_or(line, |(_, rule)| rule)
}

/// `(name, body)` of each table in the format of `iptables-save`.
fn tables(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let sections = text.split("\n*").map(|section| section.strip_prefix('*').unwrap_or(section));
    sections.filter_map(|section| section.split_once('\n'))
}

/// Returns the rules of a chain except log rules, which steering omits if the kernel cannot log.
fn rules_of<'a>(body: &'a str, chain: &str) -> Vec<&'a str> {
    let prefix = format!("-A {chain} ");
    body.lines().filter(|line| line.starts_with(&prefix) && !line.contains(" -j LOG ")).collect()
}

fn nft(wanted: &str, listed: Option<&str>, exempt: &mut Vec<String>) -> Option<String> {
    let Some(listed) = listed else {
        return Some("not in place, or cannot be listed (are you root?)".to_owned());
    };
    let start = format!("table {}", nftables::TABLE);
    let counts_or_logs = |line: &str| line.starts_with("packets ") || line.contains(" log prefix ");
    let lines = |text: &str| -> Vec<String> {
        let words = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        let told = words.filter(|line| !line.is_empty() && !counts_or_logs(line));
        told.skip_while(|line| *line != format!("{start} {{")).collect()
    };
    sequence(&lines(wanted), &lines(listed), exempt)
}

/// Describes the first difference of two sequences. Exemptions at the start of a chain are moved from the second to the
/// list.
fn sequence<T: AsRef<str>>(wanted: &[T], actual: &[T], exempt: &mut Vec<String>) -> Option<String> {
    let mut others = Vec::new();
    let mut at_start = true;
    for line in actual.iter().map(AsRef::as_ref) {
        let first = wanted.get(others.len()).map(AsRef::as_ref) == Some(line);
        if at_start && !first && is_exemption(line) {
            exempt.push(line.to_owned());
            continue;
        }
        at_start = line.starts_with("type filter hook ");
        others.push(line);
    }
    for index in 0..wanted.len().max(others.len()) {
        let (wanted, actual) = (wanted.get(index).map(AsRef::as_ref), others.get(index).copied());
        match (wanted, actual) {
            (Some(wanted), Some(actual)) if wanted != actual => {
                return Some(format!("`{actual}` where `{wanted}` should be"));
            }
            (Some(wanted), None) => return Some(format!("`{wanted}` is missing")),
            (None, Some(actual)) => return Some(format!("`{actual}` was added")),
            (Some(_), Some(_)) | (None, None) => {}
        }
    }
    None
}

/// True if another program's rule exempts packets from or to certain addresses (docs/steering.md).
fn is_exemption(rule: &str) -> bool {
    let narrow = [" -s ", " -d ", "saddr ", "daddr "].iter().any(|word| rule.contains(word));
    let verdict = ["-j ACCEPT", "-j RETURN", " accept", " return"].iter().any(|word| rule.ends_with(word));
    narrow && verdict && !rule.contains(" ! -s ") && !rule.contains(" ! -d ") && !rule.contains("addr != ")
}

/// The ports missing in `net.ipv4.ip_local_reserved_ports`, if any.
pub fn not_reserved(wanted: &[PortRange], present: Option<&str>) -> Option<String> {
    let Some(present) = present else { return Some("cannot be read".to_owned()) };
    let present: Vec<_> = present.trim().split(',').filter_map(parse_range).collect();
    let inside = |range: &&PortRange| {
        present.iter().any(|have| have.contains(range.first()) && have.contains(range.last()))
    };
    let missing = wanted.iter().find(|range| !inside(range));
    missing.map(|range| format!("ports {range} of the pools are not reserved"))
}

fn parse_range(text: &str) -> Option<PortRange> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    PortRange::new(first.trim().parse().ok()?, last.trim().parse().ok()?)
}

#[cfg(test)]
mod tests;
