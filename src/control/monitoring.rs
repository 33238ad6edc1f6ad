//! Reports the end of a tenant's monitor mode at `monitor_until`.

use super::audit::Auditor;
use super::last_good::write;
use crate::audit::{Originator, What};
use crate::clock;
use crate::files;
use crate::policy::{Policy, TenantMode};
use crate::telemetry::StandingProblem;
use jiff::Timestamp;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// File of the state directory with the latest `monitor_until` that has come.
const FILE: &str = "monitor-ended";
/// Time between two attempts to write it.
const PAUSE: Duration = Duration::from_secs(60);

/// Checks the clock each second, for the logs, and so that a date that has come stays past: flows check the time themselves, and
/// are not to believe a clock that was set back.
pub(crate) struct MonitoringLog {
    looked: Timestamp,
    /// The latest `monitor_until` that has come.
    reached: Option<Timestamp>,
    /// True once the log says that the clock was set back.
    told: bool,
    file: Option<PathBuf>,
    /// Time of the last attempt to keep `reached`, if it has failed.
    unkept: Option<Instant>,
    problem: StandingProblem,
}

impl MonitoringLog {
    /// Goes by what the state directory says, if there is one.
    pub(crate) fn open(state: Option<&Path>, now: Timestamp) -> Self {
        let (reached, problem) = (state.map_or(Ok(None), last_monitor_end), StandingProblem::default());
        let reached = reached.unwrap_or_else(|error| {
            let why = format!(
                "{error}; remove the file, or let the gateway's user read it, then restart the gateway"
            );
            problem.set(Some(unknown_end(&why)));
            None
        });
        if let Some(date) = reached {
            clock::note_reached(date);
        }
        let looked = reached.map_or(now, |date| date.max(now));
        let file = state.map(|folder| folder.join(FILE));
        Self { looked, reached, told: false, file, unkept: None, problem }
    }

    /// The reason why a restart would not know that a date has come.
    pub(crate) fn problem(&self) -> StandingProblem {
        self.problem.clone()
    }

    pub(crate) fn watch(&mut self, policy: &Policy, now: Timestamp, auditor: &Auditor) {
        let date = last_come(policy, now).filter(|date| self.reached.is_none_or(|reached| reached < *date));
        if let Some(date) = date {
            self.reached = Some(date);
            clock::note_reached(date);
            self.keep(clock::now());
        } else {
            self.keep_again(clock::now());
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

    /// Tries again, in time, what has failed.
    fn keep_again(&mut self, now: Instant) {
        if self.unkept.is_some_and(|tried| now.saturating_duration_since(tried) >= PAUSE) {
            self.keep(now);
        }
    }

    /// Writes the latest date to the state directory.
    fn keep(&mut self, now: Instant) {
        let Some((file, date)) = self.file.as_ref().zip(self.reached) else { return };
        let kept = write(file, date.to_string().as_bytes());
        let problem = kept.err().map(|error| {
            let file = file.display();
            unknown_end(&format!("cannot write {file}: {error}; it is tried again each minute"))
        });
        if let Some(problem) = problem.as_ref().filter(|_| self.unkept.is_none()) {
            tracing::error!("{problem}");
        }
        self.unkept = problem.is_some().then_some(now);
        self.problem.set(problem);
    }
}

/// Text about a date that a restart will not know, or did not.
fn unknown_end(why: &str) -> String {
    format!(
        "a restart with a clock that was set back monitors again after a `monitor_until` that has come: {why}"
    )
}

/// The latest `monitor_until` that has come, as the state directory has it; `None` if none has. An error names the file.
pub fn last_monitor_end(state: &Path) -> io::Result<Option<Timestamp>> {
    let file = state.join(FILE);
    let damaged = |error: jiff::Error| io::Error::new(io::ErrorKind::InvalidData, error);
    let date = files::read_text(&file, files::TEXT).and_then(|text| text.trim().parse().map_err(damaged));
    match date {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io::Error::new(error.kind(), format!("cannot read {}: {error}", file.display()))),
        Ok(date) => Ok(Some(date)),
    }
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
        let mut log = MonitoringLog::open(Some(state.path()), date - hour);
        assert_eq!((log.reached, log.looked), (None, date - hour));
        log.reached = Some(date);
        log.keep(clock::now());
        let log = MonitoringLog::open(Some(state.path()), date - hour);
        assert_eq!((log.reached, log.looked, log.problem().reason()), (Some(date), date, None));
        std::fs::write(state.path().join(FILE), "soon").unwrap();
        let mut log = MonitoringLog::open(Some(state.path()), date);
        assert_eq!(log.reached, None);
        assert!(log.problem().reason().is_some_and(|why| why.contains("cannot read")));
        log.reached = Some(date);
        log.keep(clock::now());
        assert_eq!(log.problem().reason(), None, "it is whole again");
    }

    #[test]
    fn unkept_date_is_written_later() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let date: Timestamp = "2001-01-01T00:00:00Z".parse().unwrap();
        let (mut log, start) = (MonitoringLog::open(Some(&state), date), clock::now());
        log.reached = Some(date);
        log.keep(start);
        assert!(log.problem().reason().is_some_and(|why| why.contains("cannot write")));
        std::fs::create_dir(&state).unwrap();
        log.keep_again(start + PAUSE / 2);
        assert!(log.problem().reason().is_some());
        log.keep_again(start + PAUSE);
        assert_eq!((log.problem().reason(), last_monitor_end(&state).unwrap()), (None, Some(date)));
    }
}
