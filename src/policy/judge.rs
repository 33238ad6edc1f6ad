//! The judge: decides about a flow by all that is known of it.
//!
//! Everything that decides asks [`TenantRules::judge`]: for a client's first bytes, later requests, the results of checks,
//! a reload, a candidate, `egret explain`, policy tests, suggestions. Each states facts, and acts on the judgement.

use super::DestinationRule;
use super::decision::{Denial, Judgement, Permit};
use super::facts::{ClientInspection, FlowFacts, Inspection};
use super::tenant::TenantRules;
use crate::addr::{DialAddr, OriginalDestination};
use crate::hostname::AskedName;
use crate::outcome::Outcome;

impl TenantRules {
    /// Judges a flow. A denial that monitor mode waives is a permit for the address that the flow goes to anyway.
    ///
    /// Where the name was resolved to another address than the client dialled, the rules have to allow both.
    pub fn judge(&self, facts: &FlowFacts<'_>) -> Judgement {
        let judgement = self.judge_at(facts.dialled, facts);
        match (judgement, facts.reached) {
            (Judgement::Permit { permit, .. }, Some(reached)) => self.judge_reached(&permit, reached, facts),
            (judgement, _) => judgement,
        }
    }

    /// Judges a flow as one to this address.
    fn judge_at(&self, to: OriginalDestination, facts: &FlowFacts<'_>) -> Judgement {
        let unseen = || self.decide_unseen(to);
        let decided = match facts.inspection {
            Inspection::Pending => match unseen() {
                Some(permit) => Ok(permit),
                None => return Judgement::NeedsInspection,
            },
            Inspection::Skipped => match unseen().map(Ok).or_else(|| self.decide_nameless(to)) {
                Some(decided) => decided,
                None => return Judgement::NeedsInspection,
            },
            Inspection::First(seen) => unseen().map_or_else(|| self.decide_inspected(seen, to), Ok),
            Inspection::LaterRequest { name, first, bound } => self.decide_later(name, first, bound, to),
            Inspection::Violation(outcome) => Err(Denial { outcome, rule: None }),
        };
        self.conclude(decided, to, facts)
    }

    /// Judges a flow that is permitted where its client dialled, for the address that it goes to instead.
    fn judge_reached(&self, permit: &Permit, reached: DialAddr, facts: &FlowFacts<'_>) -> Judgement {
        // As if the client had dialled it.
        let to = OriginalDestination::from(reached);
        let (DestinationRule::Resolve, Inspection::First(ClientInspection::Asked { name, .. })) =
            (permit.destination(), facts.inspection)
        else {
            return self.judge_at(to, facts);
        };
        let redirected = self.redirect(permit, name, to);
        self.conclude(redirected.map_err(|outcome| Denial { outcome, rule: None }), to, facts)
    }

    /// Denies a flow that would be denied whatever its name; `None` if the name matters.
    fn decide_nameless(&self, to: OriginalDestination) -> Option<Result<Permit, Denial>> {
        let denial = self.decide(&AskedName::Absent, false, to).err()?;
        (denial.outcome != Outcome::NoHostname).then_some(Err(denial))
    }

    fn decide_inspected(&self, seen: &ClientInspection, to: OriginalDestination) -> Result<Permit, Denial> {
        match seen {
            ClientInspection::Asked { name, ech, unframed } => {
                let permit = self.decide(name, *ech, to)?;
                if *unframed && permit.is_for_one_request() {
                    return Err(Denial { outcome: Outcome::MalformedHttp, rule: None });
                }
                Ok(permit)
            }
            ClientInspection::Unclear(outcome) => Err(Denial { outcome: *outcome, rule: None }),
        }
    }

    /// Decides about a later request: an address that counts for the one name alone was not checked for another.
    fn decide_later(
        &self,
        name: &AskedName,
        first: &AskedName,
        bound: Option<bool>,
        to: OriginalDestination,
    ) -> Result<Permit, Denial> {
        let permit = self.decide(name, false, to)?;
        let is_bound = || {
            let by_first = || self.decide(first, false, to).is_ok_and(|first| first.binds_address());
            permit.binds_address() || bound.unwrap_or_else(by_first)
        };
        if name != first && is_bound() {
            return Err(Denial { outcome: Outcome::DestinationMismatch, rule: permit.rule().cloned() });
        }
        Ok(permit)
    }

    /// Applies the checks' results, then the tenant's mode.
    fn conclude(
        &self,
        decided: Result<Permit, Denial>,
        to: OriginalDestination,
        facts: &FlowFacts<'_>,
    ) -> Judgement {
        let checked = decided.and_then(|permit| match facts.checks.failed {
            Some(failed) if permit.is_stopped_by(failed) => {
                Err(Denial { outcome: failed.outcome(), rule: permit.rule().cloned() })
            }
            Some(_) | None => Ok(permit),
        });
        let in_mode = match checked {
            Err(denial) if self.mode.monitors(facts.now) => denial.apply_mode(to),
            checked => checked,
        };
        match in_mode {
            Ok(permit) => {
                Judgement::Permit { needs: permit.required_checks().without(facts.checks.passed), permit }
            }
            Err(denial) => Judgement::Deny(denial),
        }
    }
}
