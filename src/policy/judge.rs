//! Effective decision of a policy: from the inspection's result, the rules, and the tenant's mode.

use super::decision::{Decision, Denial};
use super::tenant::TenantRules;
use crate::addr::OriginalDestination;
use crate::hostname::AskedName;
use crate::outcome::Outcome;
use jiff::Timestamp;

/// Result of inspecting a client's first bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientInspection {
    /// They were understood.
    Asked {
        /// The name, if any.
        name: AskedName,
        /// True if it offered an encrypted ClientHello.
        ech: bool,
        /// True if it is an HTTP request without a clear end, so that none after it can be judged.
        unframed: bool,
    },
    /// They were not, which is denied with this outcome.
    Unclear(Outcome),
}

impl TenantRules {
    /// Decides on an inspected flow. A denial that monitor mode waives is a permit.
    pub fn judge(&self, seen: &ClientInspection, to: OriginalDestination, now: Timestamp) -> Decision {
        let denial = match seen {
            ClientInspection::Asked { name, ech, unframed } => match self.decide(name, *ech, to) {
                Decision::Denial(denial) => denial,
                Decision::Permit(permit) if *unframed && permit.is_for_one_request() => {
                    Denial { outcome: Outcome::MalformedHttp, rule: None }
                }
                permit @ Decision::Permit(_) => return permit,
            },
            ClientInspection::Unclear(outcome) => Denial { outcome: *outcome, rule: None },
        };
        self.apply_mode(denial, to, now)
    }

    /// Decides on a flow that another policy decided by what was `seen`. `None` if these rules need an inspection that
    /// the other did not make.
    pub fn judge_as_shadow(
        &self,
        seen: Option<&ClientInspection>,
        to: OriginalDestination,
        now: Timestamp,
    ) -> Option<Decision> {
        if let Some(permit) = self.decide_unseen(to) {
            return Some(Decision::Permit(permit));
        }
        if let Some(seen) = seen {
            return Some(self.judge(seen, to, now));
        }
        // Without a name: denied for lack of one, or denied whatever the name.
        match self.decide(&AskedName::Absent, false, to) {
            Decision::Denial(denial) if denial.outcome != Outcome::NoHostname => {
                Some(self.apply_mode(denial, to, now))
            }
            Decision::Denial(_) | Decision::Permit(_) => None,
        }
    }

    /// Applies the tenant's mode to a denial: a permit, where monitor mode waives it.
    pub fn apply_mode(&self, denial: Denial, to: OriginalDestination, now: Timestamp) -> Decision {
        if !self.mode.monitors(now) {
            return Decision::Denial(denial);
        }
        denial.apply_mode(to).map_or_else(Decision::Denial, Decision::Permit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{Policy, PrivateDestinations, RuleEffect, RuleSpec, TenantMode, TenantSpec};
    use std::sync::Arc;

    fn rule(label: &str, hosts: &[&str], cidrs: &[&str]) -> RuleSpec {
        RuleSpec {
            hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
            cidrs: cidrs.iter().map(|network| network.parse().unwrap()).collect(),
            ..RuleSpec::new(label, RuleEffect::Allow)
        }
    }

    fn tenant(mode: TenantMode, rules: Vec<RuleSpec>) -> Arc<TenantRules> {
        let spec = TenantSpec {
            sources: vec!["10.0.0.0/8".parse().unwrap()],
            mode,
            rules,
            ..TenantSpec::new("t", "p")
        };
        Policy::compile(&[spec], PrivateDestinations::ByCidr).unwrap().tenants()[0].clone()
    }

    fn to(address: &str) -> OriginalDestination {
        OriginalDestination::new(address.parse().unwrap())
    }

    /// `allow`, a denial's outcome, or `unknown`.
    fn aside(tenant: &TenantRules, seen: Option<&ClientInspection>, to: OriginalDestination) -> &'static str {
        match tenant.judge_as_shadow(seen, to, Timestamp::UNIX_EPOCH) {
            None => "unknown",
            Some(Decision::Permit(_)) => "allow",
            Some(Decision::Denial(denial)) => denial.outcome.as_str(),
        }
    }

    #[test]
    fn uninspected_flow_is_judged_without_name_rules() {
        let raw = RuleSpec { uninspected: true, ..rule("raw", &[], &["198.51.100.0/25"]) };
        let mail = RuleSpec {
            effect: RuleEffect::Deny,
            ports: vec![crate::addr::PortRange::new(25, 25).unwrap()],
            ..rule("no-mail", &[], &[])
        };
        let names = RuleSpec {
            ports: vec![crate::addr::PortRange::new(443, 443).unwrap()],
            ..rule("names", &["example.com"], &[])
        };
        let heard = rule("heard", &[], &["198.51.100.128/25"]);
        let tenant = tenant(TenantMode::Enforce, vec![raw, mail, names, heard]);
        for (address, word) in [
            ("198.51.100.1:5432", "allow"),     // it would not have listened either
            ("192.0.2.1:25", "denied_by_rule"), // whatever the name
            ("192.0.2.1:80", "not_allowed"),    // no rule with names covers the port
            ("192.0.2.1:443", "unknown"),       // the name would have decided
            ("198.51.100.200:5432", "unknown"), // listening may fail
        ] {
            assert_eq!(aside(&tenant, None, to(address)), word, "{address}");
        }
        let name = AskedName::Valid("example.com".parse().unwrap());
        let seen = ClientInspection::Asked { name, ech: false, unframed: false };
        assert_eq!(aside(&tenant, Some(&seen), to("192.0.2.1:443")), "allow");
        let unclear = ClientInspection::Unclear(Outcome::InspectTimeout);
        assert_eq!(aside(&tenant, Some(&unclear), to("192.0.2.1:443")), "inspect_timeout");
        assert_eq!(aside(&tenant, Some(&unclear), to("198.51.100.1:5432")), "allow");
    }

    #[test]
    fn monitor_waives_rule_and_inspection_denials() {
        let tenant = tenant(TenantMode::Monitor { until: None }, vec![rule("names", &["example.com"], &[])]);
        let nameless = ClientInspection::Asked { name: AskedName::Absent, ech: false, unframed: false };
        for seen in [nameless, ClientInspection::Unclear(Outcome::MalformedTls)] {
            let decision = tenant.judge(&seen, to("192.0.2.1:443"), Timestamp::UNIX_EPOCH);
            let Decision::Permit(permit) = decision else { panic!("{decision:?}") };
            assert!(permit.would_deny().is_some());
            assert_eq!(
                aside(&tenant, Some(&seen), to("169.254.169.254:80")),
                match seen {
                    ClientInspection::Asked { .. } => "no_hostname",
                    ClientInspection::Unclear(outcome) => outcome.as_str(),
                }
            );
        }
    }
}
