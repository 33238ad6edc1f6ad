//! Explains rule by rule why a flow may leave or not.

use super::{CompiledRule, RequiredInspection, RuleScope, TenantRules};
use crate::addr::OriginalDestination;
use crate::hostname::AskedName;
use crate::outcome::Outcome;
use crate::policy::{Denial, RuleEffect};
use std::sync::Arc;

/// Findings of all rules of a tenant on one flow, and the decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// True if the flow is inspected before the decision.
    pub inspected: bool,
    /// All rules in the order of the file.
    pub rules: Vec<RuleFinding>,
    /// Reason for the denial; `None` if permitted.
    pub denied: Option<Outcome>,
    /// Rule that decides, if one does.
    pub rule: Option<Arc<str>>,
}

/// Finding of one rule on the flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleFinding {
    /// The rule's label.
    pub rule: Arc<str>,
    /// Allow or deny.
    pub effect: RuleEffect,
    /// The finding.
    pub finding: MatchFinding,
}

/// Reason why a rule covers a flow or not. Hosts are tested before networks, networks before ports; the first that does
/// not match is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatchFinding {
    /// It covers the flow and decides.
    Decides,
    /// It covers the flow, and another rule decides.
    Covers,
    /// It matches by name, and the flow is let out before a name is read.
    NotReached,
    /// It matches by name, and the client sent none.
    NoHostname,
    /// It matches by name, and what the client sent is no hostname.
    InvalidHostname,
    /// It denies by name, and the client sent no valid hostname, or speaks a protocol in which none is read: the rule
    /// might be meant for this flow.
    CannotBeJudged,
    /// It allows only TLS and HTTP, because a deny rule matches by name here or encrypted hellos are denied, and this is
    /// neither.
    OtherProtocol,
    /// None of its hosts is the name asked for.
    OtherHostname,
    /// None of its networks contains the address.
    OtherAddress,
    /// None of its ports is the one dialled.
    OtherPort,
    /// It matches by name alone, and the address is not public.
    PrivateDestination,
}

impl MatchFinding {
    /// Identifier for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Decides => "decides",
            Self::Covers => "covers",
            Self::NotReached => "not_reached",
            Self::NoHostname => "no_hostname",
            Self::InvalidHostname => "invalid_hostname",
            Self::CannotBeJudged => "cannot_be_judged",
            Self::OtherProtocol => "other_protocol",
            Self::OtherHostname => "other_hostname",
            Self::OtherAddress => "other_address",
            Self::OtherPort => "other_port",
            Self::PrivateDestination => "private_destination",
        }
    }

    /// Clause for people, to follow the rule's label.
    pub fn text(self) -> &'static str {
        match self {
            Self::Decides => "covers the flow and decides",
            Self::Covers => "covers the flow, but another rule decides",
            Self::NotReached => "not reached: the flow leaves before a name is read",
            Self::NoHostname => "goes by name, and there is none",
            Self::InvalidHostname => "goes by name, and this is no hostname",
            Self::CannotBeJudged => "denies by name, and no hostname can be read: it might be meant",
            Self::OtherProtocol => {
                "allows TLS and HTTP alone, for a deny rule goes by name here, or `ech` is \"deny\""
            }
            Self::OtherHostname => "no: another hostname",
            Self::OtherAddress => "no: another address",
            Self::OtherPort => "no: another port",
            Self::PrivateDestination => "allows the name, but not an address that is not public",
        }
    }
}

impl TenantRules {
    /// Evaluates every rule on the flow, and the decision.
    pub fn explain(&self, asked: &AskedName, ech: bool, to: OriginalDestination) -> Explanation {
        let rules = &self.rules;
        let mut named = vec![false; rules.ranked.len()];
        if let AskedName::Valid(name) = asked {
            rules.by_name.each_covering(name, |chain| {
                rules.chains.iter(chain).for_each(|rank| named[rank as usize] = true);
            });
        }
        let mut found: Vec<(u32, RuleFinding)> = Vec::with_capacity(rules.ranked.len());
        for (rank, (rule, named)) in (0..).zip(rules.ranked.iter().zip(named)) {
            let effect = if rank < rules.denies { RuleEffect::Deny } else { RuleEffect::Allow };
            let finding = self.examine(rule, effect, named, asked, to);
            found.push((rule.order, RuleFinding { rule: Arc::clone(&rule.label), effect, finding }));
        }
        let uninspected = self.decide_unseen(to);
        let inspected = uninspected.is_none();
        let verdict = uninspected.map_or_else(|| self.decide(asked, ech, to), Ok);
        let (denied, rule) = match verdict {
            Ok(permit) => (None, permit.rule().cloned()),
            Err(Denial { outcome, rule }) => (Some(outcome), rule),
        };
        for ((_, finding), of) in found.iter_mut().zip(&rules.ranked) {
            let decides = rule.as_ref().is_some_and(|rule| Arc::ptr_eq(rule, &of.label));
            if decides && finding.finding == MatchFinding::Covers {
                finding.finding = MatchFinding::Decides;
            } else if !inspected && of.named {
                finding.finding = MatchFinding::NotReached;
            }
        }
        found.sort_unstable_by_key(|(order, _)| *order);
        Explanation { inspected, rules: found.into_iter().map(|(_, rule)| rule).collect(), denied, rule }
    }

    /// Finding of a rule by itself: `Covers`, or the reason why it does not. `named`: it has a pattern for the name.
    fn examine(
        &self,
        rule: &CompiledRule,
        effect: RuleEffect,
        named: bool,
        asked: &AskedName,
        to: OriginalDestination,
    ) -> MatchFinding {
        let elsewhere = rule.place.misses(to);
        if rule.named {
            match asked {
                AskedName::Invalid(_) | AskedName::Unread
                    if effect == RuleEffect::Deny && elsewhere.is_none() =>
                {
                    return MatchFinding::CannotBeJudged;
                }
                AskedName::Absent | AskedName::Unread => return MatchFinding::NoHostname,
                AskedName::Invalid(_) => return MatchFinding::InvalidHostname,
                AskedName::Valid(_) if !named => return MatchFinding::OtherHostname,
                AskedName::Valid(_) => {}
            }
        }
        if let Some(elsewhere) = elsewhere {
            return elsewhere;
        }
        if effect == RuleEffect::Allow
            && rule.inspects == RequiredInspection::Protocols
            && self.rules.needs_name(asked, to)
        {
            return MatchFinding::OtherProtocol;
        }
        if effect == RuleEffect::Allow && rule.trusts_client_address() && !self.rules.reach.by_name(to.ip()) {
            return MatchFinding::PrivateDestination;
        }
        MatchFinding::Covers
    }
}

impl RuleScope {
    /// Reason why it does not cover the flow's address and port; `None` if it does.
    fn misses(&self, to: OriginalDestination) -> Option<MatchFinding> {
        if !self.has_address(to.ip()) {
            Some(MatchFinding::OtherAddress)
        } else if !self.has_port(to.port()) {
            Some(MatchFinding::OtherPort)
        } else {
            None
        }
    }
}
