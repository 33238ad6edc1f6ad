//! Audit records of changes to the gateway, each with the configuration in force at the time.

use super::active_config::ActiveConfig;
use crate::audit::{AuditRecord, ConfigDifference, Originator, Verdict, What};
use crate::clock;
use crate::telemetry::AuditLog;
use std::sync::Arc;

/// New state of a candidate, for its audit record.
pub(crate) struct AuditedCandidate {
    /// Hash that its configuration will have.
    pub(crate) version: Arc<str>,
    /// Percentage of clients that it is enforced for.
    pub(crate) percent: u8,
    /// Live flows reset by the change.
    pub(crate) revoked: u64,
}

/// Handle for writing audit records.
#[derive(Clone)]
pub(crate) struct Auditor {
    log: AuditLog,
    in_force: Arc<ActiveConfig>,
}

impl Auditor {
    pub(crate) fn new(log: AuditLog, in_force: Arc<ActiveConfig>) -> Self {
        Self { log, in_force }
    }

    /// Records the start of the gateway.
    pub(crate) fn started(&self) {
        let fallback = self.in_force.fallback();
        let what = if fallback.is_some() { What::StartFallback } else { What::Start };
        let subject = fallback.map(|fallback| fallback.why.to_string());
        self.log.record(AuditRecord {
            subject,
            config_before: None,
            ..self.change(what, Originator::Gateway)
        });
    }

    /// Records an action on `subject` that leaves the configuration unchanged, or the reason why it was refused.
    pub(crate) fn noted(&self, what: What, by: Originator, subject: String, result: Result<(), String>) {
        let change = AuditRecord { subject: Some(subject), ..self.change(what, by) };
        self.log.record(match result {
            Ok(()) => change,
            Err(why) => refused(change, why),
        });
    }

    /// Records a change of the candidate that was loaded from `subject`.
    pub(crate) fn candidate(
        &self,
        what: What,
        by: Originator,
        subject: String,
        enforced: AuditedCandidate,
        difference: Option<ConfigDifference>,
    ) {
        let AuditedCandidate { version, percent, revoked } = enforced;
        let (subject, candidate, percent) = (Some(subject), Some(version), Some(percent));
        let change = self.change(what, by);
        self.log.record(AuditRecord { subject, difference, candidate, percent, revoked, ..change });
    }

    /// Records the replacement of the configuration `before`, with the number of live flows reset by it, or the reason
    /// why it was refused.
    pub(crate) fn exchanged(
        &self,
        what: What,
        by: Originator,
        before: &Arc<str>,
        result: Result<(ConfigDifference, u64), String>,
    ) {
        let change = AuditRecord { config_before: Some(Arc::clone(before)), ..self.change(what, by) };
        self.log.record(match result {
            Ok((difference, revoked)) => AuditRecord { difference: Some(difference), revoked, ..change },
            Err(why) => refused(change, why),
        });
    }

    /// Reopens the log file.
    pub(crate) fn reopen(&self) {
        self.log.reopen();
    }

    /// Waits until all records are written. Returns false on failure.
    pub(crate) fn flush(&self) -> bool {
        self.log.flush()
    }

    /// Template of a record: made now, with nothing changed.
    fn change(&self, change: What, by: Originator) -> AuditRecord {
        let version = &self.in_force.current().version;
        AuditRecord {
            time: clock::timestamp(),
            change,
            by,
            subject: None,
            result: Verdict::Done,
            why: None,
            config_before: Some(Arc::clone(version)),
            config_after: Arc::clone(version),
            difference: None,
            candidate: None,
            percent: None,
            revoked: 0,
        }
    }
}

fn refused(change: AuditRecord, why: String) -> AuditRecord {
    AuditRecord { result: Verdict::Refused, why: Some(why), ..change }
}
