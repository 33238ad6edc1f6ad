//! Warnings for allow rules by address that permit TLS and HTTP alone, because a deny rule matches names or the tenant
//! denies encrypted hellos, unless the rule itself sets how other protocols are treated.

use super::comparisons::Comparisons;
use super::diagnostic::{Diagnostics, SourcePosition};
use super::rule_reach::{RuleReach, common_ports};
use super::tenants::TenantDraft;
use crate::addr::PortRange;
use crate::policy::{EchPolicy, RuleEffect};
use hashbrown::{HashMap, HashSet};

/// Ports on which other protocols are rare.
const TLS_AND_HTTP: [u16; 2] = [80, 443];

/// Checks the rules of one tenant. `steered` are ascending and disjoint.
pub(super) fn check(
    tenant: &TenantDraft,
    steered: &[PortRange],
    comparisons: &Comparisons,
    out: &mut Diagnostics,
) {
    let denied = NameDenials::new(tenant, steered);
    // Most rules share addresses and ports with others.
    let mut found = HashMap::new();
    for (rule, at) in tenant.spec.rules.iter().zip(&tenant.rules_at) {
        let asks = rule.effect == RuleEffect::Allow && rule.hosts.is_empty() && !rule.uninspected;
        if !asks || at.says_protocols {
            continue;
        }
        let reach = RuleReach::of(rule).on_ports(steered);
        if tenant.spec.ech == EchPolicy::Deny && speaks_other(&reach.ports) {
            let message = "this rule lets out TLS and HTTP alone where `ech` is \"deny\": other protocols end as `unknown_protocol`";
            let help = "set `other_protocols` to \"allow\" to let them pass, or to \"auto\" if this is meant";
            out.warning(at.rule, message, help);
            continue;
        }
        let first = |reach: &RuleReach| denied.first(reach, comparisons);
        let Some(deny_at) = *found.entry(reach).or_insert_with_key(first) else { continue };
        let message = format!(
            "this rule lets out TLS and HTTP alone where the deny rule at {} goes by name: other protocols end as `unknown_protocol`",
            out.show(deny_at)
        );
        let help = "set `other_protocols` to \"allow\" to let them pass, or to \"auto\" if this is meant; or give the deny rule `ports`";
        out.warning(at.rule, message, help);
    }
}

/// Addresses and ports where deny rules go by name and other protocols are spoken, in the order of the file, each once.
struct NameDenials(Vec<(SourcePosition, RuleReach)>);

impl NameDenials {
    fn new(tenant: &TenantDraft, steered: &[PortRange]) -> Self {
        let rules = tenant.spec.rules.iter().zip(&tenant.rules_at);
        let by_name = rules.filter(|(rule, _)| rule.effect == RuleEffect::Deny && !rule.hosts.is_empty());
        let (mut known, mut denied) = (HashSet::new(), Vec::new());
        for (rule, at) in by_name {
            let reach = RuleReach::of(rule).on_ports(steered);
            if speaks_other(&reach.ports) && known.insert(reach.clone()) {
                denied.push((at.rule, reach));
            }
        }
        Self(denied)
    }

    /// The first that has an address in common with an allow rule, and a port that other protocols use.
    fn first(&self, allow: &RuleReach, comparisons: &Comparisons) -> Option<SourcePosition> {
        let meets = |(_, deny): &&(SourcePosition, RuleReach)| {
            let mut ranges = allow.ports.iter().chain(&deny.ports);
            allow.meets(deny, comparisons)
                && ranges.all(|_| comparisons.take())
                && speaks_other(&common_ports(&allow.ports, &deny.ports))
        };
        self.0.iter().take_while(|_| !comparisons.were_too_few()).find(meets).map(|(at, _)| *at)
    }
}

fn speaks_other(ports: &[PortRange]) -> bool {
    ports.iter().any(|range| (range.first()..=range.last()).any(|port| !TLS_AND_HTTP.contains(&port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_ports_count_as_comparisons() {
        let range = |port: u16| PortRange::new(port, port).unwrap();
        let networks = vec!["192.0.2.0/24".parse().unwrap()];
        let reach = |first: u16| RuleReach {
            networks: networks.clone(),
            ports: (0..1000).map(|n| range(first + 4 * n)).collect(),
        };
        let denied = NameDenials(vec![(SourcePosition::default(), reach(5000)); 100]);
        let comparisons = Comparisons::new(10_000);
        assert!(denied.first(&reach(5001), &comparisons).is_none() && comparisons.were_too_few());
        assert!(denied.first(&reach(5000), &Comparisons::new(10_000)).is_some());
    }
}
