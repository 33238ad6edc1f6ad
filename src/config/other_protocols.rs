//! Warnings for allow rules by address that permit TLS and HTTP alone, because a deny rule matches names or the tenant
//! denies encrypted hellos, unless the rule itself sets how other protocols are treated.

use super::SteeringPorts;
use super::diagnostic::Diagnostics;
use super::tenants::TenantDraft;
use crate::addr::PortRange;
use crate::policy::{EchPolicy, RuleEffect, RuleSpec};
use hashbrown::HashMap;
use ipnet::IpNet;

/// Ports on which other protocols are rare.
const TLS_AND_HTTP: [u16; 2] = [80, 443];

/// Checks the rules of one tenant.
pub(super) fn check(tenant: &TenantDraft, steered: &SteeringPorts, out: &mut Diagnostics) {
    let rules = || tenant.spec.rules.iter().zip(&tenant.rules_at);
    // One warning per place, for any number of rules.
    let mut places = HashMap::new();
    for (deny, at) in rules().filter(|(rule, _)| rule.effect == RuleEffect::Deny && !rule.hosts.is_empty()) {
        places.entry((&deny.cidrs[..], &deny.ports[..])).or_insert((deny, at.rule));
    }
    let everywhere = RuleSpec::new("", RuleEffect::Deny);
    for (rule, at) in rules() {
        let asks = rule.effect == RuleEffect::Allow && rule.hosts.is_empty() && !rule.uninspected;
        if !asks || at.says_protocols {
            continue;
        }
        if tenant.spec.ech == EchPolicy::Deny && meet(rule, &everywhere, steered) {
            let message = "this rule lets out TLS and HTTP alone where `ech` is \"deny\": other protocols end as `unknown_protocol`";
            let help = "set `other_protocols` to \"allow\" to let them pass, or to \"auto\" if this is meant";
            out.warning(at.rule, message, help);
            continue;
        }
        let meeting = places.values().filter(|(deny, _)| meet(rule, deny, steered));
        // The first in the file, so that results are deterministic.
        let Some(deny_at) = meeting.map(|(_, deny_at)| *deny_at).min() else { continue };
        let message = format!(
            "this rule lets out TLS and HTTP alone where the deny rule at {} goes by name: other protocols end as `unknown_protocol`",
            out.show(deny_at)
        );
        let help = "set `other_protocols` to \"allow\" to let them pass, or to \"auto\" if this is meant; or give the deny rule `ports`";
        out.warning(at.rule, message, help);
    }
}

/// True if both rules cover an address and a port that other protocols use.
fn meet(allow: &RuleSpec, deny: &RuleSpec, steered: &SteeringPorts) -> bool {
    let nested = |one: &IpNet, other: &IpNet| one.contains(other) || other.contains(one);
    let networks = deny.cidrs.is_empty()
        || allow.cidrs.is_empty()
        || allow.cidrs.iter().any(|one| deny.cidrs.iter().any(|other| nested(one, other)));
    let all = Vec::from_iter(PortRange::new(1, u16::MAX));
    let ports = |listed: &[PortRange]| if listed.is_empty() { all.clone() } else { listed.to_vec() };
    let steered = match steered {
        SteeringPorts::All => all.clone(),
        SteeringPorts::Listed(listed) => listed.clone(),
    };
    let mut common = ports(&allow.ports);
    for others in [&ports(&deny.ports), &steered] {
        common = common.iter().flat_map(|one| others.iter().filter_map(|other| both(*one, *other))).collect();
    }
    let speaks_other =
        |range: &PortRange| (range.first()..=range.last()).any(|port| !TLS_AND_HTTP.contains(&port));
    networks && common.iter().any(speaks_other)
}

/// Returns the intersection of two port ranges.
fn both(one: PortRange, other: PortRange) -> Option<PortRange> {
    PortRange::new(one.first().max(other.first()), one.last().min(other.last()))
}
