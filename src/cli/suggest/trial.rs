//! Judges observed flows by a copy of the policy.

use super::seen::{SeenTarget, SentInstead, TargetTally};
use crate::hostname::{AskedName, NotAHostname};
use crate::outcome::Outcome;
use crate::policy::{
    ClientInspection, CompileError, FlowFacts, Inspection, Policy, PrivateNetworks, TenantRules, TenantSpec,
};
use std::sync::Arc;

pub(super) fn compile(spec: TenantSpec, private: &PrivateNetworks) -> Result<Arc<TenantRules>, CompileError> {
    let spec = TenantSpec { sources: Vec::new(), ..spec };
    Ok(Arc::clone(&Policy::compile(&[spec], private.clone())?.tenants()[0]))
}

pub(super) fn permitted(tenant: &TenantRules, what: &SeenTarget, tally: &TargetTally) -> bool {
    deny_reasons(tenant, what, tally).next().is_none()
}

/// Reasons why the rules would deny flows to the target, whatever the tenant's mode.
pub(super) fn deny_reasons(
    tenant: &TenantRules,
    what: &SeenTarget,
    tally: &TargetTally,
) -> impl Iterator<Item = Outcome> {
    let asked = |name| ClientInspection::Asked { name, ech: false, unframed: false };
    let seen = match what {
        SeenTarget::Name(name) => vec![asked(AskedName::Valid(name.clone()))],
        SeenTarget::Address(_) => {
            let of = |sent: &SentInstead| match *sent {
                SentInstead::Nothing => asked(AskedName::Absent),
                SentInstead::OtherProtocol => asked(AskedName::Unread),
                SentInstead::NoHostname => asked(AskedName::Invalid(NotAHostname::IpLiteral)),
                SentInstead::Unclear(outcome) => ClientInspection::Unclear(outcome),
            };
            tally.sent.iter().map(of).collect()
        }
    };
    let judged = move |seen: ClientInspection| {
        tenant.judge(&FlowFacts::new(tally.to, Inspection::First(&seen), tally.last)).deny_reason()
    };
    seen.into_iter().filter_map(judged)
}
