//! Rules by address, for flows without a name.

use super::seen::{SeenTarget, TargetTally};
use super::trial::{compile, deny_reasons};
use super::unsuggested::UnsuggestedTarget;
use crate::outcome::Outcome;
use crate::policy::{CompileError, PrivateNetworks, RuleEffect, RuleSpec, TenantRules, TenantSpec};
use jiff::Timestamp;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Addresses dialled without a name on one port.
#[derive(Debug, Serialize)]
pub(super) struct AddressRule {
    pub(super) port: u16,
    /// True if it needs `other_protocols = "allow"`: its flows are neither TLS nor HTTP, and a deny rule goes by name, or
    /// encrypted hellos are denied.
    pub(super) other_protocols: bool,
    /// True if it needs `inspect = "none"`: clients sent nothing until the deadline.
    pub(super) uninspected: bool,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) flows: u64,
    pub(super) last: Timestamp,
}

/// The key that a rule by address needs to let a target out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum NeededKey {
    Bare,
    OtherProtocols,
    Uninspected,
}

/// Targets without a name that passed.
#[derive(Default)]
pub(super) struct NamelessTargets {
    pub(super) rules: Vec<AddressRule>,
    /// Denied by a deny rule now.
    pub(super) denied_now: Vec<UnsuggestedTarget>,
    /// Denied whatever a rule by address says.
    pub(super) beyond_rules: Vec<UnsuggestedTarget>,
}

impl NamelessTargets {
    /// Tests each target with a rule for every address.
    pub(super) fn new(
        seen: Vec<(IpAddr, u16, TargetTally)>,
        spec: &TenantSpec,
        private: &PrivateNetworks,
    ) -> Result<Self, CompileError> {
        let trial = |key| compile(everywhere(spec, key), private);
        let [bare, uninspected] = [trial(NeededKey::Bare)?, trial(NeededKey::Uninspected)?];
        let mut targets = Self::default();
        let mut rules: BTreeMap<(u16, NeededKey), AddressRule> = BTreeMap::new();
        for (address, port, tally) in seen {
            let what = SeenTarget::Address(address);
            let key = match needed_key(&bare, &uninspected, &what, &tally) {
                Ok(key) => key,
                Err(Outcome::DeniedByRule) => {
                    targets.denied_now.push(UnsuggestedTarget::new(what, port, &tally));
                    continue;
                }
                Err(_) => {
                    targets.beyond_rules.push(UnsuggestedTarget::new(what, port, &tally));
                    continue;
                }
            };
            let rule = rules.entry((port, key)).or_insert_with(|| AddressRule {
                port,
                other_protocols: key == NeededKey::OtherProtocols,
                uninspected: key == NeededKey::Uninspected,
                addresses: Vec::new(),
                flows: 0,
                last: tally.last,
            });
            rule.addresses.push(address);
            rule.flows += tally.flows;
            rule.last = rule.last.max(tally.last);
        }
        targets.rules = rules.into_values().collect();
        Ok(targets)
    }
}

/// The tenant with an allow rule for every address.
fn everywhere(spec: &TenantSpec, key: NeededKey) -> TenantSpec {
    let mut spec = spec.clone();
    let uninspected = key == NeededKey::Uninspected;
    spec.rules.push(RuleSpec { uninspected, ..RuleSpec::new("everywhere", RuleEffect::Allow) });
    spec
}

/// The key with which a rule by address lets all flows of the target out. The error is a denial that stays.
fn needed_key(
    bare: &Arc<TenantRules>,
    uninspected: &Arc<TenantRules>,
    what: &SeenTarget,
    tally: &TargetTally,
) -> Result<NeededKey, Outcome> {
    let mut key = NeededKey::Bare;
    for denied in deny_reasons(bare, what, tally) {
        key = key.max(if denied == Outcome::UnknownProtocol {
            NeededKey::OtherProtocols
        } else if denied == Outcome::InspectTimeout {
            NeededKey::Uninspected
        } else {
            return Err(denied);
        });
    }
    match deny_reasons(uninspected, what, tally).next() {
        Some(denied) if key == NeededKey::Uninspected => Err(denied),
        _ => Ok(key),
    }
}
