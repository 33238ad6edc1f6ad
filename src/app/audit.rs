//! Writes into the audit log what changes the gateway, with what is in force when it does.

use super::in_force::InForce;
use crate::audit::{By, Change, Difference, Verdict, What};
use crate::clock;
use crate::telemetry::AuditLog;
use std::sync::Arc;

/// What a candidate is from now on.
pub(super) struct Enforced {
    /// The hash that its configuration will have.
    pub(super) version: Arc<str>,
    /// The share of clients that it is enforced for.
    pub(super) percent: u8,
    /// Live flows that were reset for it.
    pub(super) revoked: u64,
}

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
        let fallback = self.in_force.fallback();
        let what = if fallback.is_some() { What::StartFallback } else { What::Start };
        let subject = fallback.map(|fallback| fallback.why.to_string());
        self.log.record(Change { subject, config_before: None, ..self.change(what, By::Gateway) });
    }

    /// Something that leaves the configuration as it is was done to `subject`, or was refused with this reason.
    pub(super) fn noted(&self, what: What, by: By, subject: String, result: Result<(), String>) {
        let change = Change { subject: Some(subject), ..self.change(what, by) };
        self.log.record(match result {
            Ok(()) => change,
            Err(why) => refused(change, why),
        });
    }

    /// Something was done to the candidate that was loaded from `subject`.
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

    /// Another configuration came into force in place of `before`, with the number of live flows that were reset for it;
    /// or it was refused with this reason.
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

    /// Opens the log's file anew.
    pub(super) fn reopen(&self) {
        self.log.reopen();
    }

    /// Waits until what was told is written; whether it was.
    pub(super) fn flush(&self) -> bool {
        self.log.flush()
    }

    /// Something that was done now, and changed nothing else.
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
