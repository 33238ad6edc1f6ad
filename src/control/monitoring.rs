//! Reports the end of a tenant's monitor mode at `monitor_until`.

use super::audit::Auditor;
use crate::audit::{Originator, What};
use crate::policy::{Policy, TenantMode};
use jiff::Timestamp;
use std::sync::Arc;

/// Checks the clock each second, for the logs only: flows check it themselves.
pub(crate) struct MonitoringLog {
    looked: Timestamp,
}

impl MonitoringLog {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self { looked: now }
    }

    pub(crate) fn watch(&mut self, policy: &Policy, now: Timestamp, auditor: &Auditor) {
        for tenant in ended(policy, self.looked, now) {
            tracing::warn!(%tenant, "`monitor_until` has come: the tenant enforces from now on");
            auditor.noted(What::MonitorEnd, Originator::Gateway, tenant.to_string(), Ok(()));
        }
        self.looked = now;
    }
}

/// Returns the tenants in monitor mode at `then` and not at `now`.
fn ended(policy: &Policy, then: Timestamp, now: Timestamp) -> impl Iterator<Item = &Arc<str>> {
    let over = move |mode: TenantMode| mode.monitors(then) && !mode.monitors(now);
    policy.tenants().iter().filter(move |tenant| over(tenant.mode)).map(|tenant| &tenant.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{PrivateDestinations, TenantSpec};

    #[test]
    fn end_of_monitoring_is_reported_once() {
        let date: Timestamp = "2026-12-31T00:00:00Z".parse().unwrap();
        let spec = |name: &str, source: &str, mode| TenantSpec {
            sources: vec![source.parse().unwrap()],
            mode,
            ..TenantSpec::new(name, "p")
        };
        let tenants = [
            spec("dated", "10.0.1.0/24", TenantMode::Monitor { until: Some(date) }),
            spec("open", "10.0.2.0/24", TenantMode::Monitor { until: None }),
            spec("enforces", "10.0.3.0/24", TenantMode::Enforce),
        ];
        let policy = Policy::compile(&tenants, PrivateDestinations::ByCidr).unwrap();
        let second = jiff::SignedDuration::from_secs(1);
        let told = |then, now| ended(&policy, then, now).map(ToString::to_string).collect::<Vec<_>>();
        assert!(told(date - second * 2, date - second).is_empty());
        assert_eq!(told(date - second, date), ["dated"]);
        assert!(told(date, date + second).is_empty());
    }
}
