//! Audit records of changes to the gateway, each with the configuration in force at the time.

use super::in_force::InForce;
use crate::audit::{By, Change, Difference, Verdict, What};
use crate::clock;
use crate::telemetry::AuditLog;
use std::sync::Arc;

/// New state of a candidate, for its audit record.
pub(super) struct Enforced {
    /// Hash that its configuration will have.
    pub(super) version: Arc<str>,
    /// Percentage of clients that it is enforced for.
    pub(super) percent: u8,
    /// Live flows reset by the change.
    pub(super) revoked: u64,
}

/// Handle for writing audit records.
#[derive(Clone)]
pub(super) struct Auditor {
    log: AuditLog,
    in_force: Arc<InForce>,
}

impl Auditor {
    pub(super) fn new(log: AuditLog, in_force: Arc<InForce>) -> Self {
        Self { log, in_force }
    }

    /// Records the start of the gateway.
    pub(super) fn started(&self) {
        let fallback = self.in_force.fallback();
        let what = if fallback.is_some() { What::StartFallback } else { What::Start };
        let subject = fallback.map(|fallback| fallback.why.to_string());
        self.log.record(Change { subject, config_before: None, ..self.change(what, By::Gateway) });
    }

    /// Records an action on `subject` that leaves the configuration unchanged, or the reason why it was refused.
    pub(super) fn noted(&self, what: What, by: By, subject: String, result: Result<(), String>) {
        let change = Change { subject: Some(subject), ..self.change(what, by) };
        self.log.record(match result {
            Ok(()) => change,
            Err(why) => refused(change, why),
        });
    }

    /// Records a change of the candidate that was loaded from `subject`.
    pub(super) fn candidate(
        &self,
        what: What,
        by: By,
        subject: String,
        enforced: Enforced,
        difference: Option<Difference>,
    ) {
        let Enforced { version, percent, revoked } = enforced;
        let (subject, candidate, percent) = (Some(subject), Some(version), Some(percent));
        let change = self.change(what, by);
        self.log.record(Change { subject, difference, candidate, percent, revoked, ..change });
    }

    /// Records the replacement of the configuration `before`, with the number of live flows reset by it, or the reason
    /// why it was refused.
    pub(super) fn exchanged(
        &self,
        what: What,
        by: By,
        before: &Arc<str>,
        result: Result<(Difference, u64), String>,
    ) {
        let change = Change { config_before: Some(Arc::clone(before)), ..self.change(what, by) };
        self.log.record(match result {
            Ok((difference, revoked)) => Change { difference: Some(difference), revoked, ..change },
            Err(why) => refused(change, why),
        });
    }

    /// Reopens the log file.
    pub(super) fn reopen(&self) {
        self.log.reopen();
    }

    /// Waits until all records are written. Returns false on failure.
    pub(super) fn flush(&self) -> bool {
        self.log.flush()
    }

    /// Template of a record: made now, with nothing changed.
    fn change(&self, change: What, by: By) -> Change {
        let version = &self.in_force.current().version;
        Change {
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

fn refused(change: Change, why: String) -> Change {
    Change { result: Verdict::Refused, why: Some(why), ..change }
}
