//! Writes into the audit log what changes the gateway, with what is in force when it does.

use super::in_force::InForce;
use crate::audit::{By, Change, Difference, Verdict, What};
use crate::clock;
use crate::telemetry::AuditLog;
use std::sync::Arc;

/// Whoever changes the gateway has one.
#[derive(Clone)]
pub(super) struct Auditor {
    log: AuditLog,
    in_force: Arc<InForce>,
}

impl Auditor {
    pub(super) fn new(log: AuditLog, in_force: Arc<InForce>) -> Self {
        Self { log, in_force }
    }

    /// The gateway has come up.
    pub(super) fn started(&self) {
        self.write(What::Start, By::Gateway, None, None, Ok((None, 0)));
    }

    /// Something that leaves the configuration as it is was done to `subject`, or was refused with this reason.
    pub(super) fn noted(&self, what: What, by: By, subject: String, result: Result<(), String>) {
        self.resetting(what, by, subject, result.map(|()| 0));
    }

    /// The same, with the number of live flows that were reset for it.
    pub(super) fn resetting(&self, what: What, by: By, subject: String, result: Result<u64, String>) {
        let before = Some(Arc::clone(&self.in_force.current().version));
        self.write(what, by, Some(subject), before, result.map(|revoked| (None, revoked)));
    }

    /// Another configuration came into force in place of `before`, with the number of live flows that were reset for it;
    /// or it was refused with this reason.
    pub(super) fn exchanged(
        &self,
        what: What,
        by: By,
        before: &Arc<str>,
        result: Result<(Difference, u64), String>,
    ) {
        let result = result.map(|(difference, revoked)| (Some(difference), revoked));
        self.write(what, by, None, Some(Arc::clone(before)), result);
    }

    /// Opens the log's file anew.
    pub(super) fn reopen(&self) {
        self.log.reopen();
    }

    /// Waits until what was told is written; whether it was.
    pub(super) fn flush(&self) -> bool {
        self.log.flush()
    }

    fn write(
        &self,
        change: What,
        by: By,
        subject: Option<String>,
        config_before: Option<Arc<str>>,
        result: Result<(Option<Difference>, u64), String>,
    ) {
        let (result, why, (difference, revoked)) = match result {
            Ok(done) => (Verdict::Done, None, done),
            Err(why) => (Verdict::Refused, Some(why), (None, 0)),
        };
        let config_after = Arc::clone(&self.in_force.current().version);
        let time = clock::timestamp();
        self.log.record(Change {
            time,
            change,
            by,
            subject,
            result,
            why,
            config_before,
            config_after,
            difference,
            revoked,
        });
    }
}
