//! Enforce and monitor mode of a tenant.

use jiff::Timestamp;
use serde::Serialize;

/// Treatment of denials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub enum TenantMode {
    /// The flow is refused.
    #[default]
    Enforce,
    /// The flow is let out, and the denial is recorded.
    Monitor {
        /// Time from which on the tenant enforces; `None`: not before the configuration says so.
        until: Option<Timestamp>,
    },
}

impl TenantMode {
    /// True if denials are only recorded at this time.
    pub fn monitors(self, now: Timestamp) -> bool {
        match self {
            Self::Enforce => false,
            Self::Monitor { until } => until.is_none_or(|until| now < until),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monitoring_lasts_until_the_date() {
        let date: Timestamp = "2026-12-31T00:00:00Z".parse().unwrap();
        let (before, after) = (date - jiff::SignedDuration::from_nanos(1), date);
        let mode = TenantMode::Monitor { until: Some(date) };
        assert!(mode.monitors(before) && !mode.monitors(after));
        assert!(TenantMode::Monitor { until: None }.monitors(Timestamp::MAX));
        assert!(!TenantMode::Enforce.monitors(Timestamp::MIN));
    }
}
