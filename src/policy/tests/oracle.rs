//! Oracle: reads the rules as written, one after the other and without an index, to test the compiled tenant against.

use crate::addr::OriginalDestination;
use crate::hostname::AskedName;
use crate::outcome::Outcome;
use crate::policy::networks::canonical;
use crate::policy::reach::NameReach;
use crate::policy::{
    DestinationRule, EchPolicy, Explanation, MatchFinding, RuleEffect, RuleFinding, RuleSpec, TenantSpec,
};

/// Evaluates every rule of the tenant on the flow.
pub(super) fn explain(
    tenant: &TenantSpec,
    reach: &NameReach,
    asked: &AskedName,
    ech: bool,
    to: OriginalDestination,
) -> Explanation {
    let rules = &tenant.rules;
    let mut found: Vec<MatchFinding> = rules.iter().map(|rule| examine(rule, reach, asked, to)).collect();
    let mut meant = rules.iter().zip(&found).any(|(_, &finding)| finding == MatchFinding::CannotBeJudged);
    meant |= tenant.ech == EchPolicy::Deny;
    if *asked == AskedName::Unread && meant {
        for (rule, finding) in rules.iter().zip(&mut found) {
            let passes = rule.uninspected || rule.other_protocols;
            if *finding == MatchFinding::Covers && rule.effect == RuleEffect::Allow && !passes {
                *finding = MatchFinding::OtherProtocol;
            }
        }
    }
    let first = |wanted: MatchFinding, is: &dyn Fn(&RuleSpec) -> bool| {
        rules.iter().zip(&found).position(|(rule, &finding)| finding == wanted && is(rule))
    };
    let says_no = |rule: &RuleSpec| rule.effect == RuleEffect::Deny;
    let says_yes = |rule: &RuleSpec| rule.effect == RuleEffect::Allow;
    let unseen = first(MatchFinding::Covers, &|rule| says_yes(rule) && rule.uninspected)
        .filter(|_| first(MatchFinding::Covers, &|rule| says_no(rule) && rule.hosts.is_empty()).is_none());
    let (denied, decides) = if unseen.is_some() {
        (None, unseen)
    } else if ech && tenant.ech == EchPolicy::Deny {
        (Some(Outcome::EchDenied), None)
    } else if let Some(rule) = first(MatchFinding::Covers, &says_no) {
        (Some(Outcome::DeniedByRule), Some(rule))
    } else if first(MatchFinding::CannotBeJudged, &says_no).is_some() && *asked != AskedName::Unread {
        (Some(Outcome::InvalidHostname), None)
    } else if let Some(rule) = first(MatchFinding::Covers, &says_yes) {
        (None, Some(rule))
    } else if let Some(rule) = first(MatchFinding::OtherProtocol, &says_yes) {
        (Some(Outcome::UnknownProtocol), Some(rule))
    } else if let Some(rule) = first(MatchFinding::PrivateDestination, &says_yes) {
        (Some(Outcome::DestinationPrivate), Some(rule))
    } else if matches!(asked, AskedName::Invalid(_)) {
        (Some(Outcome::InvalidHostname), None)
    } else if first(MatchFinding::NoHostname, &|rule| says_yes(rule) && out_of_place(rule, to).is_none())
        .is_some()
    {
        (Some(Outcome::NoHostname), None)
    } else {
        (Some(Outcome::NotAllowed), None)
    };
    for (at, (rule, finding)) in rules.iter().zip(&mut found).enumerate() {
        if decides == Some(at) && *finding == MatchFinding::Covers {
            *finding = MatchFinding::Decides;
        } else if unseen.is_some() && !rule.hosts.is_empty() {
            *finding = MatchFinding::NotReached;
        }
    }
    let findings = rules.iter().zip(found);
    Explanation {
        inspected: unseen.is_none(),
        rules: findings
            .map(|(rule, finding)| RuleFinding { rule: rule.label.clone(), effect: rule.effect, finding })
            .collect(),
        denied,
        rule: decides.map(|at| rules[at].label.clone()),
    }
}

/// Finding of a rule by itself: `Covers`, or the reason why it does not.
fn examine(rule: &RuleSpec, reach: &NameReach, asked: &AskedName, to: OriginalDestination) -> MatchFinding {
    let elsewhere = out_of_place(rule, to);
    if !rule.hosts.is_empty() {
        match asked {
            AskedName::Invalid(_) | AskedName::Unread
                if rule.effect == RuleEffect::Deny && elsewhere.is_none() =>
            {
                return MatchFinding::CannotBeJudged;
            }
            AskedName::Absent | AskedName::Unread => return MatchFinding::NoHostname,
            AskedName::Invalid(_) => return MatchFinding::InvalidHostname,
            AskedName::Valid(name) if !rule.hosts.iter().any(|pattern| pattern.matches(name)) => {
                return MatchFinding::OtherHostname;
            }
            AskedName::Valid(_) => {}
        }
    }
    if let Some(elsewhere) = elsewhere {
        return elsewhere;
    }
    let resolves = rule.destination == DestinationRule::Resolve;
    let name_alone = !rule.hosts.is_empty() && rule.cidrs.is_empty() && !resolves;
    if rule.effect == RuleEffect::Allow && name_alone && !reach.by_name(to.ip()) {
        return MatchFinding::PrivateDestination;
    }
    MatchFinding::Covers
}

/// Reason why a rule does not apply to the address and port; `None` if it does.
fn out_of_place(rule: &RuleSpec, to: OriginalDestination) -> Option<MatchFinding> {
    if !rule.cidrs.is_empty() && !rule.cidrs.iter().any(|&network| canonical(network).contains(&to.ip())) {
        return Some(MatchFinding::OtherAddress);
    }
    if !rule.ports.is_empty() && !rule.ports.iter().any(|range| range.contains(to.port())) {
        return Some(MatchFinding::OtherPort);
    }
    None
}
