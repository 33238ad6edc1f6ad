//! Compares the rules of policy routing and the routes with the plan.

use crate::steering::{
    Remedy, Routing, RulePackets, SteeringPlan, origin, overtaking, script, stamp, watched,
};
use crate::sys::routing::RoutingRule;
use std::collections::{BTreeSet, HashSet};

/// The difference in the rule that looks marked packets up, if any, and its remedy; `shown`: `ip -N rule show`.
pub(super) fn mark_rule(routing: &Routing, shown: Option<&str>) -> (Option<String>, Remedy) {
    let Some(shown) = shown else { return (Some("cannot be listed".to_owned()), Remedy::Renew) };
    let (mark, table) = (routing.mark, routing.table);
    let wanted = format!("fwmark {mark:#x}/{mark:#x} lookup {table}");
    let is_there = shown.lines().any(|line| has_words(line, &wanted));
    let first = before_mark_rule(shown, mark, table);
    let remedy = first
        .as_deref()
        .and_then(overtaking::parse)
        .map_or(Remedy::Renew, |rule| watched::remedy_before_mark_rule(&rule, mark, table));
    if is_there && first.is_none() {
        return (None, remedy);
    }
    let in_the_way =
        |rules: &[RoutingRule]| rules.iter().position(|rule| overtaking::is_in_the_way(rule, mark, table));
    if let Some(rule) = find(shown, in_the_way).filter(|_| remedy == Remedy::Renew) {
        let wrong =
            format!("the rule `{rule}` looks up table {table}, or has a bit in common with mark {mark:#x}");
        return (Some(wrong), Remedy::DeleteRule);
    }
    let wrong = first.map_or_else(
        || format!("no rule `{wanted}`"),
        |rule| {
            format!(
                "the rule `{rule}` is asked before `{wanted}`, and may take intercepted packets elsewhere"
            )
        },
    );
    (Some(wrong), remedy)
}

/// The rule of `ip -N rule show` at the position that `choose` gives.
fn find(shown: &str, choose: impl Fn(&[RoutingRule]) -> Option<usize>) -> Option<String> {
    let (rules, lines): (Vec<_>, Vec<_>) =
        shown.lines().filter_map(|line| Some((overtaking::parse(line)?, line))).unzip();
    Some(lines[choose(&rules)?].split_whitespace().collect::<Vec<_>>().join(" "))
}

fn has_words(line: &str, words: &str) -> bool {
    format!("{} ", line.trim_end()).contains(&format!(" {words} "))
}

/// The rule of `ip -N rule show` that packets with our mark meet before ours, and may go by.
pub fn before_mark_rule(shown: &str, mark: u32, table: u32) -> Option<String> {
    let wanted = format!("fwmark {mark:#x}/{mark:#x} lookup {table}");
    // Where there is none, nothing comes before it.
    let ours = shown.lines().position(|line| has_words(line, &wanted))?;
    let overtakes = shown
        .lines()
        .take(ours)
        .find(|line| overtaking::parse(line).is_none_or(|rule| overtaking::may_take_marked(&rule, mark)))?;
    Some(overtakes.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The difference in the rules against forwarding, if any, and its remedy. Nothing can be put in place beside a rule among them.
pub(super) fn port_rules(
    plan: &SteeringPlan,
    routing: &Routing,
    shown: Option<&str>,
    interfaces: &[String],
) -> (Option<String>, Remedy) {
    if let Some(rule) = shown.and_then(|shown| find(shown, overtaking::among_port_rules)) {
        let wrong = format!("the rule `{rule}` lies among them, where packets skip it");
        return (Some(wrong), Remedy::ClearPlace);
    }
    if let Some(missing) = missing_port_rule(routing, shown, interfaces) {
        return (Some(missing), Remedy::Renew);
    }
    let before =
        |rules: &[RoutingRule]| overtaking::before_port_rules(rules, &plan.interfaces, &plan.sources);
    let wrong = shown
        .and_then(|shown| find(shown, before))
        .map(|rule| format!("the rule `{rule}` comes before them, and may route intercepted ports on"));
    (wrong, Remedy::MoveRule)
}

/// A rule against forwarding that is not there, if any.
fn missing_port_rule(routing: &Routing, shown: Option<&str>, interfaces: &[String]) -> Option<String> {
    let Some(shown) = shown else { return Some("cannot be listed".to_owned()) };
    let present: HashSet<_> = shown.lines().filter_map(as_added).collect();
    // A pattern stands for the interfaces that it covers.
    let wanted = routing.port_rules.iter().flat_map(|rule| match &rule.packets {
        RulePackets::Interface(pattern) if pattern.is_pattern() => {
            let covered = interfaces.iter().filter(|name| pattern.covers(name));
            covered.map(|name| rule.to_string().replace(&pattern.to_string(), name)).collect()
        }
        RulePackets::Any | RulePackets::Own | RulePackets::Interface(_) | RulePackets::Source(_) => {
            vec![rule.to_string()]
        }
    });
    let missing = wanted.into_iter().find(|rule| !present.contains(rule))?;
    Some(if missing.split_once(' ').is_some_and(|(_, rest)| stamp::is_stamp(rest)) {
        format!(
            "no rule `{missing}`: steering was put in place from other files, or by another version of Egret"
        )
    } else {
        format!("no rule `{missing}`")
    })
}

/// Translates a line of `ip -N rule show` of Egret's into what `ip rule add pref` takes. `None` for others' rules.
fn as_added(line: &str) -> Option<String> {
    let (priority, rest) = line.split_once(':')?;
    let (rule, protocol) = rest.rsplit_once(" proto ")?;
    if protocol.trim().parse() != Ok(origin::UP) {
        return None;
    }
    let rule = rule.trim().strip_prefix("from all ").unwrap_or(rule.trim());
    let words = rule.split_whitespace().filter(|word| !matches!(*word, "[detached]" | "[unresolved]"));
    let mut words: Vec<_> = words.map(|word| word.strip_prefix("ipproto-").unwrap_or(word)).collect();
    match words.last_mut() {
        Some(action) if *action == "6" => *action = "blackhole",
        Some(action) if *action == "8" => *action = "prohibit",
        Some(_) | None => {}
    }
    Some(format!("{} {}", priority.trim(), words.join(" ")))
}

/// A local route that is not there, if any; `shown`: `ip -N route show table all type local`.
pub(super) fn local_routes(routing: &Routing, shown: Option<&str>) -> Option<String> {
    let Some(shown) = shown else { return Some("cannot be listed".to_owned()) };
    let table = routing.table.to_string();
    let mut present = BTreeSet::new();
    for line in shown.lines() {
        let words: Vec<_> = line.split_whitespace().collect();
        let after = |word| words.iter().position(|w| *w == word).and_then(|at| words.get(at + 1)).copied();
        // The command asks for local routes only; their type is shown as a number too.
        if let Some(network) = words.get(1).copied() {
            present.insert((network, after("table").unwrap_or("255")));
        }
    }
    if !present.contains(&("default", table.as_str())) {
        return Some(format!("table {table} does not deliver locally"));
    }
    let missing = |pool: &&ipnet::IpNet| !present.contains(&(script::as_shown(**pool).as_str(), "255"));
    routing.pools.iter().find(missing).map(|pool| format!("{pool} is not local: answers to it would be lost"))
}

/// A route in our table that is not ours, if any. Local ones deliver as ours does.
pub(super) fn foreign_route(routing: &Routing, shown: Option<&str>) -> Option<String> {
    let route = shown?.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with("local "))?;
    Some(watched::foreign_route(routing.table, route))
}
