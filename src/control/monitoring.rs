//! Reports the end of a tenant's monitor mode at `monitor_until`.

use super::audit::Auditor;
use super::last_good::write;
use crate::audit::{Originator, What};
use crate::clock;
use crate::files;
use crate::policy::{Policy, TenantMode};
use jiff::Timestamp;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// File of the state directory with the latest `monitor_until` that has come.
const FILE: &str = "monitor-ended";

/// Checks the clock each second, for the logs, and so that a date that has come stays past: flows check the time themselves, and
/// are not to believe a clock that was set back.
pub(crate) struct MonitoringLog {
    looked: Timestamp,
    /// The latest `monitor_until` that has come.
    reached: Option<Timestamp>,
    /// True once the log says that the clock was set back.
    told: bool,
    file: Option<PathBuf>,
}

impl MonitoringLog {
    /// Goes by what the state directory says, if there is one.
    pub(crate) fn open(state: Option<&Path>, now: Timestamp) -> Self {
        let reached = state.and_then(last_monitor_end);
        if let Some(date) = reached {
            clock::note_reached(date);
        }
        let looked = reached.map_or(now, |date| date.max(now));
        Self { looked, reached, told: false, file: state.map(|folder| folder.join(FILE)) }
    }

    pub(crate) fn watch(&mut self, policy: &Policy, now: Timestamp, auditor: &Auditor) {
        let date = last_come(policy, now).filter(|date| self.reached.is_none_or(|reached| reached < *date));
        if let Some(date) = date {
            self.reached = Some(date);
            clock::note_reached(date);
            self.keep(date);
        }
        let time = self.reached.map_or(now, |reached| reached.max(now));
        for tenant in ended(policy, self.looked, time) {
            tracing::warn!(%tenant, "`monitor_until` has come: the tenant enforces from now on");
            auditor.noted(What::MonitorEnd, Originator::Gateway, tenant.to_string(), Ok(()));
        }
        let set_back: Vec<_> = ended(policy, now, time).map(|tenant| &**tenant).collect();
        if !set_back.is_empty() && !self.told {
            tracing::warn!(
                tenants = set_back.join(", "),
                "the clock was set back before a `monitor_until` that has come: these tenants go on enforcing; correct the clock, \
                 or set a later `monitor_until`"
            );
        }
        self.told = !set_back.is_empty();
        self.looked = time;
    }

    fn keep(&self, date: Timestamp) {
        let Some(file) = &self.file else { return };
        if let Err(error) = write(file, date.to_string().as_bytes()) {
            tracing::error!(
                %error,
                "cannot keep the date in {}: a restart with a clock that was set back would monitor again",
                file.display()
            );
        }
    }
}

/// The latest `monitor_until` that has come, as the state directory has it.
pub fn last_monitor_end(state: &Path) -> Option<Timestamp> {
    let text = files::read(&state.join(FILE), files::TEXT).ok()?;
    String::from_utf8(text).ok()?.trim().parse().ok()
}

/// The latest `monitor_until` that is past.
fn last_come(policy: &Policy, now: Timestamp) -> Option<Timestamp> {
    let dates = policy.tenants().iter().filter_map(|tenant| match tenant.mode {
        TenantMode::Monitor { until } => until,
        TenantMode::Enforce => None,
    });
    dates.filter(|date| *date <= now).max()
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
        assert_eq!(
            (last_come(&policy, date - second), last_come(&policy, date + second)),
            (None, Some(date))
        );
    }

    #[test]
    fn ended_monitoring_outlives_a_restart() {
        let state = tempfile::tempdir().unwrap();
        // Long past: what is noted counts for the whole process.
        let date: Timestamp = "2001-01-01T00:00:00Z".parse().unwrap();
        let hour = jiff::SignedDuration::from_hours(1);
        let log = MonitoringLog::open(Some(state.path()), date - hour);
        assert_eq!((log.reached, log.looked), (None, date - hour));
        log.keep(date);
        let log = MonitoringLog::open(Some(state.path()), date - hour);
        assert_eq!((log.reached, log.looked), (Some(date), date));
        std::fs::write(state.path().join(FILE), "soon").unwrap();
        assert_eq!(MonitoringLog::open(Some(state.path()), date).reached, None);
    }
}
